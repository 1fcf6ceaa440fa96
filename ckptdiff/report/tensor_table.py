"""The table of the tensors that differ: its rows, and the lines that a pipe gets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING

from ckptdiff.report.listed import CloseGroup, why_close
from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.text import format_cosine, format_number, format_shape, plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled, PackedWeight
    from ckptdiff.results import Status, TensorDiff

MAX_LINES = 60  # rows that the summary lists; the JSON has all
_LONG = 40  # characters of a note that is not repeated row by row


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One line of the table; texts are printable, and empty where a row has nothing to say."""

    status: Status
    title: str
    shape: str = ""
    max_abs: str = ""
    rel_l2: str = ""
    cosine: str = ""
    max_ulp: str = ""
    differing: str = ""  # of the elements, in percent
    dtype: str = ""
    word: str = ""  # what the glyph does not say
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorTable:
    """The rows that are listed."""

    rows: tuple[TensorRow, ...]
    more: int = 0  # rows that are not

    def lines(self) -> Iterator[str]:
        """Yield the table as lines of one form, whatever shows them."""
        width = min(60, max(len(row.title) for row in (*self.rows, TensorRow("same", "tensor"))))
        yield f"   {'tensor':{width}}  {'shape':13}  {'max|d|':>8}  {'rel':>8}  {'cos':>6}"
        for row in self.rows:
            line = f"{GLYPH[row.status]}  {row.title:{width}}  {row.shape:13}"
            if row.max_abs:
                line += f"  {row.max_abs:>8}  {row.rel_l2:>8}  {row.cosine:>6}"
            yield f"{line}  {row.word}".rstrip()
            yield from (f"     {note}" for note in row.notes)
        yield from self.closing_lines()

    def closing_lines(self) -> Iterator[str]:
        """Yield a line that counts the rows that are not listed."""
        if self.more:
            yield f"   … and {self.more} more; --json FILE lists all"


def tensor_table(
    a: Assembled, b: Assembled, rows: Sequence[TensorDiff | CloseGroup]
) -> TensorTable:
    """Return the table of what has a line.

    Equal long notes are made once, below the first of the rows that follow on each other. One that
    was made before is `as above`.
    """
    told = {_kind(f"{x}: {w.problem}", w.plain_name) for x, w in _problems(a, b)}
    shown: list[TensorRow] = []
    for kinds, rows_alike in groupby(rows[:MAX_LINES], key=_long_kinds):
        first, *others = rows_alike
        notes = _notes(first, told, below=len(others) if kinds else 0)
        shown.append(_row(first, notes))
        shown += (_row(row, _notes(row, told, below=0 if not kinds else None)) for row in others)
    return TensorTable(tuple(shown), max(0, len(rows) - MAX_LINES))


def _long_kinds(row: TensorDiff | CloseGroup) -> tuple[str, ...]:
    """Return what the long notes of a row say, to see whether another row's say the same."""
    if isinstance(row, CloseGroup):
        return ()
    texts = row.error, row.note
    return tuple(_kind(text, row.name) for text in texts if text and len(text) > _LONG)


def _notes(row: TensorDiff | CloseGroup, told: set[str], *, below: int | None) -> tuple[str, ...]:
    """Return the notes of a row; long ones are added to `told`.

    `below` is how many of the next rows have the same long notes; None: a row above has them.
    """
    if isinstance(row, CloseGroup):
        return ()
    notes = []
    for text in (row.error, row.note):
        if text and len(text) <= _LONG:
            notes.append(printable(text))
        elif text and below is not None:
            kind = _kind(text, row.name)
            words = "as above" if kind in told else printable(text)
            told.add(kind)
            so = f" (and so {plural(below, 'row')} below)" if below else ""
            notes.append(f"{words}{so}")
    return tuple(notes)


def _row(row: TensorDiff | CloseGroup, notes: tuple[str, ...]) -> TensorRow:
    if isinstance(row, CloseGroup):
        return TensorRow(
            "close",
            row.title,
            max_abs=format_number(row.max_abs),
            rel_l2=format_number(row.rel_l2),
            cosine=format_cosine(row.cosine),
            word=row.why,
        )
    shape = format_shape(row.shape_a if row.shape_a is not None else row.shape_b)
    if row.status == "shape":
        shape = f"{format_shape(row.shape_a)} | {format_shape(row.shape_b)}"
    word = WORD[row.status] if row.status in ("only_a", "only_b") else why_close(row)
    dtypes = dict.fromkeys(dtype for dtype in (row.dtype_a, row.dtype_b) if dtype)
    found = TensorRow(row.status, printable(row.name), shape, dtype=printable(" | ".join(dtypes)),
                      word=word, notes=notes)  # fmt: skip
    if row.numbers is None:
        return found
    numbers = row.numbers
    return replace(
        found,
        max_abs=format_number(numbers.max_abs),
        rel_l2=format_number(numbers.rel_l2),
        cosine=format_cosine(numbers.cosine),
        max_ulp=f"{numbers.max_ulp:,}",
        differing=_share(numbers.differing, numbers.numel),
    )


def _share(part: int, whole: int) -> str:
    """Return a share in percent; 0% is none, and 100% is all."""
    if part in (0, whole):
        return "100%" if part else "0%"
    return f"{min(99.9, 100 * part / whole):.1f}%" if 1000 * part >= whole else "<0.1%"


def _kind(text: str, name: str) -> str:
    """Return a note on a packed weight without its module and its sizes; any other as it is."""
    module = name.rpartition(".")[0]
    is_own = bool(module) and text[len("A: ") :].startswith(f"{module}.")
    return re.sub(r"\d+", "#", text.replace(module, "")) if is_own else text


def _problems(a: Assembled, b: Assembled) -> Iterator[tuple[str, PackedWeight]]:
    """Yield the first packed weight of each side that no loader reads: the side's note has it."""
    for letter, side in (("A", a), ("B", b)):
        yield from islice(((letter, w) for w in side.packed.values() if w.problem), 1)
