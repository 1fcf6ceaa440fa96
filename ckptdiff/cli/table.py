"""The table of the differing tensors in the width of a terminal: names get what the rest leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.text import Text

from ckptdiff.report.statuses import GLYPH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.report.tensor_table import TensorRow, TensorTable
    from ckptdiff.results import Status

_GAP = 2
_MARGIN = 3  # the glyph and two blanks
_LEAST = 24  # of a name, before it is broken into lines
# (head, field of a row), from left to right; `tensor` is in front of them.
_COLUMNS = (
    ("dtype", "dtype"), ("shape", "shape"), ("max|d|", "max_abs"), ("rel", "rel_l2"),
    ("cos", "cosine"), ("max ulp", "max_ulp"), ("differing", "differing"), ("", "word"),
)  # fmt: skip
# Which are kept where there is no room for all, the most needed first.
_NEEDED = ("word", "rel_l2", "max_abs", "shape", "cosine", "max_ulp", "differing", "dtype")
_LEFT = ("dtype", "shape", "word")  # the others are numbers
STYLE: dict[Status, str] = {
    "same": "same", "close": "close", "matched": "close", "packed": "close", "differ": "bad",
    "shape": "bad", "only_a": "bad", "only_b": "bad", "error": "bad",
}  # fmt: skip


def table_lines(table: TensorTable, width: int) -> Iterator[Text | str]:
    """Yield the table as painted rows of at most `width` cells, and what is below as lines."""
    columns = _chosen(table.rows, width)
    sizes = [_size(table.rows, column) for column in columns]
    taken = sum(size + _GAP for size in sizes)
    longest = max(cell_len(text) for text in ("tensor", *(row.title for row in table.rows)))
    # Where a row has no figures, its word stands in their place.
    placed = sum(size + _GAP for (_, field), size in zip(columns, sizes, strict=True)
                 if field in _LEFT[:-1])  # fmt: skip
    worded = max((cell_len(row.word) + _GAP for row in table.rows if not row.max_abs), default=0)
    names = min(longest, max(8, width - _MARGIN - max(taken, placed + worded)))
    head = _padded("tensor", names) + "".join(
        " " * _GAP + _padded(title, size, to_right=field not in _LEFT)
        for (title, field), size in zip(columns, sizes, strict=True)
    )
    yield Text(f"{'':{_MARGIN}}{head}".rstrip(), "quiet")
    for row in table.rows:
        yield from _row(row, names, columns, sizes)
        yield from (f"     {note}" for note in row.notes)
    yield from table.closing_lines()


def _chosen(rows: Sequence[TensorRow], width: int) -> list[tuple[str, str]]:
    """Return the columns that have room beside the longest name, in their order."""
    longest = max((cell_len(row.title) for row in rows), default=0)
    room = width - _MARGIN - max(_LEAST, longest)
    kept = set()
    for field in _NEEDED:
        column = next(column for column in _COLUMNS if column[1] == field)
        size = _size(rows, column) + _GAP
        if not any(_cell(row, field) for row in rows):
            continue
        if field not in ("word", "rel_l2") and size > room:
            break
        kept.add(field)
        room -= size
    return [column for column in _COLUMNS if column[1] in kept]


def _size(rows: Sequence[TensorRow], column: tuple[str, str]) -> int:
    title, field = column
    return max(cell_len(text) for text in (title, *(_cell(row, field) for row in rows)))


def _cell(row: TensorRow, field: str) -> str:
    """Return the text of a row in a column; a word that stands for the figures is in none."""
    text: str = getattr(row, field)
    return text if field != "word" or row.max_abs else ""


def _row(
    row: TensorRow, names: int, columns: list[tuple[str, str]], sizes: list[int]
) -> Iterator[Text]:
    first, *further = chop_cells(row.title, names) or [""]
    style = STYLE[row.status]
    line = Text.assemble((GLYPH[row.status], style), " " * (_MARGIN - 1), _padded(first, names))
    for (_, field), size in zip(columns, sizes, strict=True):
        if not row.max_abs and field not in _LEFT:
            break
        line.append(" " * _GAP)
        colour = {"word": style, "dtype": "dtype"}.get(field, "figure")
        line.append(_padded(_cell(row, field), size, to_right=field not in _LEFT), colour)
    if not row.max_abs:
        line.append(f"{'':{_GAP}}{row.word}", style)
    line.rstrip()
    yield line
    yield from (Text(f"{'':{_MARGIN}}{piece}") for piece in further)


def _padded(text: str, size: int, *, to_right: bool = False) -> str:
    """Return text as wide as `size` cells; an East Asian character is two."""
    blanks = " " * max(0, size - cell_len(text))
    return blanks + text if to_right else text + blanks
