"""The inputs of the scores screen: tasks, and how many items of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.tui.widgets.seen_input import SeenInput


class TaskInput(SeenInput):
    """Takes tasks, or a number of items."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Run", id="tasks.run", tooltip="compare the scores of these"),
        # Textual's Input copies with ctrl+c.
        Binding(
            "ctrl+c", "app.interrupt", "Stop", show=False, id="tasks.interrupt",
            tooltip="stop what runs",
        ),
        Binding(
            "escape", "leave", "Leave", id="tasks.leave",
            tooltip="go to the table, or without one go back",
        ),
    ]  # fmt: skip

    @dataclass
    class Left(Message):
        """Escape was pressed."""

    def __init__(self, text: str, hint: str, *, numbers: bool = False, id: str) -> None:  # noqa: A002
        super().__init__(
            text,
            placeholder=hint,
            compact=True,
            select_on_focus=False,
            restrict="[0-9]*" if numbers else None,
            id=id,
        )
        self.cursor_blink = False

    def action_leave(self) -> None:
        self.post_message(self.Left())
