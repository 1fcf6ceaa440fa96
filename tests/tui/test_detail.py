"""The detail screen and the detail pane, key by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from textual.app import App

from ckptdiff.results import Numbers, TensorDiff
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.screens.values import ValuesScreen
from ckptdiff.tui.text.figures import meaning, norms_agree, number_items, remarks
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.detail_pane import DetailPane
from ckptdiff.tui.widgets.heat_map import HeatMap
from ckptdiff.tui.widgets.histogram import Histogram
from ckptdiff.tui.widgets.painted import Painted
from ckptdiff.tui.widgets.shard_map import ShardMap
from ckptdiff.tui.widgets.values import Values
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


pytestmark = pytest.mark.mostly_slow(one_in=10)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_of(*written(tmp_path))


def text_of(app: App[Any], selector: str = "*") -> str:
    """Return what every painted widget in sight says."""
    lines: list[str] = []
    for widget in app.screen.query(selector).results(Painted):
        if widget.is_on_screen or widget.region.height:
            lines += plain(widget.lines(*widget.content_size))
    return "\n".join(lines)


async def opened(app: Host, pilot: Pilot[Any]) -> DetailScreen:
    await settle(app, pilot)
    assert isinstance(app.screen, DetailScreen)
    return app.screen


async def until_read(session: Session, name: str, pilot: Pilot[Any]) -> None:
    """Wait until the values of a tensor are read and its figures are shown."""
    while name not in session.glances:
        await pilot.pause(0.02)
    await pilot.pause()


async def test_a_difference_is_shown_with_its_place_its_picture_and_its_figures(
    session: Session,
) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        title = plain(screen.query_one("#detail-title", Painted).lines(78, 1))[0]
        assert title.startswith(CHANGED)
        assert title.endswith("! differ    2/4")
        shown = text_of(app)
        assert "rank 0 |BBBBBBBB| columns 0:4" in shown
        assert "max|d| 4.0e+00 at [5, 7]" in shown
        assert "2 of 48 differ" in shown
        assert screen.query_one(HeatMap).element == PEAK
        assert screen.focused is screen.query_one(HeatMap)


async def test_equal_tensors_need_no_picture_but_every_rank(session: Session) -> None:
    app = Host(DetailScreen(session, EQUAL))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        assert not screen.query_one(Histogram).region.height
        assert "Every byte of both sides was compared, and all are equal." in text_of(app)
        assert "rank 1  layers.0.a.weight.1  @16" in text_of(app, "ShardMap")


async def test_n_goes_round_the_differences(session: Session) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        seen = []
        for key in "nnnNN":
            await pilot.press(key)
            seen.append(screen.tensor)
        assert seen == [TALL, LONE, CHANGED, LONE, TALL]


async def test_a_shape_says_both_shapes_and_which_rows_are_missing(session: Session) -> None:
    app = Host(DetailScreen(session, TALL))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        shown = text_of(app)
        assert "The shapes differ, so no values were compared: A is 6x8, B is 4x8." in shown
        assert "A has 2 rows more" in shown


async def test_a_tensor_of_one_side_can_be_measured_alone(session: Session) -> None:
    app = Host(DetailScreen(session, LONE))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        assert "Only A has this tensor." in text_of(app)
        assert "B  not in B" in text_of(app)
        await pilot.press("i")
        await until_read(session, LONE, pilot)
        assert "48 values" in text_of(app)
        assert "max 4.7e+01" in text_of(app)
        assert screen.query_one(Histogram).region.height


async def test_browsing_shows_places_and_statistics_but_no_verdict(tmp_path: Path) -> None:
    session = session_of(written(tmp_path)[1])
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        assert "differ" not in text_of(app)
        await pilot.press("i")
        await until_read(session, CHANGED, pilot)
        assert "48 values" in text_of(app)
        await pilot.press("n")
        assert screen.tensor == TALL
        assert "48 values" not in text_of(app)


async def test_a_result_that_comes_in_is_shown(tmp_path: Path) -> None:
    a, b = written(tmp_path)
    session, done = session_of(a, b, compare=False), session_of(a, b)
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        assert "Not compared yet." in text_of(app)
        session.add(done.results[CHANGED])
        await pilot.pause(0.4)
        assert "max|d| 4.0e+00" in text_of(app)


async def test_v_shows_the_values_at_the_largest_difference(session: Session) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("v")
        await settle(app, pilot)
        assert isinstance(app.screen, ValuesScreen)
        assert app.screen.query_one(Values).cursor == PEAK
        await pilot.press("q")
        assert isinstance(app.screen, DetailScreen)


async def test_enter_on_the_map_shows_the_largest_difference_of_the_cell(session: Session) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("up", "up", "up", "up", "up", "left", "left", "left", "left", "enter")
        await settle(app, pilot)
        # Two or three rows share a line of the map here, so the cell is not one element.
        values = app.screen.query_one(Values)
        assert values.cursor[1] == 3
        assert values.cursor != PEAK


async def test_m_gives_the_map_of_places_all_the_room(session: Session) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        screen.query_one("#where").focus()
        await pilot.press("m")
        await pilot.pause()
        assert screen.query_one(ShardMap).map_style.whole
        assert screen.query_one("#where").region.height > 20
        await pilot.press("escape")
        await pilot.pause()
        assert not screen.query_one(ShardMap).map_style.whole
        assert screen.maximized is None
        for pane in ("HeatMap", "Histogram", "#verdict"):
            screen.query_one(pane).focus()
            await pilot.press("m")
            await pilot.pause()
            assert screen.query_one(pane).region.size == (80, 23)
            await pilot.press("m")
            await pilot.pause()


async def test_the_map_of_many_ranks_scrolls_by_keys(session: Session) -> None:
    app = Host(DetailScreen(session, EQUAL))
    async with app.run_test(size=(60, 16)) as pilot:
        screen = await opened(app, pilot)
        where = screen.query_one("#where")
        assert screen.focused is where
        await pilot.press("j", "j")
        await pilot.pause(0.3)
        assert where.scroll_offset.y == 2
        await pilot.press("k", "pagedown")
        await pilot.pause(0.3)
        assert where.scroll_offset.y == where.max_scroll_y
        await pilot.press("ctrl+u", "pageup")
        await pilot.pause(0.3)
        assert where.scroll_offset.y == 0


async def test_names_and_python_are_copied(session: Session) -> None:
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("y", "Y")
        name, source = app.copied
        assert name == CHANGED
        scope: dict[str, Any] = {}
        exec(source, scope)
        assert np.argwhere(scope["a"] != scope["b"]).tolist() == [[2, 3], [5, 7]]


async def test_greyed_keys_say_why(tmp_path: Path) -> None:
    session = session_of(*written(tmp_path), compare=False)
    screen = DetailScreen(session, EQUAL)
    app = Host(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        assert screen.why_not("difference") == "No difference is known yet."
        assert screen.check_action("difference", ()) is None
        assert screen.check_action("statistics", ()) is False
        assert screen.why_not("values") is None


async def test_ascii_mode_has_nothing_but_ascii(tmp_path: Path) -> None:
    session = session_of(*written(tmp_path), ascii_only=True)
    app = Host(DetailScreen(session, CHANGED))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(app, pilot)
        strips = screen._compositor.render_strips()[:-1]  # the last line names keys
        assert "".join(strip.text for strip in strips).isascii()


# ── the pane beside the list ─────────────────────────────────────────────────────────────────────


async def test_the_pane_follows_the_cursor_and_sums_up_a_layer(
    session: Session,
) -> None:
    class Wide(App[None]):
        def compose(self) -> Any:
            yield DetailPane(session)

    app = Wide()
    async with app.run_test(size=(45, 36)) as pilot:
        pane = app.query_one(DetailPane)
        pane.show(session.layers[0])
        await pilot.pause(0.1)
        assert "2 tensors" in text_of(app)
        assert "Worst: b.weight" in text_of(app)
        assert "6x8" in text_of(app)
        pane.show(EQUAL)
        pane.show(CHANGED)
        await pilot.pause(0.1)
        shown = text_of(app)
        assert "! differ" in shown
        assert "rank 1 |BBBBBBBB| columns 4:8" in shown
        assert "ULP distance" in shown
        pane.show(LONE)
        await pilot.pause(0.1)
        assert "Only A has this tensor." in text_of(app)
        assert not app.query_one(HeatMap).region.height


# ── words ────────────────────────────────────────────────────────────────────────────────────────


NUMBERS = Numbers(
    numel=100,
    differing=100,
    max_abs=0.5,
    max_at=(1, 2),
    mean_abs=0.0,
    rms=0.25,
    rel_l2=1.0,
    cosine=0.5,
    max_ulp=1234,
    nan_a=0,
    nan_b=2,
    inf_a=0,
    inf_b=0,
    norm_a=2.0,
    norm_b=2.0,
    histogram=(0, 100),
    grid=b"",
    grid_shape=(0, 0),
)


def test_figures_are_named_and_zero_is_only_zero() -> None:
    assert number_items(NUMBERS) == [
        "max|d| 5.0e-01 at [1, 2]",
        "mean|d| 0",
        "RMS 2.5e-01",
        "rel 1.0e+00",
        "cos 0.500",
        "max ULP 1,234",
        "100 of 100 differ",
        "norm A 2.0000e+00 B 2.0000e+00",
        "NaN A 0 B 2",
        "Inf 0",
    ]
    assert norms_agree(NUMBERS)


@pytest.mark.parametrize(
    ("result", "status", "words"),
    [
        (None, "to_do", "Not compared yet."),
        (None, "comparing", "Being compared now."),
        (TensorDiff("w", "error", error="gone\x1b[2J"), "error", "gone\\x1b[2J"),
        (TensorDiff("w", "close", why="bits"), "close", "0.0 and -0.0"),
        (TensorDiff("w", "close", why="tolerance"), "close", "ulp:4"),
        (
            TensorDiff("w", "close", why="cast", dtype_a="F32", dtype_b="BF16"),
            "close",
            "f32 and bf16",
        ),
        (TensorDiff("w", "only_b"), "only_b", "Only B"),
    ],
)
def test_every_status_says_what_it_means(
    result: TensorDiff | None, status: str, words: str
) -> None:
    assert words in meaning(result, status, "ulp:4")


def test_remarks_are_told_apart() -> None:
    result = TensorDiff("w", "same", note="replica drift in B; 3 padding rows in B: zeros")
    assert remarks(result) == ["replica drift in B", "3 padding rows in B: zeros"]
    assert remarks(TensorDiff("w", "same", padding_rows=3)) == ["3 padding rows are not judged"]
