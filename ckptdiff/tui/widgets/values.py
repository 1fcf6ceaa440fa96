"""The values around one element: of both sides, with their difference, ULP distance, bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.worker import Worker, WorkerState

from ckptdiff.assembly.views import index_at, matrix_shape
from ckptdiff.comparison.inspect import windows
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.text import format_number, printable
from ckptdiff.tui.text.lines import line
from ckptdiff.tui.text.storage import place_parts
from ckptdiff.tui.widgets.painted import Painted
from ckptdiff.tui.words import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from textual.events import MouseScrollDown, MouseScrollUp

    from ckptdiff.comparison.inspect import Neighbourhood
    from ckptdiff.tui.text.lines import Line, StyledText
    from ckptdiff.tui.text.storage import StoredSide

DIGITS = {"F64": 10, "F32": 7, "F16": 5}  # significant ones, enough to see most differences
FEWEST_DIGITS = 4
DIFFERENCE = 11  # cells below bits: blanks, and `-1.1e-01` or the 65,535 ULP of 16 bits
MOST_STEPS = 10**9  # ULP that are shown in full: they fit below the bits of 32-bit values
LABEL = 14  # cells of the row number and of what the line holds
MARGIN = 3  # times the rows and columns in sight are read
Kind = Literal["a", "b", "difference", "ulp"]


def cell_width(dtypes: Sequence[str], *, bits: bool) -> int:
    """Return the cells of one value and the blank before it, or of a difference below it."""
    if bits:
        widest = 2 * max(ITEMSIZE[dtype] for dtype in dtypes) + 4
        return max(widest, DIFFERENCE) if len(dtypes) > 1 else widest
    return max(DIGITS.get(dtype, FEWEST_DIGITS) for dtype in dtypes) + 8


def element_text(value: float | None, dtype: str) -> str:
    """Return a value with the significant digits of its dtype."""
    if value is None:
        return "-"
    if dtype[0] in "IUB" and dtype != "BF16":
        return str(int(value))
    return format_number(value, DIGITS.get(dtype, FEWEST_DIGITS))


def bits_text(bits: int | None, dtype: str) -> str:
    return "-" if bits is None else f"0x{bits:0{2 * ITEMSIZE[dtype]}x}"


def grid_lines(
    found: Neighbourhood | None,
    rows: range,
    columns: range,
    *,
    dtypes: tuple[str | None, str | None],
    cursor: tuple[int, int],
    bits: bool,
) -> list[Line]:
    """Draw the elements. A row has a line for each side; of two, also difference and ULP."""
    known = [dtype for dtype in dtypes if dtype is not None]
    cell = cell_width(known, bits=bits)
    head = "".join(f"{f'col {column}':>{cell}}" for column in columns)
    lines = [line(" " * LABEL, (head, "dim"))]
    kinds: list[tuple[Kind, str]] = []
    if dtypes[0] is not None:
        kinds.append(("a", "A"))
    if dtypes[1] is not None:
        kinds.append(("b", "B"))
    if len(kinds) == 2:
        kinds += [("difference", "A-B"), ("ulp", "ulp")]
    for row in rows:
        for number, (kind, word) in enumerate(kinds):
            name = f"row {row}" if number == 0 else ""
            spans: list[StyledText] = [
                (f"{name:<{LABEL - 4}}{word:>3} ", "" if number == 0 else "dim")
            ]
            for column in columns:
                text, differs = _cell(found, kind, row, column, dtypes, bits=bits)
                role = "cursor" if (row, column) == cursor else "differ" if differs else ""
                spans += [(" ", ""), (f"{text:>{cell - 1}}", role)]
            lines.append(tuple(spans))
    return lines


def _cell(
    found: Neighbourhood | None,
    kind: Kind,
    row: int,
    column: int,
    dtypes: tuple[str | None, str | None],
    *,
    bits: bool,
) -> tuple[str, bool]:
    """Return the text of one cell, and whether it shows a difference."""
    if found is None or row not in found.rows or column not in found.columns:
        return "", False
    i, j = row - found.rows.start, column - found.columns.start
    if kind == "difference":
        value = found.differences[i][j]
        return ("-" if value is None else format_number(value)), bool(value)
    if kind == "ulp":
        steps = found.ulps[i][j] if found.ulps else None
        if steps is None:
            return "-", False
        return (f"{steps:,}" if steps < MOST_STEPS else format_number(steps)), bool(steps)
    side, dtype = (found.a, dtypes[0]) if kind == "a" else (found.b, dtypes[1])
    if side is None or dtype is None:
        return "-", False
    if bits:
        return bits_text(side.bits[i][j], dtype), False
    return element_text(side.values[i][j], dtype), False


def place_lines(
    sides: Sequence[StoredSide], index: tuple[int, ...], width: int, *, ascii_only: bool
) -> list[Line]:
    """Return where an element is stored on each side, in one line or two."""
    lines: list[Line] = []
    for side in sides:
        parts = place_parts(side, index)
        head: StyledText = (f"{side.label}  ", "strong")
        whole = "  ".join(parts)
        if len(whole) + 3 <= width or len(parts) < 3:
            lines.append(line(head, whole))
            continue
        file, key, byte = parts
        lines.append(line(head, shorten(f"{file}  {byte}", width - 3, ascii_only=ascii_only)))
        lines.append(line("   ", shorten(key, width - 3, ascii_only=ascii_only)))
    return lines


class Values(Painted, can_focus=True):
    """Shows a part of one tensor on both sides, with a cursor. A thread reads the values."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="values.up", tooltip="one row up"),
        Binding(
            "down,j", "move(1, 0)", "Down", show=False, id="values.down", tooltip="one row down"
        ),
        Binding(
            "left,h", "move(0, -1)", "Left", show=False, id="values.left", tooltip="one column left"
        ),
        Binding(
            "right,l",
            "move(0, 1)",
            "Right",
            show=False,
            id="values.right",
            tooltip="one column right",
        ),
        Binding(
            "ctrl+d,pagedown",
            "page(1)",
            "Page down",
            show=False,
            id="values.page_down",
            tooltip="a screenful of rows down",
        ),
        Binding(
            "ctrl+u,pageup",
            "page(-1)",
            "Page up",
            show=False,
            id="values.page_up",
            tooltip="a screenful of rows up",
        ),
        Binding(
            "g",
            "maximum",
            "To the maximum",
            id="values.maximum",
            tooltip="go to the element that differs most",
        ),
        Binding("b", "bits", "Bits", id="values.bits", tooltip="raw bits instead of values"),
    ]
    DEFAULT_CSS = """
    Values { height: 1fr; }
    """

    @dataclass
    class Moved(Message):
        """The cursor is on another element, or the values are shown in another form."""

        index: tuple[int, ...]

    def __init__(
        self,
        sides: Sequence[StoredSide],
        executor: Callable[[], Executor],
        *,
        at: tuple[int, int],
        maximum: tuple[int, int] | None = None,
        ascii_only: bool = False,
    ) -> None:
        super().__init__()
        self.sides = tuple(sides)
        self.cursor = at
        self.maximum = maximum
        self.bits = False
        self.found: Neighbourhood | None = None
        self.error = ""
        self.reading = False
        self.ascii_only = ascii_only
        self._executor = executor
        self._origin = (max(0, at[0] - 1), max(0, at[1] - 2))
        self._shapes = [matrix_shape(s.assembly.shape) for s in sides if s.assembly is not None]

    # ── drawing ──────────────────────────────────────────────────────────────────────────────

    @property
    def shape(self) -> tuple[int, int]:
        """The rows and columns of the larger side, as a matrix."""
        return max(rows for rows, _ in self._shapes), max(cols for _, cols in self._shapes)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of the larger side, as the tensor has it."""
        return max(side.assembly.shape for side in self.sides if side.assembly is not None)

    @property
    def index(self) -> tuple[int, ...]:
        """The index in the tensor of the element under the cursor."""
        return index_at(self.cursor, self.tensor_shape)

    @property
    def _dtypes(self) -> tuple[str | None, str | None]:
        by_letter = {s.letter: s.assembly.dtype for s in self.sides if s.assembly is not None}
        return by_letter.get("A"), by_letter.get("B")

    def _shown(self, width: int, height: int) -> tuple[range, range]:
        """Return the rows and columns in sight, scrolled so that the cursor is among them."""
        known = [dtype for dtype in self._dtypes if dtype is not None]
        lines_of_row = 4 if len(known) == 2 else 1
        footer_lines = 2 + 2 * len(self.sides)
        rows = max(1, (height - 1 - footer_lines) // lines_of_row)
        columns = max(1, (width - LABEL) // cell_width(known, bits=self.bits))
        starts = []
        for axis, count in enumerate((rows, columns)):
            at, start, size = self.cursor[axis], self._origin[axis], self.shape[axis]
            start = max(min(start, at), at - count + 1)
            starts.append(max(0, min(start, size - count)))
        self._origin = (starts[0], starts[1])
        return (
            range(starts[0], min(starts[0] + rows, self.shape[0])),
            range(starts[1], min(starts[1] + columns, self.shape[1])),
        )

    def lines(self, width: int, height: int) -> list[Line]:
        rows, columns = self._shown(width, height)
        lines = grid_lines(
            self.found, rows, columns, dtypes=self._dtypes, cursor=self.cursor, bits=self.bits
        )
        places = place_lines(self.sides, self.index, width, ascii_only=self.ascii_only)
        lines += [()] * (height - len(lines) - 2 - len(places))
        return [*lines, self._state(), self._element(width), *places]

    def _state(self) -> Line:
        if self.error:
            return line((printable(self.error), "error"))
        rows, columns = self.shape
        if self.reading:
            return line(
                (f"reading {self._letters()} {'...' if self.ascii_only else '…'}", "strong")
            )
        return line((f"{rows} rows, {columns} columns", "dim"))

    def _letters(self) -> str:
        return " and ".join(side.letter for side in self.sides if side.assembly is not None)

    def _element(self, width: int) -> Line:
        """Return value and bits of the element under the cursor, and its difference.

        Bits that do not fit are left out: they would look whole where they are cut.
        """
        whole, short = self._element_parts(bits=True), self._element_parts(bits=False)
        return whole if sum(len(text) for text, _ in whole) <= width else short

    def _element_parts(self, *, bits: bool) -> Line:
        spans: list[StyledText] = [(str(list(self.index)), "strong")]
        row, column = self.cursor
        dtypes = self._dtypes
        for kind, word, dtype in (("a", "A", dtypes[0]), ("b", "B", dtypes[1])):
            if dtype is not None:
                value = _cell(self.found, kind, row, column, dtypes, bits=False)[0]  # type: ignore[arg-type]
                spans.append((f"  {word} {value}", ""))
                if bits:
                    stored = _cell(self.found, kind, row, column, dtypes, bits=True)[0]  # type: ignore[arg-type]
                    spans.append((f" {stored}", ""))
        if None not in dtypes and self.found is not None:
            difference = _cell(self.found, "difference", row, column, dtypes, bits=False)[0]
            steps = _cell(self.found, "ulp", row, column, dtypes, bits=False)[0]
            spans.append((f"  A-B {difference}  ulp {steps}", ""))
        return tuple(spans)

    # ── moving ───────────────────────────────────────────────────────────────────────────────

    def go_to(self, row: int, column: int) -> None:
        """Move the cursor to an element, or to the nearest one that exists."""
        rows, columns = self.shape
        self.cursor = (max(0, min(row, rows - 1)), max(0, min(column, columns - 1)))
        self.changed()
        self._read_around()
        self.post_message(self.Moved(self.index))

    def action_move(self, down: int, across: int) -> None:
        self.go_to(self.cursor[0] + down, self.cursor[1] + across)

    def action_page(self, step: int) -> None:
        rows, _ = self._shown(*self.content_size)
        self.go_to(self.cursor[0] + step * len(rows), self.cursor[1])

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_move(-1, 0)

    def why_not(self, action: str) -> str | None:
        if action == "maximum" and self.maximum is None:
            return "No difference is known here."
        return None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        if action == "maximum" and len(self.sides) == 1:
            return False  # there is nothing to differ from
        return None if self.why_not(action) else True

    def action_maximum(self) -> None:
        if self.maximum is not None:
            self.go_to(*self.maximum)

    def action_bits(self) -> None:
        self.bits = not self.bits
        self.go_to(*self.cursor)

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def on_resize(self) -> None:
        self._read_around()

    def _read_around(self) -> None:
        """Read the values in sight and around them, unless they have been read."""
        rows, columns = self._shown(*self.content_size)
        found = self.found
        if found is not None and all(
            seen.start <= wanted.start and wanted.stop <= seen.stop
            for seen, wanted in ((found.rows, rows), (found.columns, columns))
        ):
            return
        self.reading, self.error = True, ""
        self.changed()
        self._read(self.cursor, MARGIN * len(rows), MARGIN * len(columns))

    @work(thread=True, exclusive=True, exit_on_error=False, group="values")
    def _read(self, around: tuple[int, int], rows: int, columns: int) -> Neighbourhood:
        assemblies = {side.letter: side.assembly for side in self.sides}
        future = windows(
            assemblies.get("A"),
            assemblies.get("B"),
            around=around,
            rows=rows,
            columns=columns,
            executor=self._executor(),
        )
        return future.result()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        event.stop()
        if event.state is WorkerState.SUCCESS:
            self.reading = False
            self.found = event.worker.result
        elif event.state is WorkerState.ERROR:
            self.reading = False
            self.error = str(event.worker.error)
        self.changed()
