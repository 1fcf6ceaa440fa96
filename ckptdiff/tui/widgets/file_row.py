"""The columns of the view of files and the text of its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, format_number, format_shape, printable
from ckptdiff.tui.model.comparison import GLYPHS, WORDS, tally
from ckptdiff.tui.model.stored import HeldFile
from ckptdiff.tui.text.stored import fills_words, ranks_words
from ckptdiff.tui.widgets.tensor_row import DTYPE, GUTTER, MAX, SHAPES, SIZE
from ckptdiff.tui.words import fitted, plural, shorten

if TYPE_CHECKING:
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.model.stored import StoredRow
    from ckptdiff.tui.widgets.tensor_row import Cells

FILLS = (60, 16)  # cells: of a list with the column, and of the column at least
SIZES = 84  # cells of a list with sizes
LEAST_TAIL = 10  # cells of a shortened name behind its number
_NUMBERED = re.compile(r"\D*(\d+)(?=\.)")  # a name up to its first number
DTYPES = 100  # cells of a list with dtypes


@dataclass(frozen=True, slots=True)
class FileColumns:
    """The width of each column in cells; 0 for a column that is not shown."""

    name: int
    shape: int
    dtype: int
    size: int
    fills: int
    max_abs: int


def file_columns(width: int, *, shape: int, browsing: bool) -> FileColumns:
    """Return the columns that fit; the names get what the others leave."""
    shape = max(SHAPES[0], min(shape, SHAPES[1])) + 1
    size = SIZE if width >= SIZES or browsing else 0
    dtype = DTYPE if width >= DTYPES else 0
    fills = max(FILLS[1], width * 3 // 10) if width >= FILLS[0] else 0
    max_abs = 0 if browsing else MAX
    used = [each for each in (shape, dtype, size, fills, max_abs) if each]
    name = max(1, width - GUTTER - sum(used) - len(used) - 1)
    return FileColumns(name, shape, dtype, size, fills, max_abs)


def file_header(layout: FileColumns) -> Cells:
    """Return the header."""
    names = _line(layout, "Stored tensor", "Shape", "Dtype", f"{'Size':>{SIZE}}", "Fills")
    max_abs = "max|d|" if layout.max_abs else ""
    return [(f" {'St' if layout.max_abs else '  '} {names}{max_abs}", "header")]


def file_cells(session: Session, row: HeldFile | StoredRow, layout: FileColumns) -> Cells:
    """Return one row: a file, or a tensor in it."""
    if isinstance(row, HeldFile):
        return _heading_cells(session, row, layout)
    return _stored_cells(session, row, layout)


def _stored_cells(session: Session, row: StoredRow, layout: FileColumns) -> Cells:
    ascii_only = session.ascii_only
    status = session.files.status(row)
    name = "  " + _stored_name(printable(row.name), layout.name - 2, ascii_only=ascii_only)
    text = _line(
        layout,
        name,
        format_shape(row.ref.shape),
        row.ref.dtype,
        f"{format_bytes(row.ref.nbytes):>{SIZE}}",
        fills_words(session, row),
        ascii_only=ascii_only,
    )
    if session.browsing or not status:
        return [(" " * GUTTER, ""), (text, "")]
    mark = next((m for name in row.fills if (m := session.diagnosis.marks.get(name))), " ")
    quiet = status if status in ("same", "to_do", "undone") else ""
    worst = session.files.worst(row)
    ending = WORDS[status] if status != "to_do" else ""
    if row.use == "unmapped":
        ending = ""
    elif worst is not None:
        ending = format_number(worst)
    return [(f" {GLYPHS[status]}{mark} ", status), (text, quiet), (ending, status)]


def _heading_cells(session: Session, held: HeldFile, layout: FileColumns) -> Cells:
    side = session.files.side
    unfolded = session.files.is_unfolded(held)
    ranks = "" if side is None else ranks_words(held, side.checkpoint)
    size = format_bytes(held.nbytes)
    name = _heading(
        held, ranks, "" if layout.size else size, layout.name, ascii_only=session.ascii_only
    )
    count = plural(len(held.tensors), "tensor")
    if session.browsing:
        line = _line(layout, name, count, "", f"{size:>{SIZE}}", "")
        return [(f" {'-' if unfolded else '+'}  ", "layer"), (line, "layer")]
    counts, max_abs = session.files.tally(held)
    found = tally(counts)
    worst = found[0][0] if found else ""
    line = _line(layout, name, count, "", f"{size:>{SIZE}}", None)
    cells: Cells = [(f" {'-' if unfolded else '+'}  ", "layer"), (line, "layer")]
    used = 0
    if layout.fills:
        for status, number in found:
            part = f"{GLYPHS[status]} {number}  "
            if used + len(part) > layout.fills:
                break
            cells.append((part, status))
            used += len(part)
        cells.append((" " * (layout.fills - used + 1), ""))
    cells.append(("" if max_abs is None else format_number(max_abs), worst))
    return cells


def _heading(held: HeldFile, ranks: str, size: str, width: int, *, ascii_only: bool) -> str:
    """Return a file's name, ranks and size: in a narrow column its folder, and no size."""
    name = printable(held.name)
    for words in ((name, ranks, size), (held.folder or name, ranks, size)):
        text = "  ".join(filter(None, words))
        if len(text) <= width:
            return text
    room = width - len(ranks) - 2 if ranks else width
    short = shorten(held.folder or name, max(8, room), ascii_only=ascii_only)
    return "  ".join(filter(None, (short, ranks)))


def _stored_name(name: str, width: int, *, ascii_only: bool) -> str:
    """Return a name that fits and keeps its first number: the layer's, as a rule."""
    found = _NUMBERED.match(name)
    if len(name) <= width or found is None:
        return shorten(name, width, ascii_only=ascii_only)
    dots = ".." if ascii_only else "…"
    front = found.group() + dots
    if len(front) + LEAST_TAIL <= width:
        return front + name[-(width - len(front)) :]
    return dots + shorten(name[found.start(1) :], width - len(dots), ascii_only=ascii_only)


def _line(
    layout: FileColumns,
    name: str,
    shape: str,
    dtype: str,
    size: str,
    fills: str | None,
    *,
    ascii_only: bool = False,
) -> str:
    """Return the columns up to the last in order, each followed by a blank."""
    columns = (
        (name, layout.name),
        (shape, layout.shape),
        (dtype, layout.dtype),
        (size, layout.size),
        (fills, layout.fills),
    )
    return "".join(
        f"{fitted(text, width, ascii_only=ascii_only)} "
        for text, width in columns
        if width and text is not None
    )
