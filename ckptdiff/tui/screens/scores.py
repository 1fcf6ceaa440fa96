"""The screen of scores: tasks to choose, their table, what it does not show, and the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from ckptdiff.extras import why_not
from ckptdiff.report.score_words import ids_of, percent
from ckptdiff.scores.verdict import worst_question
from ckptdiff.text import printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.score_run import DTYPES, ScoreRequest
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.screens.detail import Pane
from ckptdiff.tui.screens.score_keys import SCORE_KEYS
from ckptdiff.tui.text.scores import (
    NOTHING,
    outcome_lines,
    text_to_copy,
    why_not_scores,
)
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.score_lists import ItemList, ScoreTable
from ckptdiff.tui.widgets.task_input import TaskInput

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets import Input

    from ckptdiff.scores.results import TaskScore
    from ckptdiff.tui.base_app import BaseApp
    from ckptdiff.tui.model.score_run import ScoreRun
    from ckptdiff.tui.runners.prompt import PromptRunner
    from ckptdiff.tui.runners.scores import ScoreRunner
    from ckptdiff.tui.text.lines import Line

BESIDE = 150  # cells of the terminal from which on table and items are side by side
FRAME = 3  # lines of a list beside its rows: the border and the header


def show_scores(app: BaseApp, scores: ScoreRunner, prompts: PromptRunner) -> None:
    """Open the screen; where the libraries are not installed, say how to install them."""
    if why := why_not("scores"):
        app.notify(f"{why[0].upper()}{why[1:]}", timeout=15, markup=False)
    else:
        app.push_screen(ScoresScreen(scores, prompts))


class ScoresScreen(BaseScreen[None]):
    """Shows the run of a `ScoreRunner`, during and after it."""

    BINDINGS: ClassVar[list[BindingType]] = list(SCORE_KEYS)
    LEGEND: ClassVar[dict[str, str]] = {
        "|A-B|/A": "how far the scores are apart, as NVIDIA's table gives it",
        "+- of A": "the standard error of A's score, as the harness quotes it",
        "|A-B|": "of the log-likelihoods of an item's answer that is furthest apart, in nats",
        "!": "a flip: A and B choose another answer",
        "floor": "the same with A's weights in B's arithmetic: what two right programs make",
    }
    DEFAULT_CSS = """
    ScoresScreen {
        #request { height: 2; padding: 0 1; }
        #ask, #how { height: 1; width: 1fr; }
        #request Static { width: auto; text-style: bold; }
        #request Choice { width: auto; height: 1; margin: 0 1; }
        #tasks { width: 1fr; height: 1; padding: 0 1; }
        #limit { width: 9; height: 1; padding: 0 1; }
        #lists { height: 1fr; }
        #nothing { height: 1fr; padding: 1 2; }
        ScoreTable { min-height: 4; }
        #figures {
            height: auto;
            max-height: 8;
            padding: 0 1;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        &.-roomy #figures { max-height: 14; }
        &.-beside #lists { layout: horizontal; }
        &.-beside ScoreTable { width: 1fr; height: 1fr; max-height: 100%; }
        &.-beside ItemList { width: 1fr; }
        ScoreTable.-maximized, ItemList.-maximized, #figures.-maximized {
            width: 100%; height: 1fr; max-height: 100%;
        }
        &.-wide {
            #request { layout: horizontal; height: 1; }
            #how { width: auto; }
        }
        &.-short {
            #request { height: 1; }
            #how { display: none; }
            ScoreTable, ItemList, #figures { border: none; min-height: 2; }
            ScoreTable:focus, ItemList:focus, #figures:focus { border: none; }
            #figures { max-height: 2; }
        }
        &.-short.-wide #how { display: block; }
        &.-ascii {
            ScoreTable, ItemList, #figures { border: ascii $foreground 60%; }
            ScoreTable:focus, ItemList:focus, #figures:focus { border: ascii $primary; }
        }
    }
    """

    def __init__(self, scores: ScoreRunner, prompts: PromptRunner) -> None:
        super().__init__()
        self.scores = scores
        self.prompts = prompts
        self.session = scores.session
        self._of: TaskScore | None = None  # whose items are listed; None: all
        self._listed: tuple[ScoreRun, TaskScore | None] | None = None
        self._every_metric = False
        self.set_class(self.session.ascii_only, "-ascii")

    @property
    def score_run(self) -> ScoreRun | None:
        return self.scores.run

    def compose_body(self) -> ComposeResult:
        run = self.score_run
        asked = ScoreRequest("") if run is None else run.asked
        limit = "" if asked.limit is None else str(asked.limit)
        with Container(id="request"):
            with Horizontal(id="ask"):
                yield Static("Tasks")
                yield TaskInput(asked.tasks, "boolq,hellaswag or a FILE.yaml", id="tasks")
                yield Static("Limit")
                yield TaskInput(limit, "all", numbers=True, id="limit")
            with Horizontal(id="how"):
                yield Choice({name: name for name in DTYPES}, asked.dtype, id="dtype")
                yield Choice(
                    {name: name for name in self.scores.devices}, asked.device, id="device"
                )
        yield Static(NOTHING.format(key("tasks.run", "Enter")), id="nothing", markup=False)
        with Vertical(id="lists"):
            yield ScoreTable(ascii_only=self.session.ascii_only)
            yield ItemList(ascii_only=self.session.ascii_only)
        with Pane(id="figures"):
            yield Words(id="outcome")

    def on_mount(self) -> None:
        self.scores.is_shown = True
        self.query_one("#outcome", Words).show(self._outcome)
        self.scores_changed()
        if self.score_run is None:
            self.query_one("#tasks").focus()
        else:
            self._focus_answer()

    def on_unmount(self) -> None:
        self.scores.is_shown = False

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    def on_resize(self) -> None:
        self.set_class(self.size.width >= BESIDE, "-beside")
        self.set_class(self.size.height >= 30, "-roomy")
        self.scores_changed()

    def scores_changed(self) -> None:
        """Show the progress or the result."""
        run = self.score_run
        with self.app.batch_update():
            self.query_one("#nothing").display = run is None
            self.query_one("#lists").display = run is not None
            self.query_one("#figures").display = run is not None
            device = self.query_one("#device", Choice)
            device.offer({name: name for name in self.scores.devices})
            self.query_one("#outcome", Words).changed()
            has_result = run is not None and run.diff is not None
            title = "What the table does not show" if has_result else "How it goes"
            self.query_one("#figures").border_title = title
            self._show_table()
            self._show_items()
        self.refresh_bindings()

    def _show_table(self) -> None:
        run, table = self.score_run, self.query_one(ScoreTable)
        rows = () if run is None else run.rows(every_metric=self._every_metric)
        if rows != table.rows:
            at = table.cursor
            table.show(rows, "")
            table.cursor = at
        table.empty_words = "No task is finished yet."
        beside = self.has_class("-beside")
        table.styles.max_height = None if beside else max(1, len(rows)) + FRAME
        table.border_title = "Scores, every metric" if self._every_metric else "Scores"
        mean = None if run is None or run.diff is None else run.diff.mean
        table.border_subtitle = "" if mean is None else f"mean |A-B|/A {percent(mean)}"
        table.redraw()

    def _show_items(self) -> None:
        run, items = self.score_run, self.query_one(ItemList)
        items.display = run is not None and run.diff is not None
        if run is None or run.diff is None:
            self._of = None
            return
        if self._listed != (run, self._of):
            self._listed = (run, self._of)
            items.show(run.items_of(self._of), "No item was answered.")
        of = "" if self._of is None else f" of {printable(self._of.task)}"
        items.border_title = Content(f"Items{of}, flips first, then the furthest apart")
        count = f"{len(items.rows):,} of {len(run.items):,}"
        every = f", {key('screen.escape', 'esc')} lists all" if self._of is not None else ""
        items.border_subtitle = f"{count}{every}"

    def _outcome(self, width: int) -> list[Line]:
        if self.score_run is None:
            return []
        return outcome_lines(self.score_run, width, ascii_only=self.session.ascii_only)

    def _focus_answer(self) -> None:
        """Focus the result instead of a field, so that letters are keys."""
        self.set_focus(self.query_one(ScoreTable) if self.score_run is not None else None)

    # ── the fields ───────────────────────────────────────────────────────────────────────────

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.action_again()

    def on_task_input_left(self, message: TaskInput.Left) -> None:
        message.stop()
        if self.score_run is None:
            self.dismiss()
        else:
            self._focus_answer()

    def _request(self) -> ScoreRequest:
        limit = self.query_one("#limit", TaskInput).value
        return ScoreRequest(
            self.query_one("#tasks", TaskInput).value.strip(),
            int(limit) if limit else None,
            self.query_one("#dtype", Choice).value,
            self.query_one("#device", Choice).value,
        )

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("stop", "shown") and self.why_not(action):
            return False  # not in the key line; pressing the key shows why
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action == "logits" and self.is_mounted and self.query_one(ItemList).row is None:
            return "Logits: no item was answered yet."
        return why_not_scores(self.session, self.score_run, action)

    def action_tasks(self) -> None:
        self.query_one("#tasks").focus()

    def action_again(self) -> None:
        asked = self._request()
        if not asked.names:
            self.query_one("#tasks").focus()
            return
        if asked.limit == 0:
            self.notify("Limit: at least 1 item, or nothing for all.", markup=False)
            return
        run = self.score_run
        if run is not None and run.state == "running" and run.asked == asked:
            self.notify(f"These are being compared. {key('scores.stop', 'x')} stops.", markup=False)
            return
        reason = self.why_not("ask")
        if reason is not None:
            self.notify(reason, markup=False)
            return
        self._of = None
        self.scores.ask(asked)
        self.scores_changed()
        self._focus_answer()

    def action_stop(self) -> None:
        self.scores.stop()

    def action_escape(self) -> None:
        """Stop a run, or list the items of all tasks again, or go back."""
        if self.maximized is not None:
            super().action_escape()
        elif self.scores.is_busy:
            self.scores.stop()
        elif self._of is not None:
            self._of = None
            self.scores_changed()
            self.query_one(ScoreTable).focus()
        else:
            super().action_escape()

    def action_shown(self) -> None:
        run, items = self.score_run, self.query_one(ItemList)
        if run is not None and run.diff is not None and run.diff.shown_by is not None:
            self._of = None
            self.scores_changed()
            items.cursor = items.rows.index(run.diff.shown_by)
            items.focus()

    def action_every_metric(self) -> None:
        self._every_metric = not self._every_metric
        self.scores_changed()

    def action_dtype(self) -> None:
        self.query_one("#dtype", Choice).action_step(1)

    def action_device(self) -> None:
        self.query_one("#device", Choice).action_step(1)

    def on_choice_changed(self, message: Choice.Changed) -> None:
        message.stop()
        if not self.query_one("#how").display:  # a low terminal
            self.notify(f"The next run: {self._request().dtype} on {self._request().device}.")

    def action_copy_table(self) -> None:
        if self.score_run is not None:
            self.app.copy(text_to_copy(self.score_run))

    def action_copy_command(self) -> None:
        if self.score_run is not None:
            self.app.copy(self.score_run.command_line(self.session.paths))

    def action_guide(self) -> None:
        from ckptdiff.tui.screens.guide import GuideScreen

        self.app.push_screen(GuideScreen("scores"))

    def action_config(self) -> None:
        from ckptdiff.tui.screens.config import ConfigScreen

        self.app.push_screen(ConfigScreen(self.session))

    def action_logits(self) -> None:
        from ckptdiff.tui.screens.score_item import ask_logits

        item = self.query_one(ItemList).row
        if item is not None and item.questions:
            ask_logits(self.app, self.prompts, ids_of(item, worst_question(item)))

    def on_score_table_opened(self, message: ScoreTable.Opened) -> None:
        """List the items of a task."""
        message.stop()
        run = self.score_run
        if run is None or run.diff is None:
            self.notify("Items are listed once the run has ended or was stopped.", markup=False)
        else:
            self._of = message.row
            self.scores_changed()
            self.query_one(ItemList).focus()

    def on_item_list_opened(self, message: ItemList.Opened) -> None:
        message.stop()
        from ckptdiff.tui.screens.score_item import ScoreItemScreen

        items = self.query_one(ItemList)
        self.app.push_screen(ScoreItemScreen(self.prompts, items.rows, items.cursor))
