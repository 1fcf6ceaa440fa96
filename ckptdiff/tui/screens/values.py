"""The screen of the values around one element."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.worker import Worker, WorkerState

from ckptdiff.assembly.views import matrix_at
from ckptdiff.comparison.inspect import find_largest
from ckptdiff.text import printable
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.storage import place_parts, sides_of
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.widgets.seen_input import SeenInput
from ckptdiff.tui.widgets.values import Values
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.widgets import Input

    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.text.lines import Line
    from ckptdiff.tui.text.storage import StoredSide


class ElementLine(SeenInput):
    """The input for the index of an element."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="element.close", tooltip="stay where you are"),
    ]

    def __init__(self, dimensions: int) -> None:
        words = {1: "element", 2: "row, column"}.get(dimensions, f"{dimensions} numbers")
        super().__init__(placeholder=words, compact=True)
        self.cursor_blink = False

    async def action_close(self) -> None:
        await self.remove()


class ValuesScreen(BaseScreen[None]):
    """Shows values, at first around the largest difference of the tensor or of `block`.

    `block` is the rows and columns of a cell of the heat map.
    """

    DEFAULT_CSS = """
    ValuesScreen {
        #values-title { height: 1; padding: 0 1; }
        Values { padding: 0 1; }
        ElementLine { padding: 0 1; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "ask_element",
            "Go to",
            key_display="/",
            id="values.go_to",
            tooltip="go to an element: its index, as in 3071, 12",
        ),
        Binding(
            "y",
            "copy_place",
            "Copy place",
            id="values.copy",
            tooltip="copy the file, the stored name and the byte of this element, of both sides",
        ),
    ]

    def __init__(
        self, session: Session, name: str, *, block: tuple[range, range] | None = None
    ) -> None:
        super().__init__()
        self._session = session
        self._tensor = name
        self._sides: Sequence[StoredSide] = sides_of(session, name)
        self._block = block

    def compose_body(self) -> ComposeResult:
        yield Words(id="values-title")
        maximum = self._maximum()
        at = maximum or (0, 0)
        if self._block is not None and not self._holds(maximum):
            at = self._block[0].start, self._block[1].start
        yield Values(
            self._sides,
            lambda: self._session.executor,
            at=at,
            maximum=maximum,
            ascii_only=self._session.ascii_only,
        )

    def on_mount(self) -> None:
        self.query_one("#values-title", Words).show(self._title)
        self.query_one(Values).focus()
        a, b = self._session.assemblies(self._tensor)
        if self._block is not None and not self._holds(self._maximum()) and a and b:
            self._find_largest()

    def _title(self, width: int) -> list[Line]:
        kinds = ", ".join(
            f"{side.letter} {side.assembly.dtype.lower()}"
            for side in self._sides
            if side.assembly is not None
        )
        words = f"values  {kinds}"
        name = shorten(
            printable(self._tensor), width - len(words) - 2, ascii_only=self._session.ascii_only
        )
        return [line((f"{name:<{max(0, width - len(words))}}", "strong"), words)]

    def _maximum(self) -> tuple[int, int] | None:
        result = self._session.result(self._tensor)
        if result is None or result.numbers is None or result.numbers.max_at is None:
            return None
        return matrix_at(result.numbers.max_at, result.shape_a or ())

    def _holds(self, element: tuple[int, int] | None) -> bool:
        """Return whether an element is in the block."""
        if element is None or self._block is None:
            return False
        return element[0] in self._block[0] and element[1] in self._block[1]

    @work(thread=True, exclusive=True, exit_on_error=False, group="largest")
    def _find_largest(self) -> tuple[int, int]:
        a, b = self._session.assemblies(self._tensor)
        rows, columns = self._block or (range(1), range(1))
        if a is None or b is None:
            return rows.start, columns.start
        executor = self._session.executor
        return find_largest(a, b, rows=rows, columns=columns, executor=executor).result()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.group != "largest":
            return
        if event.state is WorkerState.SUCCESS and event.worker.result is not None:
            self.query_one(Values).go_to(*event.worker.result)
        elif event.state is WorkerState.ERROR:
            self.notify(printable(str(event.worker.error)), severity="error", markup=False)

    # ── keys ─────────────────────────────────────────────────────────────────────────────────

    def action_ask_element(self) -> None:
        if not self.query(ElementLine):
            field = ElementLine(len(self.query_one(Values).tensor_shape))
            self.mount(field, after=self.query_one(Values))
            field.focus()

    async def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        values = self.query_one(Values)
        shape = values.tensor_shape
        numbers = re.findall(r"\d+", message.value)
        index = tuple(map(int, numbers))
        if len(index) != len(shape) or any(i >= size for i, size in zip(index, shape, strict=True)):
            self.notify(f"Type {len(shape)} numbers below {list(shape)}.", severity="warning")
            return
        await message.input.remove()
        values.focus()
        values.go_to(*matrix_at(index, shape))

    def action_copy_place(self) -> None:
        index = self.query_one(Values).index
        places = ["  ".join(place_parts(side, index)) for side in self._sides]
        self.app.copy("\n".join(places))
