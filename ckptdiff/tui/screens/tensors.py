"""The main screen: the tensors of one checkpoint or a pair, with results as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from ckptdiff.text import pasted_name
from ckptdiff.tui.model.inventory import Unmapped
from ckptdiff.tui.model.order import SORTS
from ckptdiff.tui.model.stored import StoredRow
from ckptdiff.tui.runners.comparison import ComparisonRunner
from ckptdiff.tui.runners.diagnosis import DiagnosisRunner
from ckptdiff.tui.runners.files import FilesRunner
from ckptdiff.tui.runners.prompt import PromptRunner
from ckptdiff.tui.runners.report import ReportRunner
from ckptdiff.tui.runners.scores import ScoreRunner
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.tensor_keys import TENSOR_KEYS
from ckptdiff.tui.text import sides
from ckptdiff.tui.text.list import OF_PAIRS, no_further, why_no_detail, why_not
from ckptdiff.tui.widgets.detail_slot import WIDE, DetailSlot
from ckptdiff.tui.widgets.filter_slot import FilterSlot
from ckptdiff.tui.widgets.finding_line import FindingLine
from ckptdiff.tui.widgets.progress_line import CountsLine, ProgressLine
from ckptdiff.tui.widgets.shortfall_line import ShortfallLine
from ckptdiff.tui.widgets.tensor_list import TensorList

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Resize

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.tui.messages import SessionChanged
    from ckptdiff.tui.model.order import Sort
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.widgets.cursor_list import CursorList
    from ckptdiff.tui.workers.engine import Engine


class TensorsScreen(BaseScreen[None]):
    """Shows a session: the tensor list, the progress, and on a wide terminal the detail pane.

    Its runners fill the session; each can run by itself.
    """

    BINDINGS: ClassVar[list[BindingType]] = list(TENSOR_KEYS)

    def __init__(
        self,
        session: Session,
        engine: Engine,
        *,
        opened: dict[Path, Checkpoint] | None = None,
        history: Path | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.comparison = ComparisonRunner(session, engine, opened=opened, history=history)
        self.diagnosis = DiagnosisRunner(session, engine)
        self.prompts = PromptRunner(session, engine)
        self.scores = ScoreRunner(session, engine, history and history.parent / "scores")
        self.report = ReportRunner(session)
        self.files = FilesRunner(session)

    def compose_body(self) -> ComposeResult:
        yield from (self.comparison, self.diagnosis, self.prompts, self.scores, self.report)
        yield self.files
        yield Static(id="title", markup=False)
        with Horizontal(id="body"):
            yield TensorList(self.session, id="tensors")
            yield DetailSlot(self.session)
        yield FilterSlot(self.session, id="filter")
        yield ShortfallLine(self.session)
        if not self.session.browsing:
            yield CountsLine(self.session)
        yield ProgressLine(self.session)
        yield FindingLine(self.session)

    def on_mount(self) -> None:
        self.rows.focus()
        self.read_headers()

    def on_unmount(self) -> None:
        self.session.close()

    @property
    def rows(self) -> TensorList:
        return self.query_one(TensorList)

    @property
    def slot(self) -> DetailSlot:
        return self.query_one(DetailSlot)

    # ── runners ──────────────────────────────────────────────────────────────────────────────

    def read_headers(self, *, fresh: bool = False) -> None:
        """Read both sides, then compare them; `fresh` ignores and drops cached results."""
        if fresh:
            self.prompts.forget()
            self.scores.forget()
        self.files.sought = self.rows.name_here
        self.diagnosis.forget()
        self.comparison.read_headers(fresh=fresh)

    def stop(self) -> None:
        """Stop the diagnosis if it runs, or else the comparison."""
        if self.session.diagnosis_state == "looking":
            self.diagnosis.stop()
        else:
            self.diagnosis.forget()
            self.comparison.stop()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def on_session_changed(self, message: SessionChanged) -> None:
        message.stop()
        what = message.what
        if what in ("prompt", "scores"):
            for screen in self.app.screen_stack:
                if isinstance(screen, BaseScreen) and screen.is_mounted:
                    (screen.prompt_changed if what == "prompt" else screen.scores_changed)()
            return
        if what == "headers":
            self.rows.show_borders()
            self.query_one(ProgressLine).refresh()
            return
        if what in ("names", "rows", "compared"):
            self.rows.show_rows(are_new=what == "names")
        elif what == "results":
            self.rows.redraw()
        if what == "files":
            self._show_files()
        if what == "names":
            self.files.list()
        if what == "compared" and self.session.phase == "done" and not self.session.browsing:
            self.rows.settle()
        if what == "names":
            self.query_one(FilterSlot).rank()
        if what != "state":
            self._show_title()
            self._show_pane()
        self.state_changed()
        if what == "compared" and self.session.phase == "done":
            if self.session.diagnosis_state == "looking":
                self.diagnosis.diagnose()
            self.app.settings_runner.remember(self.session)

    def state_changed(self) -> None:
        """Show the state of the session below the list and in the key line."""
        self.rows.show_borders()
        self.query(CountsLine).refresh()
        # A progress bar takes one line; words may take two.
        self.query_one(ProgressLine).refresh(layout=self.session.phase != "comparing")
        self.query_one(FindingLine).show()
        self.query_one(ShortfallLine).show()
        self.refresh_bindings()

    def on_resize(self, event: Resize) -> None:
        self._show_title()
        self._show_pane()
        if event.size.width >= WIDE:
            self.call_after_refresh(self.slot.fill)

    def _show_pane(self) -> None:
        row = self.rows.row
        number = self.session.diagnosis.at(row, self.session.began_at)
        self.slot.show(self.rows.name_here or row, number, wide_list=self.rows.cells.are_wide)

    def _show_title(self) -> None:
        self.query_one("#title", Static).update(Content(sides.title(self.session, self.size.width)))

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        browsing = self.session.browsing
        if (  # not in the key line; pressing the key shows why
            (browsing and action in OF_PAIRS)
            or (action == "stop" and not self.session.is_busy)
            or (action == "difference" and browsing and not self.session.filter)
            or (action == "statistics" and not (self.is_mounted and self.slot.can_read))
        ):
            return False
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        return why_not(self.session, action)

    async def action_filter(self) -> None:
        await self.query_one(FilterSlot).open()

    def set_filter(self, text: str) -> None:
        """Filter the list. An invalid expression is reported and changes nothing."""
        if self.query_one(FilterSlot).set_filter(text):
            self.rows.show_rows()
            self.state_changed()

    def action_statistics(self) -> None:
        self.slot.read()

    def action_stop(self) -> None:
        self.stop()

    def action_difference(self, step: Literal[1, -1]) -> None:
        if not self.rows.go_to_next(step):
            self.notify(no_further(self.session))

    def action_differences_only(self) -> None:
        session = self.session
        session.differences_only = not session.differences_only
        self._rearrange()
        self.app.change_settings(differences_only=session.differences_only)

    def action_sort(self) -> None:
        sorts: list[Sort] = ["model", "size"] if self.session.browsing else list(SORTS)
        at = sorts.index(self.session.sort) if self.session.sort in sorts else 0
        self.action_sort_by(sorts[(at + 1) % len(sorts)])

    def action_sort_by(self, sort: Sort) -> None:
        self.session.reverse = sort == self.session.sort and not self.session.reverse
        self.session.sort = sort
        self._rearrange()

    def go_to(self, name: str) -> None:
        """Move the cursor to a tensor. A filter that hides it is cleared."""
        if not self.rows.go_to(name):
            self.session.differences_only, self.session.finding = False, None
            self.set_filter("")
            self.rows.go_to(name)
        self.rows.show_borders()

    def action_reverse(self) -> None:
        self.session.reverse = not self.session.reverse
        self._rearrange()

    def _rearrange(self) -> None:
        self.session.arrange()
        self.rows.show_rows()
        self.state_changed()

    def action_again(self) -> None:
        """Continue after a stop; otherwise drop all results and compare again, in model order."""
        is_new = self.session.phase in ("done", "comparing")
        if is_new and self.session.begin_in_order():
            self._rearrange()
        self.read_headers(fresh=is_new)

    def judge_by(self, tolerance: str) -> None:
        """Compare under another tolerance. Results cached under it are shown at once."""
        self.session.tolerance = tolerance
        self.read_headers()

    def action_optimizer(self) -> None:
        self.session.optimizer = not self.session.optimizer
        self.read_headers()

    def action_copy_name(self) -> None:
        if self.rows.row is not None:
            self.app.copy(pasted_name(self.rows.cells.stored_name(self.rows.row)))

    def action_view(self) -> None:
        has_rows = bool(self.rows.rows)
        if has_rows:
            self.files.sought = self.rows.name_here
        self.rows.show_view(self.rows.cells.next_view)
        self.files.list()
        if not has_rows:  # the files were not listed yet
            self._go_to_sought()
        self.state_changed()

    def _show_files(self) -> None:
        """Show the files once they are listed, with the cursor where it was in another view."""
        self.rows.rows_changed(0)
        self._go_to_sought()

    def _go_to_sought(self) -> None:
        if self.files.sought is not None:
            self.rows.go_to(self.files.sought)

    def action_copy_command(self) -> None:
        self.app.copy(self.session.command_line(self.rows.name_here))

    def action_entries(self) -> None:
        from ckptdiff.tui.screens.entries import EntriesScreen

        self.app.push_screen(EntriesScreen(self.session))

    def action_config(self) -> None:
        from ckptdiff.tui.screens.config import ConfigScreen

        self.app.push_screen(ConfigScreen(self.session))

    def action_logits(self) -> None:
        from ckptdiff.tui.screens.logits import show_logits

        show_logits(self.app, self.prompts)

    def action_scores(self) -> None:
        from ckptdiff.tui.screens.scores import show_scores

        show_scores(self.app, self.scores, self.prompts)

    def action_findings(self) -> None:
        if self.session.diagnosis_state == "done":
            self.app.show_findings(self.session, self.query_one(DetailSlot).number or 1)
        else:
            self.diagnosis.diagnose()

    def show_finding(self, number: int | None) -> None:
        """Come back to show the tensors that a finding covers, and only those."""
        if number is None:
            return
        while self.app.screen is not self:
            self.app.pop_screen()
        self.session.show_finding(number)
        self._rearrange()
        self.rows.action_first()

    def action_convert(self) -> None:
        self.app.show_convert(self.session, self.query_one(DetailSlot).number)

    def action_write_report(self) -> None:
        from ckptdiff.tui.screens.report import ReportScreen

        self.app.push_screen(ReportScreen("ckptdiff-report.json"), self.report.write)

    def action_escape(self) -> None:
        if self.session.filter and self.maximized is None:
            self.set_filter("")
        elif self.session.finding is not None and self.maximized is None:
            self.session.show_finding(None)
            self._rearrange()
        else:
            super().action_escape()

    # ── messages of the widgets ──────────────────────────────────────────────────────────────

    def on_filter_slot_changed(self, message: FilterSlot.Changed) -> None:
        message.stop()
        self.rows.show_rows()
        if message.best_first:
            self.rows.action_first()
        self.state_changed()

    def on_cursor_list_cursor_moved(self, message: CursorList.CursorMoved) -> None:
        message.stop()
        self.rows.show_borders()
        self._show_pane()

    def on_tensor_list_row_opened(self, message: TensorList.RowOpened) -> None:
        message.stop()
        row = message.row
        name = self.session.listing.name_of(row)
        if name is not None:
            from ckptdiff.tui.screens.detail import DetailScreen

            self.app.push_screen(DetailScreen(self.session, name))
        elif isinstance(row, (Unmapped, StoredRow)):
            self.notify(why_no_detail(self.session, row), title="No detail", markup=False)
