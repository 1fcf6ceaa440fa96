"""The tensor list: what it shows and what its keys do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import WorkerDied
from ckptdiff.tui.model.inventory import Layer
from ckptdiff.tui.screens.detail import DetailScreen
from tests.support.tui.fakes import A, B, FakeEngine, layer, names, result
from tests.support.tui.harness import (
    lines,
    rows,
    settle,
    static,
    tensors,
    text,
    toasts,
    until_compared,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.tui.app import CkptDiffApp

pytestmark = pytest.mark.mostly_slow(one_in=12)
NARROW, WIDE = (80, 24), (120, 40)
Q0 = layer(0, "self_attn.q_proj.weight")
K1 = layer(1, "self_attn.k_proj.weight")
DOWN2 = layer(2, "mlp.down_proj.weight")


async def test_what_differs_is_unfolded_and_what_is_folded_is_counted(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert rows(app).row == Q0
        assert DOWN2 in tensors(app).session.tensors.rows
        await pilot.press("n", "h")
        shown = lines(rows(app))
        assert shown[0].split() == ["St", "Tensor", "Shape", "max|d|", "cos"]
        assert shown[1].split() == ["=", "model.embed_tokens.weight", "96x64", "0", "1"]
        assert shown[2].split() == ["-", "model.layers.0", "4", "tensors", "2.1e-02", "0.512"]
        assert shown[3].split() == ["!", "self_attn.q_proj.weight", "64x64", "2.1e-02", "0.512"]
        assert shown[7].split()[:8] == ["+", "model.layers.1", "#", "1", "~", "1", "=", "2"]
        assert shown[13].split() == ["<", "lm_head.weight", "96x64", "only", "in", "A"]


async def test_numbers_are_whole_in_a_narrow_terminal_and_names_give_way(app: CkptDiffApp) -> None:
    async with app.run_test(size=(60, 20)) as pilot:
        await settle(app, pilot)
        rows(app).fold_all(unfolded=False)
        await pilot.press("g", "j", "l")  # few enough rows to have no scrollbar
        shown = lines(rows(app))
        assert shown[3].endswith("2.1e-02  0.512")
        assert "post_atten…on_layernorm" in shown[6]


async def test_names_are_there_while_the_other_side_is_read(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.reading = threading.Event()
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        while not tensors(app).session.names:
            await pilot.pause(0.01)
        await pilot.pause(0.3)
        assert "model.embed_tokens.weight" in lines(rows(app))[1]
        assert text(app, "ProgressLine") == "Reading headers of B: 1 of 2 files"
        await pilot.press("j", "j")
        engine.reading.set()
        await settle(app, pilot)
        assert rows(app).cursor == 2
        assert tensors(app).session.phase == "done"


async def test_the_first_files_names_are_there_while_the_others_are_read(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.first, engine.reading_first = engine.tensors[:3], threading.Event()
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        while not tensors(app).session.names:
            await pilot.pause(0.01)
        await pilot.pause(0.3)
        assert len(tensors(app).session.names) == 3
        assert "model.embed_tokens.weight" in lines(rows(app))[1]
        assert text(app, "ProgressLine") == "Reading headers of A: 1 of 2 files"
        assert "tensors" not in static(app, "#title")  # how many there are is not known yet
        await pilot.press("j", "j")
        engine.reading_first.set()
        await settle(app, pilot)
        assert rows(app).cursor == 2
        assert len(tensors(app).session.names) == len(engine.tensors)
        assert "14 tensors" in static(app, "#title")


async def test_there_is_no_verdict_before_everything_is_compared(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 4
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 4)
        engine.clock.at += 0.5
        tensors(app).state_changed()
        assert "4 of 14 compared" in text(app, "CountsLine")
        assert text(app, "ProgressLine").startswith("[###")
        assert "ETA" in text(app, "ProgressLine")
        assert "differ." not in text(app, "ProgressLine")
        engine.gate.set()
        await settle(app, pilot)
        assert text(app, "ProgressLine").startswith(
            "! 2 of 14 tensors differ, 1 has another shape and 1 is only in A."
        )
        assert text(app, "CountsLine").split("  ")[:4] == [
            "! 2 differ",
            "# 1 shape",
            "< 1 only A",
            "~ 1 close",
        ]


async def test_rate_and_time_left_are_of_bytes(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 1
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 1)
        engine.clock.at += 0.5
        progress = tensors(app).session.progress
        assert progress.bytes_done == 2 * 96 * 64 * 2
        assert progress.rate == progress.bytes_done / 0.5
        assert progress.eta == (progress.bytes_total - progress.bytes_done) / progress.rate


@pytest.mark.slow
async def test_visible_rows_are_compared_first(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.tensors = names(40)
    engine.hold = 0
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        while tensors(app).session.phase != "comparing":
            await pilot.pause(0.01)
        await pilot.press("G")
        await pilot.pause()
        engine.hold = 3
        engine.gate.set()
        await settle(app, pilot)
        assert "lm_head.weight" in list(tensors(app).session.results)[:3]


async def test_moving_stops_at_both_ends(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("g", "k", "up")
        assert rows(app).cursor == 0
        await pilot.press("j", "down", "j")
        assert rows(app).cursor == 3
        await pilot.press("G")
        assert rows(app).row == "lm_head.weight"
        await pilot.press("j")
        assert rows(app).row == "lm_head.weight"
        await pilot.press("g")
        assert rows(app).cursor == 0
        await pilot.press("end", "home")
        assert rows(app).cursor == 0


async def test_pages_move_by_what_fits(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.tensors = names(60)
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("g", "ctrl+d")
        assert rows(app).cursor == rows(app).page
        await pilot.press("pagedown", "ctrl+u", "pageup")
        assert rows(app).cursor == 0


async def test_h_folds_the_layer_of_a_tensor_and_l_unfolds_it(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("j", "h")
        head = rows(app).row
        assert isinstance(head, Layer)
        assert head.title == "model.layers.0"
        assert len(tensors(app).session.tensors.rows) == 13
        await pilot.press("l")
        assert len(tensors(app).session.tensors.rows) == 17
        assert rows(app).row is head
        await pilot.press("right")
        assert rows(app).row == Q0
        await pilot.press("space")
        assert rows(app).row is head
        await pilot.press("space", "left", "enter")
        assert len(tensors(app).session.tensors.rows) == 17


async def test_n_goes_round_all_differences_and_unfolds_what_hides_them(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        rows(app).fold_all(unfolded=False)
        await pilot.press("g")
        visited = []
        for _ in range(5):
            await pilot.press("n")
            visited.append(rows(app).row)
        assert visited == [Q0, K1, DOWN2, "lm_head.weight", Q0]
        await pilot.press("N")
        assert rows(app).row == "lm_head.weight"


async def test_n_on_the_head_of_a_layer_finds_what_is_in_it(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("g", "j", "n")
        assert rows(app).row == Q0
        await pilot.press("k", "N")
        assert rows(app).row == "lm_head.weight"


async def test_the_cursor_is_on_the_screen_after_n(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.tensors = names(60)
    far = layer(50, "mlp.down_proj.weight")
    engine.results = {far: result(far, "differ")}
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("n")
        await pilot.pause()
        assert far in tensors(app).session.visible


async def test_d_hides_rows_that_are_the_same_or_close(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("d")
        shown = [row for row in tensors(app).session.tensors.rows if isinstance(row, str)]
        assert shown == [Q0, K1, DOWN2, "lm_head.weight"]
        await pilot.press("d")
        assert len(tensors(app).session.tensors.rows) == 17


async def test_d_fills_in_while_differences_are_found(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 1
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 1)
        await pilot.press("d")
        assert "No difference among 1 compared so far" in lines(rows(app))[2]
        engine.gate.set()
        await settle(app, pilot)
        assert Q0 in tensors(app).session.tensors.rows


async def test_s_cycles_through_the_sorts_and_capital_s_reverses(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        await pilot.press("s")
        # What has no numbers is worse than any number.
        assert session.tensors.rows[:4] == [K1, "lm_head.weight", DOWN2, Q0]
        assert "largest max|d| first" in str(rows(app).border_subtitle)
        await pilot.press("S")
        assert session.tensors.rows[-1] in (K1, "lm_head.weight")
        await pilot.press("s")
        assert session.tensors.rows[2] in (Q0, DOWN2)
        await pilot.press("s")
        assert session.tensors.rows[0] == layer(0, "mlp.down_proj.weight")
        await pilot.press("s")
        assert isinstance(session.tensors.rows[1], Layer)


async def test_slash_filters_while_typing_and_enter_keeps_it(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"mlp", "space", "1")
        assert tensors(app).session.tensors.order == [layer(1, "mlp.down_proj.weight")]
        await pilot.press("enter")
        assert rows(app).has_focus
        assert "/ mlp 1" in str(rows(app).border_title)
        await pilot.press("escape")
        assert len(tensors(app).session.tensors.order) == 14


async def test_escape_in_the_filter_shows_all_tensors_again(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"zzz")
        await settle(app, pilot)
        assert "No tensor matches 'zzz'. Esc clears the filter." in lines(rows(app))[2]
        await pilot.press("escape")
        assert rows(app).has_focus
        assert len(tensors(app).session.tensors.order) == 14


async def test_an_exclamation_mark_inverts_the_filter(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", "exclamation_mark", *"layers", "enter")
        assert tensors(app).session.tensors.order == ["model.embed_tokens.weight", "lm_head.weight"]


async def test_half_a_regular_expression_changes_nothing(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"re", "colon", *"q_proj")
        assert len(tensors(app).session.tensors.order) == 3
        await pilot.press("left_parenthesis")
        assert len(tensors(app).session.tensors.order) == 3


async def test_n_in_a_filtered_list_without_differences_is_the_next_match(
    app: CkptDiffApp,
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"norm", "enter", "g", "n")
        assert rows(app).row == layer(0, "post_attention_layernorm.weight")
        await pilot.press("n")
        assert rows(app).row == layer(1, "post_attention_layernorm.weight")


async def test_x_stops_and_r_goes_on(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 3
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 3)
        await pilot.press("x")
        assert tensors(app).session.phase == "stopped"
        assert text(app, "ProgressLine") == "Stopped. 3 of 14 compared. r goes on."
        engine.hold = None
        engine.gate.set()
        await settle(app, pilot)
        assert engine.closed == 1
        await pilot.press("r")
        await settle(app, pilot)
        assert tensors(app).session.phase == "done"


async def test_r_compares_everything_again(app: CkptDiffApp, engine: FakeEngine) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("n")
        assert rows(app).row == K1
        await pilot.press("r")
        await settle(app, pilot)
        assert [len(asked) for asked in engine.asked] == [14, 14]
        assert rows(app).row == K1
        assert tensors(app).session.counts["same"] == 9


@pytest.mark.parametrize("keys", [("s",), ("S",), ("s", "s", "S")], ids=",".join)
async def test_a_new_run_begins_in_model_order(app: CkptDiffApp, keys: tuple[str, ...]) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press(*keys)
        session = tensors(app).session
        assert session.tensors.flat
        await pilot.press("r")
        await settle(app, pilot)
        assert (session.sort, session.reverse) == ("model", False)
        assert session.tensors.order == list(session.names)
        assert "sort: model order" in str(rows(app).border_subtitle)


async def test_after_a_stop_the_same_run_goes_on_in_its_order(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 3
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 3)
        await pilot.press("s", "x")
        engine.hold = None
        engine.gate.set()
        await settle(app, pilot)
        await pilot.press("r")
        await settle(app, pilot)
        session = tensors(app).session
        assert (session.phase, session.sort) == ("done", "max")


async def test_ctrl_c_stops_first_and_then_says_how_to_quit(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.hold = 2
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await until_compared(app, pilot, 2)
        await pilot.press("ctrl+c")
        assert tensors(app).session.phase == "stopped"
        await pilot.press("ctrl+c")
        assert toasts(app)[-1] == "Nothing is running. Press Q to quit."


async def test_a_greyed_key_says_why(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.results = {}
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("x", "n")
        assert toasts(app)[-2:] == ["Stop: nothing is running.", "There is no difference."]


async def test_y_sends_the_name_and_capital_y_the_command(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("y")
        assert app.clipboard == Q0
        assert toasts(app)[-1].startswith(f"Sent {len(Q0)} characters to the terminal clipboard.")
        await pilot.press("Y")
        assert app.clipboard == f"ckptdiff diff {A} {B} --filter {Q0}"


async def test_w_writes_a_report_and_asks_before_writing_over(
    app: CkptDiffApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ckptdiff-report.json"
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("w", "enter")
        await settle(app, pilot)
        assert '"schema": "ckptdiff.diff/1"' in file.read_text()
        file.write_text("other")
        await pilot.press("w", "enter", "escape")
        await settle(app, pilot)
        assert file.read_text() == "other"
        await pilot.press("w", "enter", "enter")
        await settle(app, pilot)
        assert file.read_text() != "other"


async def test_a_report_that_cannot_be_written_says_why(app: CkptDiffApp, tmp_path: Path) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("w", "ctrl+u", *"/nonexistent/x.txt", "enter")
        await settle(app, pilot)
        assert toasts(app)[-1] == (
            "/nonexistent/x.txt: cannot be written (No such file or directory)."
            " Press w and choose another path."
        )


async def test_enter_opens_a_tensor_and_q_comes_back(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)
        await pilot.press("q")
        assert len(app.screen_stack) == 2
        assert rows(app).row == Q0


async def test_q_on_the_first_screen_leaves_and_escape_does_not(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("escape")
        assert toasts(app)[-1] == "This is the first screen. Press q to quit."
        await pilot.press("q")
    assert app.return_code == 0


async def test_m_gives_the_list_all_the_room_and_back(app: CkptDiffApp) -> None:
    async with app.run_test(size=WIDE) as pilot:
        await settle(app, pilot)
        beside = rows(app).size
        await pilot.press("m")
        await pilot.pause()
        assert rows(app).size.area > beside.area * 4 // 3
        await pilot.press("escape")
        await pilot.pause()
        assert rows(app).size == beside


async def test_the_detail_pane_is_there_from_100_columns(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert not app.screen.query_one("#detail").display
        await pilot.resize_terminal(*WIDE)
        await settle(app, pilot)
        assert app.screen.query_one("#detail").display
        await pilot.press("n")
        await pilot.pause(0.1)
        assert rows(app).row == K1


async def test_below_40_columns_or_10_lines_one_line_says_so(app: CkptDiffApp) -> None:
    async with app.run_test(size=(39, 20)) as pilot:
        await settle(app, pilot)
        assert text(app, "TooSmall") == "ckptdiff needs 40x10, this is 39x20. Q quits."
        assert app.screen.query_one("TooSmall").display
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert not app.screen.query_one("TooSmall").display
        await pilot.press("g", "j")
        assert rows(app).cursor == 1


async def test_a_terminal_of_40_by_10_is_for_the_list_alone(app: CkptDiffApp) -> None:
    async with app.run_test(size=(40, 10)) as pilot:
        await settle(app, pilot)
        assert not app.screen.query_one("TooSmall").display
        region = rows(app).region
        assert (region.x, region.y, region.width, region.height) == (0, 0, 40, 8)
        assert lines(rows(app))[0].split() == ["St", "Tensor", "max|d|"]
        await pilot.press("n")
        assert rows(app).scrollable_content_region.height == 8


async def test_a_checkpoint_that_cannot_be_opened_says_what_where_and_what_to_do(
    make_app: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = make_app(A, tmp_path)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert text(app, "ProgressLine") == f"x {tmp_path}: is no checkpoint [b]of any kind[/b]"
        assert "model.embed_tokens.weight" in lines(rows(app))[1]
        await pilot.press("q")
    assert app.return_code == 2


async def test_a_bug_in_a_worker_is_shown_and_not_waited_for(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.breaks = ZeroDivisionError("by zero")
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert "ZeroDivisionError: by zero. This is a bug" in text(app, "ProgressLine")


async def test_a_comparison_that_breaks_says_why(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.breaks = WorkerDied("a worker was killed. Free some memory.")
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert text(app, "ProgressLine") == "x a worker was killed. Free some memory."


async def test_a_name_without_a_rule_is_a_row_and_a_difference(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.results = {}
    engine.unmapped = ("decoder.mystery[b]",)
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert "! 1 name without a rule" in text(app, "CountsLine")
        assert text(app, "ProgressLine").startswith(
            "! 1 name has no rule; no differences in 14 tensors."
        )
        await pilot.press("G")
        assert lines(rows(app))[rows(app).cursor + 1].split()[:2] == [">", "decoder.mystery[b]"]
        await pilot.press("enter")
        assert "decoder.mystery[b] of B" in toasts(app)[-1]


async def test_names_from_files_cannot_steer_the_terminal(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.tensors = ["evil\x1b[31m[bold]red[/bold].weight"]
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        assert "evil\\x1b[31m[bold]red[/bold].weight" in lines(rows(app))[1]


async def test_one_checkpoint_has_dtypes_and_sizes_instead_of_numbers(
    make_app: Callable[..., CkptDiffApp],
) -> None:
    app = make_app(A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        shown = lines(rows(app))
        assert shown[0].split() == ["Tensor", "Shape", "Dtype", "Size"]
        assert shown[1].split() == ["model.embed_tokens.weight", "96x64", "BF16", "12.3", "kB"]
        assert text(app, "ProgressLine") == "14 tensors, 123 kB. Headers only."
        await pilot.press("d")
        assert "Open two to compare them" in toasts(app)[-1]
        await pilot.press("s")
        assert tensors(app).session.sort == "size"


async def test_a_click_moves_the_cursor_and_a_second_one_opens(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.click("#tensors", offset=(10, 4))
        assert rows(app).row == Q0
        await pilot.click("#tensors", offset=(10, 4), times=2)
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)


async def test_ascii_mode_draws_nothing_else(make_app: Callable[..., CkptDiffApp]) -> None:
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=(60, 20)) as pilot:
        await settle(app, pilot)
        await pilot.press("n", "question_mark")
        await pilot.pause()
        await pilot.press("escape", "slash", *"mlp")
        await pilot.pause()
        strips = app.screen._compositor.render_strips()
        drawn = "".join(segment.text for strip in strips for segment in strip)
        assert drawn.isascii(), {c for c in drawn if not c.isascii()}


@pytest.mark.parametrize("width", [100, 112, 130])
async def test_a_sorted_list_beside_other_columns_keeps_layer_and_role(
    app: CkptDiffApp, width: int
) -> None:
    async with app.run_test(size=(width, 30)) as pilot:
        await settle(app, pilot)
        await pilot.press("s")
        shown = lines(rows(app))
        for number, part in ((0, "self_attn.q_proj"), (1, "self_attn.k_proj")):
            assert any(f"{number}.{part}" in line for line in shown), shown
