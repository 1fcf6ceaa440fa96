"""The rows of the tensor list where it has two panes: each side under its own names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import format_bytes, format_cosine, format_number, format_shape, printable
from ckptdiff.tui.model.comparison import GLYPHS, tally
from ckptdiff.tui.model.inventory import Layer, Unmapped
from ckptdiff.tui.model.own_names import PairNames
from ckptdiff.tui.text.sides import FORMATS, parallelism
from ckptdiff.tui.text.storage import absent_words, axis_word
from ckptdiff.tui.widgets.pair_columns import LEAST_NAME, pair_columns
from ckptdiff.tui.widgets.tensor_row import DTYPE, MAX, SIZE, mark
from ckptdiff.tui.words import fitted, plural, short_name, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.results import TensorDiff
    from ckptdiff.tui.model.own_names import OwnNames, OwnTensor, Pane
    from ckptdiff.tui.model.session import Session
    from ckptdiff.tui.widgets.pair_columns import PairColumns, PaneColumns
    from ckptdiff.tui.widgets.tensor_row import Cells

BRACKETS = {"unicode": ("┌", "│", "└"), "ascii": ("/", "|", "\\")}


class PairRows:
    """Draws the rows of a session in two panes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pair = PairNames(session)
        self._cursor, self._top = -1, 0  # rows of the list

    def columns(self, width: int) -> PairColumns:
        return pair_columns(width, self.session, self.pair)

    # ── rows ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _bar(self) -> str:
        return "|" if self.session.ascii_only else "│"

    def header(self, layout: PairColumns, active: str) -> Cells:
        """Return the header: what each side is, and its columns; that of the active pane is lit."""
        middle = f" {'dtype':<{DTYPE}} {'size':>{SIZE}} "
        if not self.session.browsing:
            middle = f" St {'max|d|':<{MAX}}"
            middle += f" {'cos':<{layout.cosine}}" if layout.cosine else ""
            middle += f" {'rel':<{layout.rel}}" if layout.rel else ""
            middle += f" {'ULP':<{layout.ulp}}" if layout.ulp else ""
            middle += " "
        return [
            *self._pane_header("a", layout.a, active),
            (self._bar, "line"),
            (middle, "header"),
            (self._bar, "line"),
            *self._pane_header("b", layout.b, active),
        ]

    def _pane_header(self, pane: Pane, layout: PaneColumns, active: str) -> Cells:
        own = self.pair.side(pane)
        if own is None:
            words = "Canonical name" if self.session.browsing else pane.upper()
        else:
            checkpoint = own.side.checkpoint
            words = FORMATS.get(checkpoint.format, checkpoint.format)
            words = f"{words} {parallelism(checkpoint)}".rstrip()
            words = words if self.session.browsing else f"{pane.upper()}  {words}"
        text = f" {fitted(words, layout.name + 2)} {'shape':<{layout.shape}}"
        if own is not None:
            for word, size in zip(own.rank_words, layout.ranks, strict=True):
                text += f" {word:<{size}}"
        return [(f"{text} ", "active" if pane == active else "header")]

    def row(self, at: int, layout: PairColumns) -> Cells:
        """Return one row of the list."""
        row = self.session.tensors.rows[at]
        if isinstance(row, Layer):
            return self._heading(row, layout)
        if isinstance(row, Unmapped):
            return self._unmapped(row, layout)
        assert isinstance(row, str)  # rows of files have a view of their own
        status = self.session.status(row)
        quiet = status if status in ("same", "to_do", "undone") else ""
        middle = self._alone(row) if self.session.browsing else self._middle(row, layout)
        return [
            *self._pane("a", at, row, layout.a, quiet),
            (self._bar, "line"),
            *middle,
            (self._bar, "line"),
            *self._pane("b", at, row, layout.b, quiet),
        ]

    def _pane(self, pane: Pane, at: int, name: str, layout: PaneColumns, word: str) -> Cells:
        own, session = self.pair.side(pane), self.session
        layer = None if session.tensors.flat else session.layer_of(name)
        if own is None:
            if not session.browsing:
                return [(" " * layout.width, "")]
            assembly = session.assemblies(name)[0]
            label = printable(name.removeprefix(f"{layer.title}.") if layer else name)
            if len(label) > layout.name:
                label = label.removesuffix(".weight")
            shape = "" if assembly is None else format_shape(assembly.shape)
            return self._cells(("   ", ""), [(label, word)], (shape, ()), layout, word)
        tensor = own.tensor(name)
        nothing: tuple[str, tuple[str, ...]] = ("", ())
        if tensor is None:
            words = absent_words(own.side, name) or f"not in {own.letter}"
            return self._cells(("   ", ""), [(words, "dim")], nothing, layout, word)
        bracket, is_first = self._bracket(own, tensor, at)
        label = printable(own.label(name, layer))
        if len(label) > layout.name:
            label = label.removesuffix(".weight")
        is_named = is_first or (at == self._cursor and self._begins_above(own, tensor, at))
        part = self._part(name, tensor, layout.name - 2 - (len(label) if is_named else 0))
        if not is_named:
            indent = min(len(label) + 2, max(0, layout.name - len(part)))
            spans = [(" " * indent, ""), (part, "dim")]
            return self._cells((f" {bracket} ", "bracket"), spans, nothing, layout, word)
        least = 2 * LEAST_NAME if tensor.padding or tensor.tied else layout.name
        label = _shortened(label, max(least, layout.name - 6), ascii_only=session.ascii_only)
        spans = [(label, word), *self._fitting(self._notes(tensor, part), layout.name - len(label))]
        numbers = format_shape(tensor.shape), tensor.ranks
        return self._cells((f" {bracket} ", "bracket"), spans, numbers, layout, word)

    def _bracket(self, own: OwnNames, tensor: OwnTensor, at: int) -> tuple[str, bool]:
        """Return the piece of the bracket that a row has, and whether the row is its first."""
        rows = self.session.tensors.rows

        def joined(other: int) -> bool:
            row = rows[other] if 0 <= other < len(rows) else None
            return isinstance(row, str) and tensor.shares_with(own.tensor(row))

        up, down = joined(at - 1), joined(at + 1)
        top, middle, bottom = BRACKETS["ascii" if self.session.ascii_only else "unicode"]
        if up and down:
            return middle, False
        if up or down:
            return (bottom, False) if up else (top, True)
        return " ", True

    def _part(self, name: str, tensor: OwnTensor, room: int) -> str:
        """Return which part of a stored tensor a canonical one is: `q  rows 0:16, 24:40`."""
        if not tensor.is_part or tensor.padding:
            return ""
        word = _part_word(name)
        if tensor.ranges:
            shown = ", ".join(f"{start}:{stop}" for start, stop in tensor.ranges[:2])
            more = ", .." if len(tensor.ranges) > 2 else ""
            long = f"{word}  {axis_word(tensor.axis, len(tensor.shape))} {shown}{more}"
            if len(long) <= room:
                return long
        return word if len(word) <= room else ""

    def _notes(self, tensor: OwnTensor, part: str) -> list[str]:
        """Return what is said behind a name, each in the forms that may fit, longest first."""
        notes = [part] if part else []
        if tensor.tied:
            notes.append("tied")
        if tensor.others:
            notes.append(f"and {tensor.others} more")
        if tensor.padding:
            notes.append(f"+{plural(tensor.padding, 'padding row')}")
        return notes

    def _fitting(self, notes: Sequence[str], room: int) -> Cells:
        spans: Cells = []
        for note in notes:
            forms = (note, note.removesuffix(" rows"), note.split(" ")[0])
            chosen = next((words for words in forms if len(words) + 2 <= room), None)
            if chosen is not None:
                spans.append((f"  {chosen}", "dim"))
                room -= len(chosen) + 2
        return spans

    def _cells(
        self,
        gutter: tuple[str, str],
        spans: Cells,
        numbers: tuple[str, tuple[str, ...]],
        layout: PaneColumns,
        word: str,
    ) -> Cells:
        """Return a pane: spans in its name column, then the shape and the ranks."""
        shape, ranks = numbers
        room = layout.name
        ascii_only = self.session.ascii_only
        cells: Cells = [gutter]
        for text, role in spans:
            text = _shortened(text, room, ascii_only=ascii_only)
            cells.append((text, role))
            room -= len(text)
        tail = " " * room + f" {_shape(shape, layout.shape, ascii_only=ascii_only)}"
        for number, size in zip(ranks or ("",) * len(layout.ranks), layout.ranks, strict=True):
            tail += f" {number:<{size}}"
        cells.append((f"{tail} ", word))
        return cells

    # ── between the panes ────────────────────────────────────────────────────────────────────

    def _middle(self, name: str, layout: PairColumns) -> Cells:
        session = self.session
        status, result = session.status(name), session.result(name)
        head = f" {GLYPHS[status]}{mark(session, name)} "
        return [(f"{head}{_numbers(result, layout)} ", status)]

    def _alone(self, name: str) -> Cells:
        assembly = self.session.assemblies(name)[0]
        if assembly is None:
            status = self.session.status(name)
            return [(f" {fitted(f'{GLYPHS[status]} enter says why', DTYPE + 1 + SIZE)} ", status)]
        size = format_bytes(self.session.nbytes(name))
        return [(f" {assembly.dtype:<{DTYPE}} {size:>{SIZE}} ", "")]

    def _heading(self, layer: Layer, layout: PairColumns) -> Cells:
        count = plural(len(layer.names), "tensor")
        count = count if len(count) <= layout.a.shape else f"{len(layer.names):,}"
        bar = (self._bar, "line")
        return [
            *self._pane_heading("a", layer, layout.a, count),
            bar,
            *self._layer_middle(layer, layout),
            bar,
            *self._pane_heading("b", layer, layout.b, ""),
        ]

    def _pane_heading(self, pane: Pane, layer: Layer, layout: PaneColumns, words: str) -> Cells:
        own, session = self.pair.side(pane), self.session
        title, ranks = ("", ()) if own is None else own.heading(layer)
        if own is None and session.browsing:
            title = layer.title
        fold = " - " if session.tensors.is_unfolded(layer) else " + "
        gutter = fold if title else "   ", "layer"
        return self._cells(gutter, [(printable(title), "layer")], (words, ranks), layout, "")

    def _layer_middle(self, layer: Layer, layout: PairColumns) -> Cells:
        session = self.session
        if session.browsing:
            return [(f" {'':<{DTYPE}} {format_bytes(layer.nbytes):>{SIZE}} ", "")]
        counts = tally(layer.counts)
        width = layout.middle
        if not counts:
            return [(" " * width, "")]
        status, count = counts[0]
        words = f" {GLYPHS[status]}{mark(session, layer.title)} "
        if len(counts) > 1 or status not in ("same", "close"):
            words += f"{count} of {len(layer.names)}"
        return [(f"{words:<{width}}"[:width], status)]

    def _unmapped(self, row: Unmapped, layout: PairColumns) -> Cells:
        status = f"only_{row.side}"
        shape = "" if row.ref is None else format_shape(row.ref.shape)
        blank = self._cells(("   ", ""), [], ("", ()), layout.a, "")
        own = [(printable(row.name), status)]
        side: Cells = self._cells(
            ("   ", ""), own, (shape, ()), layout.b if self._is_right(row) else layout.a, status
        )
        if self.session.browsing:
            words = "" if row.ref is None else row.ref.dtype
            size = "" if row.ref is None else format_bytes(row.ref.nbytes)
            middle: Cells = [(f" {words:<{DTYPE}} {size:>{SIZE}} ", "")]
        else:
            width = layout.numbers
            words = "no rule" if row.ref is not None else "no name"
            middle = [(f" {GLYPHS[status]}  {words:<{width}} ", status)]
        bar = [(self._bar, "line")]
        if self._is_right(row):
            return [*blank, *bar, *middle, *bar, *side]
        return [*side, *bar, *middle, *bar, *self._cells(("   ", ""), [], ("", ()), layout.b, "")]

    def _is_right(self, row: Unmapped) -> bool:
        return row.side == "b" or self.session.browsing

    def blank(self, layout: PairColumns) -> Cells:
        """Return a line below the rows."""
        bar = (self._bar, "line")
        return [
            (" " * layout.a.width, ""),
            bar,
            (" " * layout.middle, ""),
            bar,
            (" " * layout.b.width, ""),
        ]

    def at_cursor(self, row: int, top: int) -> None:
        """Say which row the cursor is on: it is named if its bracket begins above the top row."""
        self._cursor, self._top = row, top

    def _begins_above(self, own: OwnNames, tensor: OwnTensor, at: int) -> bool:
        """Return whether the first row of a bracket is out of sight."""
        rows = self.session.tensors.rows
        while at >= self._top:
            row = rows[at - 1] if at else None
            if not isinstance(row, str) or not tensor.shares_with(own.tensor(row)):
                return False
            at -= 1
        return True


