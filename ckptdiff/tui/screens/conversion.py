"""The dialog of a conversion: its progress, then its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from ckptdiff.formats.hub.lookup import absolute
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.widgets.form import FORMATS, Box, field
from ckptdiff.tui.widgets.progress_line import progress_bar
from ckptdiff.tui.words import short_path

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult

    from ckptdiff.tui.model.conversion import ConversionRun
    from ckptdiff.tui.model.session import Session


class ConversionBar(Widget):
    """The progress bar of writing or verifying."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"conversion-bar--bar"}

    def __init__(self, run: ConversionRun) -> None:
        super().__init__()
        self._run = run

    def render(self) -> Content:
        style = self.get_visual_style("conversion-bar--bar")
        return progress_bar(self._run.progress, self.size.width, style)


class ConversionScreen(BaseScreen[None]):
    """Shows a conversion. When it is hidden, the conversion goes on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,escape,q",
            "hide",
            "Run in background",
            id="conversion.hide",
            tooltip="hide the dialog; the conversion goes on",
        ),
        Binding(
            "x",
            "stop",
            "Stop and remove",
            id="conversion.stop",
            tooltip="stop the conversion and remove what was written",
        ),
        Binding(
            "enter",
            "compare",
            "Compare with source",
            id="conversion.compare",
            tooltip="open the source and what was written as a pair",
        ),
        Binding(
            "enter",
            "compare_reference",
            "Compare with A",
            id="conversion.compare_reference",
            tooltip="after faults were taken out of B: open A and what was written as a pair",
        ),
        Binding(
            "c",
            "change",
            "Change",
            id="conversion.change",
            tooltip="go back to the form, after the end",
        ),
        Binding(
            "S",
            "copy_start",
            "Copy start line",
            id="conversion.copy_start",
            tooltip="copy the line that starts Megatron from what was written",
        ),
        Binding(
            "Y",
            "copy_command",
            "Copy command",
            id="conversion.copy",
            tooltip="copy the command line that does the same",
        ),
        Binding(
            "y",
            "copy_words",
            "Copy",
            show=False,
            id="conversion.copy_words",
            tooltip="copy what came out, or the error",
        ),
        Binding("escape,q", "back", "Close", id="conversion.back", tooltip="go back"),
        Binding(
            "j,down,ctrl+d,pagedown",
            "scroll(5)",
            "Scroll",
            show=False,
            id="conversion.down",
            tooltip="down, where not everything fits",
        ),
        Binding(
            "k,up,ctrl+u,pageup",
            "scroll(-5)",
            "Scroll up",
            show=False,
            id="conversion.up",
            tooltip="up again",
        ),
    ]

    def __init__(self, run: ConversionRun, session: Session) -> None:
        super().__init__()
        self.run = run
        self.session = session

    def compose_body(self) -> ComposeResult:
        plan, target = self.run.plan, self.run.conversion.target
        source = absolute(plan.draft.source)
        with Box(id="conversion", classes="box") as box:
            box.border_title = "Convert"
            yield field("source", "From", Static(Content(short_path(source))))
            words = f"{short_path(plan.out.absolute())}  {FORMATS[target.to]}"
            yield field("out", "Output", Static(Content(words)))
            yield field("plan", "Plan", Static(Content(plan.words)))
            yield field("command", "Command", Static(Content(plan.command_line)))
            with Vertical(id="progress"):
                yield ConversionBar(self.run)
                yield Static(id="state", markup=False)

    def on_mount(self) -> None:
        self.run.ended_unseen = False
        self.app.show_conversion()

    def conversion_changed(self) -> None:
        super().conversion_changed()
        run = self.run
        bar = self.query_one(ConversionBar)
        bar.display = run.stage in ("writing", "verifying")
        bar.refresh()
        state = self.query_one("#state", Static)
        state.update(Content(run.words))
        state.set_class(run.stage == "failed", "-trouble")
        self.query_one("#conversion").border_subtitle = Content(_subtitle(run))
        if not run.is_busy:
            state.scroll_visible(animate=False)
        self.refresh_bindings()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        run = self.run
        if action in ("maximise", "leave"):
            return False
        if (action in ("hide", "stop") and not run.is_busy) or (
            action in ("back", "change", "copy_words") and run.is_busy
        ):
            return False
        if action in ("compare", "compare_reference"):
            has_reference = run.reference is not None
            return run.stage == "done" and has_reference is (action == "compare_reference")
        if action == "copy_start" and (run.stage != "done" or run.conversion.launch is None):
            return False
        return super().check_action(action, parameters)

    def why_not(self, action: str) -> str | None:
        if action == "stop" and self.run.stage == "stopping":
            return "It is being stopped."
        return None

    def action_hide(self) -> None:
        self.dismiss()

    def action_stop(self) -> None:
        self.app.ask_to_stop()

    def action_compare(self) -> None:
        """Compare what was written with its source."""
        self._compare_with(self.run.plan.draft.source)

    def action_compare_reference(self) -> None:
        """Compare what was written with A: B, its source, has the faults that were taken out."""
        assert self.run.reference is not None
        self._compare_with(self.run.reference)

    def _compare_with(self, path: Path) -> None:
        self.dismiss()
        self.app.open((path, self.run.plan.out))

    def action_change(self) -> None:
        self.app.change_draft(self.session, self.run.plan.draft)

    def action_copy_command(self) -> None:
        self.app.copy(self.run.plan.command_line)

    def action_copy_start(self) -> None:
        self.app.copy(self.run.conversion.launch or "")

    def action_copy_words(self) -> None:
        self.app.copy(self.run.words)

    def action_scroll(self, lines: int) -> None:
        self.query_one("#conversion").scroll_relative(y=lines, animate=False)


def _subtitle(run: ConversionRun) -> str:
    if run.stage in ("writing", "verifying"):
        return "hiding it keeps it running"
    return run.headline.split(":")[0].lstrip("=! ") if run.stage == "done" else run.stage
