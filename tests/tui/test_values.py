"""The values screen: what it reads, where its cursor goes, what it says of one element."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.comparison.inspect import Neighbourhood
from ckptdiff.errors import CorruptFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.kernels.stats import Window
from ckptdiff.tui.model.pool import Pool
from ckptdiff.tui.screens.values import ValuesScreen
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.values import Values, bits_text, cell_width, element_text, grid_lines
from tests.support.tui.handmade import (
    CHANGED,
    EQUAL,
    LONE,
    PEAK,
    TALL,
    Host,
    session_of,
    settle,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.model.session import Session


pytestmark = pytest.mark.mostly_slow(one_in=12)


def found() -> Neighbourhood:
    """Two rows and columns from [4, 7] of bfloat16 values."""
    a = Window(((1.0, 2.0), (0.5, math.nan)), ((0x3F80, 0x4000), (0x3F00, 0x7FC0)))
    b = Window(((1.0, 1.5), (0.5, None)), ((0x3F80, 0x3FC0), (0x3F00, None)))
    return Neighbourhood(
        range(4, 6), range(7, 9), a, b, ((0.0, 0.5), (0.0, None)), ((0, 64), (0, None))
    )


def drawn(**changes: Any) -> list[str]:
    options: dict[str, Any] = {"dtypes": ("BF16", "BF16"), "cursor": (4, 8), "bits": False}
    return plain(grid_lines(found(), range(4, 6), range(7, 9), **(options | changes)))


def test_both_sides_their_difference_and_steps_lie_below_each_other() -> None:
    assert drawn() == [
        "                     col 7       col 8",
        "row 4       A    1.000e+00   2.000e+00",
        "            B    1.000e+00   1.500e+00",
        "          A-B            0     5.0e-01",
        "          ulp            0          64",
        "row 5       A    5.000e-01         nan",
        "            B    5.000e-01           -",
        "          A-B            0           -",
        "          ulp            0           -",
    ]


def test_bits_are_those_in_the_files() -> None:
    assert drawn(bits=True)[1:3] == [
        "row 4       A      0x3f80     0x4000",
        "            B      0x3f80     0x3fc0",
    ]
    assert drawn(bits=True, dtypes=(None, "BF16"))[1] == "row 4       B   0x3f80  0x3fc0"


def test_beside_bits_no_difference_reaches_into_the_column_before() -> None:
    near = found()
    wide = replace(near, differences=((-0.11, -1.1e-4), (-0.11, None)), ulps=((31_400,) * 2,) * 2)
    options: dict[str, Any] = {"dtypes": ("BF16", "BF16"), "cursor": (4, 8), "bits": True}
    lines = plain(grid_lines(wide, range(4, 6), range(7, 9), **options))
    assert lines[3] == "          A-B    -1.1e-01   -1.1e-04"
    assert lines[4] == "          ulp      31,400     31,400"
    assert {len(line) for line in lines} == {len(lines[0])}


def test_one_side_alone_takes_one_line_a_row() -> None:
    assert drawn(dtypes=(None, "BF16"))[1:] == [
        "row 4       B    1.000e+00   1.500e+00",
        "row 5       B    5.000e-01           -",
    ]


def test_what_is_not_read_yet_is_left_blank() -> None:
    lines = plain(
        grid_lines(None, range(1), range(1), dtypes=("F32", None), cursor=(0, 0), bits=False)
    )
    assert lines[1] == "row 0       A"


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, "BF16", "1.000e-01"),
        (1 / 3, "BF16", "3.333e-01"),
        (1 / 3, "F32", "3.333333e-01"),
        (-1.234e-20, "F32", "-1.234000e-20"),
        (-1e-300 / 3, "F64", "-3.333333333e-301"),
        (0.0, "F32", "0"),
        (7.0, "I64", "7"),
        (1.0, "BOOL", "1"),
        (math.inf, "F16", "inf"),
        (None, "F16", "-"),
    ],
)
def test_values_have_the_digits_of_their_dtype(value: float, dtype: str, text: str) -> None:
    assert element_text(value, dtype) == text


def test_the_widest_value_of_a_dtype_leaves_a_blank_before_it() -> None:
    for value, dtype in ((-1e-300 / 3, "F64"), (-1e-45, "F32"), (-6e-8, "F16"), (-1e38, "BF16")):
        assert len(element_text(value, dtype)) < cell_width([dtype], bits=False)


def test_bits_have_the_width_of_their_dtype() -> None:
    assert bits_text(1, "F32") == "0x00000001"
    assert bits_text(1, "F8_E4M3") == "0x01"


# ── the screen ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_of(*written(tmp_path))


async def opened(app: Host, pilot: Pilot[Any]) -> Values:
    await settle(app, pilot)
    return app.screen.query_one(Values)


def says(values: Values) -> list[str]:
    return plain(values.lines(*values.content_size))


async def test_it_opens_at_the_largest_difference_and_names_its_bytes(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        assert values.cursor == PEAK
        # 47 - 4 = 43; both lie between 32 and 64, where a float32 step is 2**-18.
        # The bits of both would reach beyond the 80th column.
        state = "[5, 7]  A 4.700000e+01  B 4.300000e+01  A-B 4.0e+00  ulp 1,048,576"
        assert state in says(values)
        assert says(values)[-2:] == [
            "A  layers.0.b.weight.0  layers.0.b.weight[5, 7]  byte 204",  # 16 + 47 * 4
            "B  layers.0.b.weight.1  layers.0.b.weight[5, 3]  byte 108",  # 16 + 23 * 4
        ]


async def test_the_cursor_walks_and_stays_inside(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        await pilot.press("up", "k", "left", "h")
        assert values.cursor == (3, 5)
        await pilot.press("j", "down", "l", "right", "right", "down", "down")
        assert values.cursor == PEAK
        await pilot.press("pageup")
        assert values.cursor == (2, 7)
        await pilot.press("ctrl+d")
        assert values.cursor == PEAK


async def test_g_goes_to_the_largest_difference(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        values.go_to(0, 0)
        await pilot.press("g")
        assert values.cursor == PEAK


async def test_g_is_greyed_where_nothing_differs(session: Session) -> None:
    app = Host(ValuesScreen(session, EQUAL))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        assert values.check_action("maximum", ()) is None
        assert values.why_not("maximum") == "No difference is known here."
        await pilot.press("g")
        assert values.cursor == (0, 0)


async def test_an_element_can_be_asked_for_by_its_index(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        values = await opened(app, pilot)
        await pilot.press("slash", *"2,3", "enter")
        await pilot.pause()
        assert values.cursor == (2, 3)
        assert app.screen.focused is values
        await pilot.press("slash", *"6 0", "enter")
        assert values.cursor == (2, 3)
        assert "Type 2 numbers below [6, 8]." in [n.message for n in app._notifications]
        await pilot.press("escape")
        await pilot.pause()
        assert isinstance(app.screen, ValuesScreen)
        assert app.screen.focused is values
        await pilot.press("down")
        assert values.cursor == (3, 3)


async def test_b_shows_raw_bits(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        await pilot.press("b")
        await settle(app, pilot)
        assert any(line.startswith("row 5") and "0x423c0000" in line for line in says(values))
        await pilot.press("b")
        assert not any(line.startswith("row 5") and "0x" in line for line in says(values))


async def test_y_copies_where_the_element_lies(session: Session) -> None:
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("y")
        assert app.copied == [
            "layers.0.b.weight.0  layers.0.b.weight[5, 7]  byte 204\n"
            "layers.0.b.weight.1  layers.0.b.weight[5, 3]  byte 108"
        ]


@pytest.mark.slow
async def test_rows_that_one_side_lacks_have_no_values_there(session: Session) -> None:
    app = Host(ValuesScreen(session, TALL))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        values.go_to(5, 0)
        await settle(app, pilot)
        assert values.cursor == (5, 0)
        assert "B  B has no such element" in says(values)


async def test_a_tensor_of_one_side_is_read_alone(session: Session) -> None:
    app = Host(ValuesScreen(session, LONE))
    async with app.run_test(size=(80, 24)) as pilot:
        values = await opened(app, pilot)
        assert "row 1       A" in "\n".join(says(values))
        assert "B  not in B" in says(values)


async def test_it_says_at_once_that_it_reads_and_then_what_went_wrong(tmp_path: Path) -> None:
    class Waiting(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return future

    future: Future[Any] = Future()
    session = session_of(*written(tmp_path))
    session._pool = Pool(Waiting)
    app = Host(ValuesScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        values = app.screen.query_one(Values)
        assert "reading A and B …" in says(values)
        future.set_exception(CorruptFile("x.bin: it ends too early"))
        while values.reading:
            await pilot.pause()
        assert "x.bin: it ends too early" in says(values)
