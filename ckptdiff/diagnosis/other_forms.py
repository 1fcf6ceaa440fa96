"""Search tensors whose rows are nowhere in another form: transposed, by columns, reshaped."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.assembly.row_digests import digests_of_all, digests_of_rows
from ckptdiff.text import format_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.diagnosis.content_search import ContentSearch

    Digests = Mapping[str, list[bytes]]
    Places = Mapping[bytes, list[tuple[str, int]]]
    Run = tuple[str, int, int]  # a tensor of B, the first of its rows or columns, the end

_MOST_PLACES = 32  # equal rows that are tried for one row: rows of zeros occur everywhere
_MOST_RUNS = 4  # stretches of rows that are told one by one
_LEAST_OF_VECTOR = 2  # elements of a vector that is a part of another one


@dataclass(frozen=True, slots=True)
class InOtherForm:
    """Where B has the content of a tensor of A, in another form than by rows."""

    form: str  # behind "under other names", such as "transposed"
    told: str  # where it is, of one tensor
    sources: frozenset[str]  # tensors of B


def in_other_forms(
    search: ContentSearch, lost: Collection[str], left: Collection[str]
) -> dict[str, InOtherForm]:
    """Return which of A's tensors are in B all the same, and in which form.

    `lost` are names of A whose rows are not in B, `left` those of B that may hold them. Tried are
    transposes, columns in place of rows, the same elements in another shape, and vectors in parts.
    """
    a = {name: search.a[name] for name in lost}
    b = {name: search.b[name] for name in left if name in search.b}
    if not a or not b:
        return {}
    found = dict(_reshaped(search, a, b))
    found |= _by_columns(search, {n: t for n, t in a.items() if n not in found}, b)
    found |= _in_parts(search, [n for n in a if n not in found], b)
    return found


def same_elements(search: ContentSearch, name: str) -> bool:
    """Return whether both sides have equal elements under one name, in order, in two shapes."""
    a, b = search.a[name], search.b[name]
    if prod(a.shape) != prod(b.shape):
        return False
    digests = [
        digest for _, digest in digests_of_all({"a": a, "b": b}, search.dtype, search.executor)
    ]
    return len(digests) == 2 and digests[0] == digests[1]


def _reshaped(
    search: ContentSearch, a: Mapping[str, Assembly], b: Mapping[str, Assembly]
) -> Iterator[tuple[str, InOtherForm]]:
    """Yield the tensors that B has in another shape, element by element."""
    sizes = {prod(t.shape) for t in a.values()} & {prod(t.shape) for t in b.values()}
    sides = []
    for tensors in (a, b):
        alike = {n: t for n, t in tensors.items() if prod(t.shape) in sizes}
        sides.append(dict(digests_of_all(alike, search.dtype, search.executor)))
    of_b = {digest: name for name, digest in sides[1].items()}
    for name, digest in sides[0].items():
        if (source := of_b.get(digest)) is not None:
            shape = format_shape(b[source].shape)
            yield (
                name,
                InOtherForm(
                    "in another shape", f"B's `{source}`, which is {shape}", frozenset({source})
                ),
            )


def _by_columns(
    search: ContentSearch, a: Mapping[str, Assembly], b: Mapping[str, Assembly]
) -> dict[str, InOtherForm]:
    """Return the matrices whose rows or columns are columns or rows of B's."""
    lengths = {n for t in a.values() for n in t.shape[-2:]}
    turned_b = _columns(search, {n: t for n, t in b.items() if t.shape[-2:-1] and _of(t, lengths)})
    lengths = {n for t in b.values() for n in t.shape[-2:]}
    turned_a = _columns(search, {n: t for n, t in a.items() if t.shape[-2:-1] and _of(t, lengths)})
    rows_a, rows_b = search.rows.get("a", {}), search.rows.get("b", {})
    rows_a = {**rows_a, **_unread_rows(search, a, rows_a)}
    rows_b = {n: r for n, r in {**rows_b, **_unread_rows(search, b, rows_b)}.items() if n in b}
    by_row, by_column = _places(rows_b), _places(turned_b)
    # A's columns under the name of the whole: the slices of a stack one behind the other.
    columns_a: dict[str, list[bytes]] = defaultdict(list)
    for name, digests in turned_a.items():
        columns_a[_whole(name)] += digests
    found = {}
    for name in a:
        for mine, held, places, form, unit in (
            (rows_a.get(name), turned_b, by_column, "transposed", "columns"),
            (columns_a.get(name), rows_b, by_row, "transposed", "rows"),
            (columns_a.get(name), turned_b, by_column, "split or joined by columns", "columns"),
        ):
            runs = _runs(mine or [], held, places)
            if runs:
                told = _told(runs, held, unit)
                told = f"{told}, transposed" if form == "transposed" else _by(unit, told)
                found[name] = InOtherForm(form, told, frozenset(_whole(run[0]) for run in runs))
                break
    return found


