"""The config screen: the table of meanings, and what is under its cursor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.compare import ConfigDiff, compare_sides
from ckptdiff.config.fields import ConfigSide
from ckptdiff.config.fixes import FlagFix
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.text.config import explanation, meaning_text
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.progress import outcome
from ckptdiff.tui.widgets.config_list import ConfigList, config_cells, header_line
from ckptdiff.tui.widgets.painted import Words
from tests.support.tui.handmade import Host, huggingface, megatron, session_of, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp
    from ckptdiff.tui.model.session import Session

pytestmark = pytest.mark.mostly_slow(one_in=8)
BASE = ConfigDiff(
    "RoPE base",
    "conflict",
    "rope_theta",
    500000.0,
    "rotary_base",
    10000,
    "Weights can match exactly while every logit differs.",
    FlagFix((("--rotary-base", "500000"),)),
)
LAYERS = ConfigDiff("Layers", "same", "num_hidden_layers", 32, "num_layers", 32)
NORM = ConfigDiff(
    "Norm", "implied", None, "RMSNorm", "normalization", "RMSNorm",
    note="A follows from: every llama model",
)  # fmt: skip
WINDOW = ConfigDiff(
    "Sliding window", "unknown", "sliding_window", 128, None, None, note="B does not say"
)


@pytest.fixture
def session() -> Session:
    session = session_of(huggingface(), megatron(), compare=False)
    session.config = (LAYERS, NORM, BASE, WINDOW)
    return session


def drawn(rows: ConfigList) -> list[str]:
    height = rows.content_size.height
    return [text for y in range(height) if (text := rows.render_line(y).text.rstrip())]


def words(app: Host, selector: str, width: int = 76) -> list[str]:
    return plain(app.screen.query_one(selector, Words).lines(width, 8))


async def opened(app: Host, pilot: Pilot[Any]) -> ConfigList:
    await settle(app, pilot)
    return app.screen.query_one(ConfigList)


def config_line(row: ConfigDiff, width: int, meanings: int, *, ascii_only: bool) -> str:
    return "".join(config_cells(row, width, meanings, ascii_only=ascii_only))


def test_a_line_is_its_meaning_and_the_value_of_each_side() -> None:
    assert header_line(76, 10).rstrip() == " St Meaning     A                             B"
    assert config_line(BASE, 76, 10, ascii_only=False).rstrip() == (
        " !  RoPE base   500,000                       10,000"
    )


def test_a_wide_line_has_the_fields_behind_the_values() -> None:
    assert config_line(BASE, 118, 10, ascii_only=False).split() == [
        "!", "RoPE", "base", "500,000", "10,000", "rope_theta", "rotary_base",
    ]  # fmt: skip
    assert header_line(118, 10).split()[-3:] == ["field", "of", "B"]


@pytest.mark.parametrize("width", [76, 77, 118, 119, 198])
def test_the_longest_field_keeps_off_the_border(width: int) -> None:
    long = replace(BASE, name_b="x" * 200, b="y" * 200)
    line = config_line(long, width, 10, ascii_only=False)
    assert len(line) == width
    assert line.endswith(" ")


def test_what_no_field_says_stands_in_brackets() -> None:
    assert " (RMSNorm) " in config_line(NORM, 76, 10, ascii_only=False)


@pytest.mark.parametrize("width", [56, 76, 118])
def test_a_line_fills_its_width_however_long_its_words_are(width: int) -> None:
    long = replace(BASE, meaning="m" * 60, name_a="a" * 60, a="v" * 300, name_b="b\x1b[2J" * 9)
    for row in (BASE, NORM, WINDOW, long):
        line = config_line(row, width, 30, ascii_only=True)
        assert len(line) == width
        assert line.isprintable()


async def test_conflicts_come_first_and_the_cursor_explains_them(session: Session) -> None:
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        assert [row.meaning for row in rows.rows] == [
            "RoPE base", "Sliding window", "Layers", "Norm",
        ]  # fmt: skip
        assert words(app, "#meaning") == [
            "! RoPE base: Weights can match exactly while every logit differs.",
            "Mend it with --rotary-base 500000",
            "If B is right, change rope_theta in A.",
            "A rope_theta: 500000 | B rotary_base: 10000",
        ]
        assert "1 conflict, 1 unknown, 1 implied, 1 same" in words(app, "#config-title")[0]
        await pilot.press("j")
        assert words(app, "#meaning") == [
            "Sliding window: Not known: B does not say.",
            "A sliding_window: 128",
        ]
        assert "( ) in no file" in words(app, "#config-legend")[0]
        await pilot.press("G")
        assert "every llama model" in words(app, "#meaning")[0]
        assert str(rows.border_title) == "A config.json  |  B args"


async def test_d_shows_conflicts_only_and_every_line_again(session: Session) -> None:
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("d")
        assert [row.meaning for row in rows.rows] == ["RoPE base"]
        await pilot.press("d")
        assert len(rows.rows) == 4


async def test_no_conflict_is_said_in_words(session: Session) -> None:
    session.config = (LAYERS, NORM)
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("d")
        assert drawn(rows) == [" No conflict in 2 lines. d shows all."]
        await pilot.press("y", "enter")
        assert app.copied == []


async def test_sides_without_a_config_are_named(session: Session) -> None:
    session.config = ()
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        assert drawn(rows) == [" No config.json or args in A and B: nothing to compare."]


async def test_y_copies_the_flag_of_a_conflict_and_else_the_value(session: Session) -> None:
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("y")
        await pilot.press("j", "j", "y")
        assert app.copied == ["add to Megatron-LM's arguments: --rotary-base 500000", "32"]
        await pilot.press("g", "Y")
        assert app.copied[-1] == (
            "RoPE base: rope_theta 500000 in A, rotary_base 10000 in B; fix: --rotary-base 500000"
        )


def test_fields_that_put_one_meaning_in_two_ways_show_it_on_both_sides() -> None:
    row = ConfigDiff(
        "Tied embeddings", "same", "tie_word_embeddings", True,
        "untie_embeddings_and_output_weights", False, means_a=True, means_b=True,
    )  # fmt: skip
    assert config_line(row, 160, 20, ascii_only=True).split() == [
        "=", "Tied", "embeddings", "yes", "yes",
        "tie_word_embeddings:", "true", "untie_embeddings_and_output_weights:", "false",
    ]  # fmt: skip
    assert config_line(row, 76, 20, ascii_only=True).split()[3:] == ["yes", "yes"]
    assert plain(explanation(row, 100))[-1] == (
        "A tie_word_embeddings: true | B untie_embeddings_and_output_weights: false"
    )


def test_opposite_values_of_opposite_fields_are_told_by_what_they_mean() -> None:
    fields = {"tie_word_embeddings": True, "vocab_size": 64}
    args = {"untie_embeddings_and_output_weights": True}
    lines = compare_sides(
        ConfigSide(kind="hf", fields=fields, family="llama", tensors=frozenset()),
        ConfigSide(kind="megatron", fields=args, family="llama", tensors=frozenset()),
    )
    row = next(row for row in lines if row.meaning == "Tied embeddings")
    assert (row.status, row.a, row.b) == ("conflict", True, True)
    assert [meaning_text(row, side) for side in ("a", "b")] == ["yes", "no"]


@pytest.mark.slow
async def test_enter_says_the_whole_of_a_line(session: Session) -> None:
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await opened(app, pilot)
        await pilot.press("enter")
        (toast,) = app._notifications
        assert toast.title == "RoPE base"
        assert toast.message.splitlines() == [
            "A: rope_theta 500000",
            "B: rotary_base 10000",
            "Weights can match exactly while every logit differs.",
            "Mend it with --rotary-base 500000",
        ]


async def test_ascii_draws_nothing_else(session: Session) -> None:
    session.ascii_only = True
    app = Host(ConfigScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        assert all(text.isascii() for text in drawn(rows))
        assert rows.styles.border.top[0] == "ascii"


async def test_2_opens_the_config_of_a_pair_and_1_goes_back(
    make_app: Callable[..., CkptDiffApp],
) -> None:
    from tests.support.tui.fakes import A, B

    app = make_app(A, B)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("2")
        await settle(app, pilot)
        assert isinstance(app.screen, ConfigScreen)
        await pilot.press("1")
        await settle(app, pilot)
        assert not isinstance(app.screen, ConfigScreen)


async def test_2_says_why_one_checkpoint_has_no_config_to_compare(
    make_app: Callable[..., CkptDiffApp],
) -> None:
    from tests.support.tui.fakes import A

    app = make_app(A)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("2")
        messages = [toast.message for toast in app._notifications]
        assert messages == ["Config: this is one checkpoint. Open two to compare them."]


async def test_conflicts_are_counted_under_the_tensors(
    make_app: Callable[..., CkptDiffApp],
) -> None:
    from ckptdiff.tui.widgets.progress_line import CountsLine
    from tests.support.tui.fakes import A, B
    from tests.support.tui.harness import lines, tensors

    app = make_app(A, B)
    async with app.run_test(size=(100, 24)) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        session.config = (BASE,)
        assert "! 1 config conflict: key 2" in lines(tensors(app).query_one(CountsLine))[0]
        assert "The configs conflict: key 2 shows where." in outcome(session)[1]
