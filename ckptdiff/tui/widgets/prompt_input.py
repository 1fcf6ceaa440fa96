"""The input for a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.tui.widgets.seen_input import SeenInput

if TYPE_CHECKING:
    from ckptdiff.tui.model.prompt_run import PromptHistory


class PromptInput(SeenInput):
    """Takes a prompt. Up and down go through those since the app started."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Run", id="prompt.run", tooltip="give both sides this prompt"),
        Binding(
            "up", "history(-1)", "History", key_display="up", id="prompt.before",
            tooltip="the prompt before; prompts are kept until ckptdiff ends, and never saved",
        ),
        Binding(
            "down", "history(1)", "Later", show=False, id="prompt.after", tooltip="the prompt after"
        ),
        # Textual's Input copies with ctrl+c.
        Binding(
            "ctrl+c", "app.interrupt", "Stop", show=False, id="prompt.interrupt",
            tooltip="stop what runs",
        ),
        Binding(
            "escape", "leave", "Leave", id="prompt.leave",
            tooltip="go to what the last prompt told, or without one go back",
        ),
    ]  # fmt: skip

    @dataclass
    class Left(Message):
        """Escape was pressed."""

    def __init__(self, text: str, history: PromptHistory) -> None:
        super().__init__(
            text,
            placeholder="some text, or token ids such as 1,2,3",
            compact=True,
            select_on_focus=False,
        )
        self.cursor_blink = False
        self._history = history

    def action_history(self, step: Literal[1, -1]) -> None:
        self.value = self._history.go(step, self.value)
        self.cursor_position = len(self.value)

    def action_leave(self) -> None:
        self.post_message(self.Left())