def _of(tensor: Assembly, lengths: set[int]) -> bool:
    return tensor.shape[-2] in lengths and not tensor.is_scaled and 0 not in tensor.shape


def _unread_rows(
    search: ContentSearch, tensors: Mapping[str, Assembly], rows: Digests
) -> dict[str, list[bytes]]:
    """Return the rows of the matrices that no other tensor has rows as long as."""
    unread = {n: t for n, t in tensors.items() if n not in rows and len(t.shape) > 1}
    return dict(digests_of_rows(unread, search.dtype, search.executor))


def _columns(search: ContentSearch, tensors: Mapping[str, Assembly]) -> dict[str, list[bytes]]:
    """Return the digests of the columns of matrices; of a stack of them, by `name[number]`."""
    turned: dict[str, Assembly] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2:
            turned[name] = transpose(tensor)
        elif len(tensor.shape) == 3:
            _, rows, columns = tensor.shape
            inner = ((0, rows), (0, columns))
            for at in range(tensor.shape[0]):
                part = RecipePart(tensor, ((at, at + 1), *inner), inner)
                matrix = compose(tensor.name, (rows, columns), tensor.dtype, [part])
                turned[f"{name}[{at}]"] = transpose(matrix)
    return dict(digests_of_rows(turned, search.dtype, search.executor))


def _whole(name: str) -> str:
    """Return the name of a stack of matrices by that of one of them."""
    head, bracket, number = name.rpartition("[")
    return head if bracket and number[:-1].isdecimal() else name


def _places(held: Digests) -> Places:
    found: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, digests in held.items():
        for row, digest in enumerate(digests):
            found[digest].append((name, row))
    return found


def _runs(rows: list[bytes], held: Digests, places: Places) -> list[Run]:
    """Return the stretches of B that make up all the rows, in order; empty if one is nowhere."""
    runs: list[Run] = []
    at = 0
    while at < len(rows):
        best: Run | None = None
        for name, row in places.get(rows[at], [])[:_MOST_PLACES]:
            limit = min(len(rows) - at, len(held[name]) - row)
            count = 1
            while count < limit and held[name][row + count] == rows[at + count]:
                count += 1
            if best is None or count > best[2] - best[1]:
                best = name, row, row + count
        if best is None:
            return []
        runs.append(best)
        at += best[2] - best[1]
    return runs


def _by(unit: str, told: str) -> str:
    return told if told.startswith(unit.removesuffix("s")) else f"by {unit} {told}"


def _told(runs: list[Run], held: Digests, unit: str) -> str:
    words = [
        f"B's `{name}`"
        if stop - start == len(held[name])
        else f"{_range(unit, start, stop)} of B's `{name}`"
        for name, start, stop in runs[:_MOST_RUNS]
    ]
    more = f" and {len(runs) - _MOST_RUNS} more places" if len(runs) > _MOST_RUNS else ""
    return ", ".join(words) + more


def _range(unit: str, start: int, stop: int) -> str:
    if stop - start == 1:
        return f"{unit.removesuffix('s')} {start}"
    return f"{unit} {start} to {stop - 1}"


def _in_parts(
    search: ContentSearch, lost: Iterable[str], b: Mapping[str, Assembly]
) -> dict[str, InOtherForm]:
    """Return the vectors that several whole vectors of B make up."""
    wanted = [name for name in lost if len(search.a[name].shape) == 1]
    if not wanted:
        return {}
    contents = search.vectors()
    parts: dict[bytes, list[str]] = defaultdict(list)
    for name in b:
        content = contents["b"].get(name)
        if content and b[name].shape[0] >= _LEAST_OF_VECTOR:
            parts[content].append(name)
    sizes = sorted({len(content) for content in parts}, reverse=True)
    found = {}
    for name in wanted:
        content, at = contents["a"].get(name, b""), 0
        used: dict[str, None] = {}  # in order
        while at < len(content):
            fits = (n for size in sizes for n in parts.get(content[at : at + size], ()))
            longest = next((n for n in fits if n not in used), None)
            if longest is None:
                break
            used[longest] = None
            at += len(contents["b"][longest])
        if content and at == len(content):
            told = ", ".join(f"B's `{n}`" for n in list(used)[:_MOST_RUNS])
            found[name] = InOtherForm("in parts", told, frozenset(used))
    return found
