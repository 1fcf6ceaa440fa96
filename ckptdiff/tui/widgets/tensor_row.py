"""The columns of the tensor list and the text of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, format_cosine, format_number, format_shape, printable
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS, WORDS, tally
from ckptdiff.tui.model.inventory import Layer, Unmapped
from ckptdiff.tui.words import plural, short_name, shorten

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.tui.model.session import Session

    Cells = list[tuple[str, str]]  # text, and its component class of the list, or ""

GUTTER = 4  # cells: blank, glyph, number of a finding or blank, blank
MAX, COS = 8, 6  # cells of the columns
DTYPE, SIZE = 8, 8
SHAPES = (9, 16)  # the least and the most cells of the shape column
NO_COSINE = 45  # cells; a narrower list has no cosine and no shapes


@dataclass(frozen=True, slots=True)
class Columns:
    """The width of each column in cells; 0 for a column that is not shown."""

    width: int
    name: int
    shape: int
    max_abs: int = 0
    cosine: int = 0
    dtype: int = 0
    size: int = 0

    @property
    def tail(self) -> int:
        """The cells of the numbers, or of words in their place."""
        return self.max_abs + 1 + self.cosine if self.cosine else self.max_abs


def columns(width: int, *, shape: int, browsing: bool) -> Columns:
    """Return the columns that fit. Numbers keep their width; the names get the rest."""
    shape = max(SHAPES[0], min(shape, SHAPES[1])) + 1 if width >= NO_COSINE else 0
    shape_cells = shape + 1 if shape else 0
    if browsing:
        name = max(1, width - GUTTER - shape_cells - DTYPE - SIZE - 3)
        return Columns(width, name, shape, dtype=DTYPE, size=SIZE)
    cosine = COS if width >= NO_COSINE else 0
    name = max(1, width - GUTTER - 1 - shape_cells - MAX - 1 - cosine - 1)
    return Columns(width, name, shape, max_abs=MAX, cosine=cosine)


def header_cells(layout: Columns) -> Cells:
    """Return the header."""
    line = f" {'St' if not layout.dtype else '  '} {'Tensor':<{layout.name}} "
    line += _shape("Shape", layout)
    if layout.dtype:
        line += f"{'Dtype':<{layout.dtype}} {'Size':>{layout.size}}"
    else:
        line += f"{'max|d|':<{layout.max_abs}}"
    if layout.cosine:
        line += f" {'cos':<{layout.cosine}}"
    return [(line, "header")]


def row_cells(session: Session, row: str | Layer | Unmapped, layout: Columns) -> Cells:
    """Return one row of the list."""
    if isinstance(row, Layer):
        return _layer_cells(session, row, layout)
    if isinstance(row, Unmapped):
        return _unmapped_cells(session, row, layout)
    return _tensor_cells(session, row, layout)


def _tensor_cells(session: Session, name: str, layout: Columns) -> Cells:
    a, b = session.assemblies(name)
    status = session.status(name)
    label = _label(session, name, a, b, layout.name)
    either = a or b
    result = session.result(name)
    shape = format_shape(either.shape) if either is not None else ""
    if either is None and result is not None:
        shape = format_shape(result.shape_a or result.shape_b)
    if session.browsing:
        if either is None:
            words = _fit(
                f"not readable; {key('list.open', 'Enter')} says why",
                layout.shape + DTYPE + SIZE + 2,
            )
            return [(f" {GLYPHS[status]}  ", status), (f"{label} {words}", status)]
        size = format_bytes(session.nbytes(name))
        text = (
            f"{label} {_shape(shape, layout)}{either.dtype:<{layout.dtype}} {size:>{layout.size}}"
        )
        return [(" " * GUTTER, ""), (text, "")]
    quiet = status if status in ("same", "to_do", "undone") else ""
    cells: Cells = [
        (f" {GLYPHS[status]}{mark(session, name)} ", status),
        (f"{label} {_shape(shape, layout)}", quiet),
    ]
    if result is not None and result.numbers is not None:
        numbers = f"{format_number(result.numbers.max_abs):<{layout.max_abs}}"
        if layout.cosine:
            numbers += f" {format_cosine(result.numbers.cosine):<{layout.cosine}}"
        cells.append((numbers, status))
    elif status == "shape" and b is not None:
        cells.append((_fit(f"B {format_shape(b.shape)}", layout.tail), status))
    elif status != "to_do":
        cells.append((_fit(WORDS[status], layout.tail), status))
    return cells


def mark(session: Session, name: str) -> str:
    """Return the mark of the finding that covers a row: its number, or a blank."""
    return session.diagnosis.marks.get(name, " ")


def _label(session: Session, name: str, a: Assembly | None, b: Assembly | None, width: int) -> str:
    layer = None if session.tensors.flat else session.layer_of(name)
    label = f"  {name[len(layer.title) + 1 :]}" if layer is not None else name
    label = printable(label)
    rows = (a.padding_rows if a else 0) + (b.padding_rows if b else 0)
    note = f"  (+{plural(rows, 'padding row')})" if rows else ""
    if len(label) + len(note) <= width:
        label += note
    elif rows and len(label) + len(short := f"  (+{rows})") <= width:
        label += short
    if len(label) > width:
        label = label.removesuffix(".weight")
    if layer is None:
        label = short_name(label, width, ascii_only=session.ascii_only)
    return _fit(label, width, ascii_only=session.ascii_only)


def _layer_cells(session: Session, layer: Layer, layout: Columns) -> Cells:
    unfolded = session.tensors.is_unfolded(layer)
    title = printable(layer.title)
    head = (f" {'-' if unfolded else '+'}  ", "layer")
    if session.browsing:
        label = _fit(title, layout.name, ascii_only=session.ascii_only)
        count = _shape(plural(len(layer.names), "tensor"), layout)
        size = f"{format_bytes(layer.nbytes):>{layout.size}}"
        return [head, (f"{label} ", "layer"), (f"{count}{'':<{layout.dtype}} {size}", "")]
    counts = tally(layer.counts)
    if (unfolded and not session.narrowed) or not counts:
        parts: Cells = [(plural(len(layer.names), "tensor"), "")]
    elif len(counts) == 1 and counts[0][0] in ("to_do", "comparing", "undone"):
        parts = [(f"{GLYPHS[word]} {count} {WORDS[word]}", word) for word, count in counts]
    else:
        parts = [(f"{GLYPHS[status]} {count}", status) for status, count in counts]
    length = sum(len(text) + 2 for text, _ in parts) - 2
    room = layout.shape
    # Counts wider than the shape column extend to the left, into the name column.
    over = max(0, length - room) if room else length + 1
    label = _fit(title, max(1, layout.name - over), ascii_only=session.ascii_only)
    cells: Cells = [head, (f"{label} ", "layer")]
    cells += parts[:1] + [(f"  {part}", word) for part, word in parts[1:]]
    cells.append((" " * (max(0, room - length) + 1), ""))
    if layer.max_abs is not None and layer.cosine is not None:
        numbers = f"{format_number(layer.max_abs):<{layout.max_abs}}"
        if layout.cosine:
            numbers += f" {format_cosine(layer.cosine):<{layout.cosine}}"
        # The statuses that have numbers.
        measured = ("differ", "matched", "close", "same")
        cells.append((numbers, next((word for word in measured if layer.counts[word]), "")))
    return cells


def _unmapped_cells(session: Session, row: Unmapped, layout: Columns) -> Cells:
    status = f"only_{row.side}"
    label = _fit(printable(row.name), layout.name, ascii_only=session.ascii_only)
    shape = "" if row.ref is None else format_shape(row.ref.shape)
    if session.browsing and row.ref is not None:
        size = format_bytes(row.ref.nbytes)
        text = f"{_shape(shape, layout)}{row.ref.dtype:<{layout.dtype}} {size:>{layout.size}}"
        return [(" " * GUTTER, ""), (f"{label} {text}", "")]
    words = f"{'no rule' if row.ref is not None else 'no name'}, {row.side.upper()}"
    words = _fit(words, layout.tail)
    cells = f"{label} {_shape(shape, layout)}{words}"
    return [(f" {GLYPHS[status]}  ", status), (cells, status)]


def _fit(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return text of exactly `width` characters: padded, or shortened in its middle."""
    return f"{shorten(text, width, ascii_only=ascii_only):<{width}}"


def _shape(text: str, layout: Columns) -> str:
    """Return text in the column of shapes with the blank behind it; "" where there is none."""
    return f"{_fit(text, layout.shape)} " if layout.shape else ""