def _numbers(result: TensorDiff | None, layout: PairColumns) -> str:
    """Return the columns of numbers; what is of another shape has none."""
    width = layout.numbers
    if result is None or result.numbers is None:
        words = {"shape": "shape", "error": "error", "packed": "packed"}
        return f"{words.get(result.status, '') if result is not None else '':<{width}}"
    numbers = result.numbers
    text = f"{format_number(numbers.max_abs):<{MAX}}"
    if layout.cosine:
        text += f" {format_cosine(numbers.cosine):<{layout.cosine}}"
    if layout.rel:
        text += f" {format_number(numbers.rel_l2):<{layout.rel}}"
    if layout.ulp:
        ulp = "" if numbers.max_ulp is None else f"{numbers.max_ulp:,}"
        ulp = ulp if len(ulp) <= layout.ulp else format_number(float(numbers.max_ulp or 0))
        text += f" {ulp:<{layout.ulp}}"
    return text


def _shape(text: str, width: int, *, ascii_only: bool) -> str:
    return f"{shorten(text, width, ascii_only=ascii_only):<{width}}"


def _shortened(text: str, width: int, *, ascii_only: bool) -> str:
    """Return a name of at most `width` characters: its end tells it from others of its layer."""
    if len(text) <= width or width < LEAST_NAME:
        return shorten(text, width, ascii_only=ascii_only)
    return short_name(text, width, ascii_only=ascii_only)


def _part_word(name: str) -> str:
    """Return the short name of a part: `q` of q_proj, `3.w1` of an expert's w1."""
    parts = name.split(".")
    if parts[-1] in ("weight", "bias"):
        parts = parts[:-1]
    numbered = [at for at, part in enumerate(parts) if part.isdigit()]
    last = parts[-1].removesuffix("_proj")
    if len(numbered) > 1 and numbered[-1] < len(parts) - 1:
        return f"{parts[numbered[-1]]}.{last}"
    return last
