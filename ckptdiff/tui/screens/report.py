"""The dialog that asks where to write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from ckptdiff.tui.keymap import key
from ckptdiff.tui.widgets.seen_input import SeenInput

if TYPE_CHECKING:
    from textual.app import ComposeResult


KINDS = "The ending says which kind: .json, .md, .html; any other is plain text."


class ReportScreen(ModalScreen[Path | None]):
    """Returns the path; None if cancelled. To overwrite a file takes a second Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="report.cancel", tooltip="write nothing"),
    ]

    def __init__(self, suggestion: str) -> None:
        super().__init__()
        self._suggestion = suggestion
        self._confirmed = ""  # the path whose overwriting a second Enter confirms

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            box.border_title = "Write report"
            box.border_subtitle = f"enter writes  {key('report.cancel', 'esc')} cancels"
            field = SeenInput(self._suggestion, select_on_focus=False)
            field.cursor_blink = False
            yield field
            yield Static(KINDS, id="hint", markup=False)

    def on_input_changed(self, message: Input.Changed) -> None:
        if message.value != self._confirmed:
            self._confirmed = ""
            self.query_one("#hint", Static).update(KINDS)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        if not message.value.strip():
            return
        path = Path(message.value.strip()).expanduser()
        if path.exists() and self._confirmed != message.value:
            self._confirmed = message.value
            self.query_one("#hint", Static).update(
                f"It exists. Enter writes over it, {key('report.cancel', 'esc')} cancels."
            )
            return
        self.dismiss(path)

    def action_cancel(self) -> None:
        self.dismiss(None)
