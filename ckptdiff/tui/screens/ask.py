"""The dialog that asks before something is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ckptdiff.tui.keymap import key
from ckptdiff.tui.widgets.key_line import KeyLine

if TYPE_CHECKING:
    from textual.app import ComposeResult


class AskScreen(ModalScreen[bool]):
    """Returns True for `y` only. Enter answers nothing, since it may be pressed once too often."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="ask.yes", tooltip="do it"),
        Binding("escape,n,q", "answer(False)", "No", id="ask.no", tooltip="leave it"),
        Binding("enter", "remind", show=False, id="ask.enter", tooltip="say which key does it"),
    ]

    def __init__(self, question: str, words: str, *, yes: str, no: str) -> None:
        """`yes` and `no` name what `y` and Esc do."""
        super().__init__()
        self._question = question
        self._words = words
        self._keys = f"{key('ask.yes', 'y')} {yes}   {key('ask.no', 'esc')} {no}"

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            box.border_title = Content(self._question)
            box.border_subtitle = Content(self._keys)
            yield Static(Content(self._words), markup=False)
        yield KeyLine()  # else that of the screen below would name keys that do nothing here

    def action_remind(self) -> None:
        """Say that Enter is no answer."""
        box = self.query_one("#dialog", Vertical)
        box.border_subtitle = Content(f"{key('ask.enter', 'Enter')} does neither:   {self._keys}")

    def action_answer(self, yes: bool) -> None:  # noqa: FBT001 -- a binding passes no keywords
        self.dismiss(yes)
