"""The heat map's text and its cursor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from textual.app import App

from ckptdiff.arch.llama import LLAMA
from ckptdiff.assembly.shard_map import Boundaries, boundaries
from ckptdiff.config.model import ModelConfig
from ckptdiff.kernels.stats import NO_NUMBER, level_value
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.heat_map import Heat, HeatMap, heat_lines, resample, shade
from tests.support.tui.handmade import EMBED, O_PROJ, K, Q, megatron

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled

pytestmark = pytest.mark.mostly_slow(one_in=8)

# Levels are quarters of an octave: four steps down from that of 1.0 is that of 0.5.
ONE, HALF, FIFTH = 193, 189, 183


def test_the_levels_used_here_are_what_they_are_called() -> None:
    assert [level_value(level) for level in (ONE, HALF, FIFTH)] == [1.0, 0.5, 0.1875]


def test_cells_have_the_maximum_of_their_blocks() -> None:
    levels = bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])  # 3 rows of 4 blocks
    cells = resample(Heat((3, 4), levels, (3, 4), 1.0), down=2, across=2)
    assert cells.values == ((2, 4), (10, 12))
    assert cells.rows == (range(1), range(1, 3))
    assert cells.columns == (range(2), range(2, 4))


def test_the_last_block_may_be_cut_off() -> None:
    # 130 rows in blocks of ceil(130/64) = 3: 44 blocks, the last of them one row.
    heat = Heat((130, 1), bytes(44), (44, 1), 0.0)
    cells = resample(heat, down=100, across=100)
    assert len(cells.rows) == 44
    assert cells.rows[-1] == range(129, 130)


@pytest.mark.parametrize(
    ("level", "expected"), [(0, 0), (1, 1), (FIFTH, 1), (HALF, 2), (HALF + 1, 3), (ONE, 4)]
)
def test_a_shade_is_a_quarter_of_the_largest_and_nothing_is_only_nothing(
    level: int, expected: int
) -> None:
    assert shade(level, level_value(ONE)) == expected


MAP = Heat(
    (2, 4),
    bytes([0, FIFTH, HALF, ONE, ONE, HALF, FIFTH, 0]),
    (2, 4),
    1.0,
    (Boundaries("rank", 0, (1,)), Boundaries("head", 1, (2,))),
)


def test_the_map_as_text() -> None:
    drawn = plain(heat_lines(MAP, 44, 9, cursor=(1, 1), ascii_only=False))
    assert drawn == [
        "     ░░░░▒▒▒▒████",
        "═████▒▒▒▒░░░░",
        "         │",
        "0 ░ 2.5e-01 ▒ 5.0e-01 ▓ 7.5e-01 █ 1.0e+00",
        "═ 2 ranks of 1 rows  │ 2 heads of 2 columns",
        "rows 1:2, columns 1:2  max|d| ≥ 5.0e-01",
    ]


def test_the_map_in_ascii() -> None:
    drawn = plain(heat_lines(MAP, 44, 9, cursor=None, ascii_only=True))
    assert drawn[:4] == [
        " ....::::----####",
        "@####----::::....",
        "         ^",
        ". 0 : 2.5e-01 - 5.0e-01 = 7.5e-01 # 1.0e+00",
    ]
    assert all(text.isascii() for text in drawn)


def test_a_number_on_one_side_alone_has_its_own_mark() -> None:
    heat = Heat((1, 2), bytes([NO_NUMBER, ONE]), (1, 2), 1.0)
    drawn = plain(heat_lines(heat, 70, 8, cursor=(0, 0)))
    assert drawn[0] == " XXXX████"
    assert drawn[-2].endswith("X NaN or Inf on one side")
    assert drawn[-1] == "rows 0:1, columns 0:1  NaN or Inf on one side"


def test_below_a_narrow_map_the_words_are_fewer_but_none_is_cut_off() -> None:
    drawn = plain(heat_lines(MAP, 35, 9, cursor=(1, 1)))
    assert drawn[-3:] == [
        "0 ░ 2.5e-01 ▒ 5.0e-01 ▓ 7.5e-01 █",
        "═ 2 ranks  │ 2 heads",
        "1:2, 1:2  max|d| ≥ 5.0e-01",
    ]


def test_ticks_that_would_mark_every_line_are_left_to_the_legend() -> None:
    heat = Heat(
        (64, 64),
        bytes([ONE] * 64 * 64),
        (64, 64),
        1.0,
        (Boundaries("head", 0, tuple(range(4, 64, 4))),),
    )
    drawn = plain(heat_lines(heat, 70, 8, cursor=None))
    assert all(text.startswith(" █") for text in drawn[:4])
    assert drawn[-1] == "16 heads of 4 rows"


# ── boundaries ───────────────────────────────────────────────────────────────────────────────────


def with_heads() -> Assembled:
    side = megatron()
    config = ModelConfig(
        num_layers=1,
        hidden_size=32,
        ffn_hidden_size=64,
        num_attention_heads=8,
        num_query_groups=2,
        kv_channels=8,
        tied_embeddings=False,
    )
    return cast(
        "Assembled",
        SimpleNamespace(architecture=LLAMA, config=config, tensors=side.tensors),
    )


def of(name: str) -> list[Boundaries]:
    side = with_heads()
    return boundaries(side, side.tensors[name])


def test_heads_are_rows_of_q_and_k_and_columns_of_o() -> None:
    assert of(Q) == [
        Boundaries("rank", 0, (32,)),
        Boundaries("head", 0, (8, 16, 24, 32, 40, 48, 56)),
    ]
    assert of(K) == [Boundaries("rank", 0, (8,)), Boundaries("head", 0, (8,))]
    assert of(O_PROJ) == [
        Boundaries("rank", 1, (32,)),
        Boundaries("head", 1, (8, 16, 24, 32, 40, 48, 56)),
    ]


def test_an_embedding_has_ranks_but_no_heads() -> None:
    assert of(EMBED) == [Boundaries("rank", 0, (48,))]


# ── the widget ───────────────────────────────────────────────────────────────────────────────────


class Shown(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Any] = []

    def compose(self) -> Any:
        yield HeatMap()

    def on_heat_map_opened(self, message: HeatMap.Opened) -> None:
        self.opened.append((message.rows, message.columns))


async def test_the_cursor_walks_the_cells_and_enter_opens_one() -> None:
    app = Shown()
    async with app.run_test(size=(44, 10)) as pilot:
        heat = app.query_one(HeatMap)
        heat.show(Heat((4, 4), bytes([ONE] * 16), (4, 4), 1.0), at=(1, 0))
        heat.focus()
        await pilot.press("down", "right", "l", "k", "enter")
        assert heat.element == (1, 2)
        assert app.opened == [(range(1, 2), range(2, 3))]
        await pilot.press("up", "up", "up", "left", "h", "h", "h")
        assert heat.element == (0, 0)


async def test_the_cursor_is_seen_without_colour() -> None:
    app = Shown()
    async with app.run_test(size=(44, 10)) as pilot:
        heat = app.query_one(HeatMap)
        heat.show(Heat((4, 4), bytes([ONE] * 16), (4, 4), 1.0), at=(1, 2))
        await pilot.pause()
        reversed_cells = [
            (y, segment.text)
            for y, strip in enumerate(app.screen._compositor.render_strips())
            for segment in strip
            if segment.style is not None and segment.style.reverse
        ]
        assert reversed_cells == [(1, "████")]


async def test_a_map_without_blocks_says_why() -> None:
    app = Shown()
    async with app.run_test(size=(44, 10)) as pilot:
        heat = app.query_one(HeatMap)
        heat.show(None, nothing="Not compared yet.")
        heat.focus()
        await pilot.press("down", "enter")
        assert plain(heat.lines(40, 5)) == ["Not compared yet."]
        assert app.opened == []
