"""The lists of the scores screens: the table of tasks, the items, the answers of one item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from ckptdiff.scores.paired import choices_of, is_flip
from ckptdiff.text import printable
from ckptdiff.tui.text.scores import (
    choice_head,
    choice_row,
    item_head,
    item_row,
    table_head,
    table_row,
    table_widths,
)
from ckptdiff.tui.widgets.cursor_list import LineList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.strip import Strip

    from ckptdiff.scores.results import Item, TaskScore

WITH_TASKS = 70  # cells of the list from which on an item's task is shown
WIDEST_TASK = 24  # cells


class ScoreTable(LineList["TaskScore"]):
    """The table: a row for each metric of each task."""

    HEADER = 1
    ALLOW_MAXIMIZE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "open", "Its items", id="scores.task",
            tooltip="list the items of this task alone; esc lists all again",
        ),
    ]  # fmt: skip

    @dataclass
    class Opened(Message):
        """The items of this task are wanted."""

        row: TaskScore

    def line(self, row: TaskScore, width: int) -> str:
        widths = table_widths(width, self.rows)
        return table_row(row, width, widths, ascii_only=self.ascii_only)

    def header_strip(self, width: int) -> Strip:
        return self.text_strip(table_head(width, table_widths(width, self.rows)), width, "header")

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened(self.row))


class ItemList(LineList["Item"]):
    """The items, those that the sides choose otherwise marked."""

    HEADER = 1
    ALLOW_MAXIMIZE = True
    COMPONENT_CLASSES: ClassVar[set[str]] = {"line-list--flip"}
    DEFAULT_CSS = """
    ItemList { .line-list--flip { color: $warning; text-style: bold; } }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "open", "Open", id="scores.item",
            tooltip="show the question, its answers, and what both sides give for each",
        ),
    ]  # fmt: skip

    @dataclass
    class Opened(Message):
        """The item under the cursor is wanted."""

        item: Item

    def show(self, rows: Sequence[Item], empty_words: str) -> None:
        self._longest_task = max((len(printable(row.task)) for row in rows), default=0)
        super().show(rows, empty_words)

    def _task_width(self, width: int) -> int:
        return min(WIDEST_TASK, self._longest_task) if width >= WITH_TASKS else 0

    def word(self, row: Item) -> str:
        return "flip" if is_flip(row) else ""

    def line(self, row: Item, width: int) -> str:
        return item_row(row, width, self._task_width(width), ascii_only=self.ascii_only)

    def header_strip(self, width: int) -> Strip:
        return self.text_strip(item_head(width, self._task_width(width)), width, "header")

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened(self.row))


class AnswerList(LineList[int]):
    """The answers of one item, by their numbers from 0."""

    HEADER = 1
    ALLOW_MAXIMIZE = True
    COMPONENT_CLASSES: ClassVar[set[str]] = {"line-list--flip", "line-list--right"}
    DEFAULT_CSS = """
    AnswerList {
        .line-list--flip { color: $warning; text-style: bold; }
        .line-list--right { text-style: bold; }
    }
    """

    def show_item(self, item: Item, at: int) -> None:
        """Show the answers of an item, with the cursor on one."""
        self._item = item
        self.show(range(len(item.answers)), "This item has no answers.")
        self.cursor = at

    def word(self, row: int) -> str:
        if is_flip(self._item) and row in (choices_of(self._item) or ()):
            return "flip"
        return "right" if row == self._item.target else ""

    def line(self, row: int, width: int) -> str:
        return choice_row(self._item, row, width, ascii_only=self.ascii_only)

    def header_strip(self, width: int) -> Strip:
        return self.text_strip(choice_head(width), width, "header")
