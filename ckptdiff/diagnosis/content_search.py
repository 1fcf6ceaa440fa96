"""Search the content of tensors without a partner among those that the other side has left."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import cut_out, transpose
from ckptdiff.assembly.row_digests import bytes_of, common_dtype, digests_of_rows
from ckptdiff.assembly.views import matrix_shape
from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembly

MOST_PARTS = 64  # ranks whose part of the columns is looked for
MIN_ELEMENTS = 8  # of a vector that are told from others by their values
MOST_ELEMENTS = 1 << 20  # of a vector that is looked through element by element
_MOST_PLACES = 32  # equal rows that are tried for one row: rows of zeros occur everywhere
_MOST_RUNS = 2  # stretches of rows that are told one by one


def _width(tensor: Assembly) -> int:
    """Return the number of elements of a row: of the last dimension, or of a whole vector."""
    return matrix_shape(tensor.shape)[1]


@dataclass(frozen=True, slots=True)
class FoundAt:
    """Consecutive rows of a tensor of the other side, or elements of a vector."""

    name: str
    start: int
    stop: int
    of_vector: bool = False


@dataclass(slots=True)
class ContentSearch:
    """The rows of the tensors that two sides have left, and where the same rows are."""

    a: Mapping[str, Assembly]
    b: Mapping[str, Assembly]
    executor: Executor
    rows: dict[str, dict[str, list[bytes]]] = field(default_factory=dict)  # by side
    dtype: str | None = field(init=False)  # that floats of both sides are compared in
    _vectors: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _places: dict[str, dict[tuple[int, bytes], list[tuple[str, int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dtype = common_dtype([*self.a.values(), *self.b.values()])

    def run(self) -> None:
        """Read all the tensors of both sides whose rows are as long as one of the other side's."""
        # One name may be on both sides: `a` or `b` in front keeps them apart.
        widths = [{_width(t) for t in tensors.values()} for _, tensors in self._sides()]
        of_both = set.intersection(*widths)
        # An element more or less in a vector, or columns of a matrix: one may be part of the other.
        of_both |= {_width(side[n]) for side in (self.a, self.b) for n in self.a.keys() & self.b}
        both = {
            f"{side}{name}": t
            for side, found in self._sides()
            for name, t in found.items()
            if _width(t) in of_both
        }
        self.rows = {"a": {}, "b": {}}
        for key, digests in digests_of_rows(both, self.dtype, self.executor):
            self.rows[key[0]][key[1:]] = digests
        for side, tensors in self._sides():
            index = self._places[side] = defaultdict(list)
            for name, digests in self.rows[side].items():
                width = _width(tensors[name])
                for row, digest in enumerate(digests):
                    index[width, digest].append((name, row))

    def _sides(self) -> tuple[tuple[str, Mapping[str, Assembly]], ...]:
        return ("a", self.a), ("b", self.b)

    def where(self, side: str, name: str, only: str | None = None) -> list[FoundAt]:
        """Return where the other side has all rows of a tensor, in order; empty if it has not.

        `only` names the one tensor to look in. At each row the longest stretch is taken.
        """
        other = "b" if side == "a" else "a"
        tensor = (self.a if side == "a" else self.b)[name]
        if not self.rows:
            return []
        rows, held = self.rows[side].get(name, []), self.rows[other]
        width = _width(tensor)
        if not rows and len(tensor.shape) == 1:  # no other vector has its length
            return self._in_vectors(side, name, only)
        found: list[FoundAt] = []
        at = 0
        while at < len(rows):
            best: FoundAt | None = None
            places = self._places[other].get((width, rows[at]), [])
            places = [p for p in places if only in (None, p[0])]
            for source, row in places[:_MOST_PLACES]:
                count = 1
                limit = min(len(rows) - at, len(held[source]) - row)
                while count < limit and held[source][row + count] == rows[at + count]:
                    count += 1
                if best is None or count > best.stop - best.start:
                    best = FoundAt(source, row, row + count)
            if best is None:
                return self._in_vectors(side, name, only) if len(tensor.shape) == 1 else []
            found.append(best)
            at += best.stop - best.start
        return found

    def _in_vectors(self, side: str, name: str, only: str | None) -> list[FoundAt]:
        """Return where the other side's vectors have all elements of one, in order."""
        vectors = self.vectors()
        held = vectors["b" if side == "a" else "a"]
        if only is not None:
            held = {only: held[only]} if only in held else {}
        itemsize = ITEMSIZE[self.dtype or "F32"]
        wanted = vectors[side].get(name, b"")
        runs = runs_of_bytes(wanted, held, itemsize, MIN_ELEMENTS) if wanted else []
        return [
            FoundAt(source, start // itemsize, stop // itemsize, of_vector=True)
            for source, start, stop in runs
        ]

    def vectors(self) -> dict[str, dict[str, bytes]]:
        """Return the elements of the vectors of both sides, by name for each. Reads them once."""
        if self._vectors:
            return self._vectors
        vectors = {
            f"{side}{name}": tensor
            for side, tensors in self._sides()
            for name, tensor in tensors.items()
            if len(tensor.shape) == 1 and 0 < tensor.shape[0] <= MOST_ELEMENTS
        }
        self._vectors = {"a": {}, "b": {}}
        for key, content in bytes_of(vectors, self.dtype, self.executor):
            self._vectors[key[0]][key[1:]] = content
        return self._vectors

    def size(self, side: str, place: FoundAt) -> int:
        """Return how many rows, or elements of a vector, the tensor of a place has."""
        if place.of_vector:
            return (self.a if side == "a" else self.b)[place.name].shape[0]
        return len(self.rows[side].get(place.name, ()))

    def told(self, places: list[FoundAt], side: str) -> str:
        """Return in words where rows lie, as in `rows 0 to 7 of B's x`."""
        words = []
        for place in places[:_MOST_RUNS]:
            size = self.size(side.lower(), place)
            unit = "elements" if place.of_vector else "rows"
            rows = f"{unit} {place.start} to {place.stop - 1} of "
            if place.stop - place.start == size:
                rows = ""
            words.append(f"{rows}{side}'s `{place.name}`")
        more = f" and {len(places) - _MOST_RUNS} more places" if len(places) > _MOST_RUNS else ""
        return ", ".join(words) + more

    @property
    def unread(self) -> int:
        """How many of B's tensors have rows and could not be read."""
        return sum(not rows and 0 not in self.b[n].shape for n, rows in self.rows["b"].items())

    def could_be(self, names: Collection[str], left: Collection[str]) -> list[str]:
        """Return which of A's tensors B's `left` may hold, in whatever form, by their sizes.

        Those of its size, those with as many rows or columns, and vectors count; together they must
        have as many elements.
        """
        shapes = Counter(self.b[other].shape for other in left if other in self.b)

        @cache
        def is_there(shape: tuple[int, ...]) -> bool:
            sizes = {size for size in shape if size > 1}
            size = prod(shape)
            return size <= sum(
                count * prod(other)
                for other, count in shapes.items()
                if prod(other) == size or len(other) == 1 or not sizes.isdisjoint(other)
            )

        return [name for name in names if is_there(self.a[name].shape)]

    def column_part(self, name: str, side: str = "b") -> tuple[int, int] | None:
        """Return (part, parts) if a side's tensor is one of equal ranges of the other's columns."""
        whole, part = (self.a[name], self.b[name])[:: 1 if side == "b" else -1]
        if not whole.shape or whole.shape[:-1] != part.shape[:-1] or not part.shape[-1]:
            return None
        each = part.shape[-1]
        parts, rest = divmod(whole.shape[-1], each)
        if rest or not 1 < parts <= MOST_PARTS or not self.rows[side].get(name):
            return None
        lead = tuple((0, n) for n in whole.shape[:-1])
        cuts = {str(i): cut_out(whole, (*lead, (i * each, (i + 1) * each))) for i in range(parts)}
        equal = [
            int(cut)
            for cut, digests in digests_of_rows(cuts, self.dtype, self.executor)
            if digests == self.rows[side][name]
        ]
        return (equal[0], parts) if len(equal) == 1 else None

    def is_transpose(self, name: str) -> bool:
        """Return whether B's matrix is the transpose of A's."""
        whole, other = self.a[name], self.b[name]
        if len(whole.shape) != 2 or other.shape != whole.shape[::-1] or whole.is_scaled:
            return False
        ((_, digests),) = digests_of_rows({name: transpose(whole)}, self.dtype, self.executor)
        return bool(digests) and digests == self.rows["b"].get(name)


def runs_of_bytes(
    wanted: bytes, held: Mapping[str, bytes], itemsize: int, least: int
) -> list[tuple[str, int, int]]:
    """Return (name, start, stop) of the bytes that make up `wanted`, the longest run at each point.

    Every run has at least `least` items. Empty if there is no such run at a point.
    """
    runs: list[tuple[str, int, int]] = []
    at = 0
    while at < len(wanted):
        best: tuple[str, int, int] | None = None
        start = wanted[at : at + least * itemsize]
        for name, content in held.items() if len(start) == least * itemsize else ():
            place = content.find(start)
            for _ in range(_MOST_PLACES):
                if place < 0:
                    break
                length = _common(wanted[at:], content[place:]) // itemsize * itemsize
                if place % itemsize == 0 and (best is None or length > best[2] - best[1]):
                    best = name, place, place + length
                place = content.find(start, place + 1)
        if best is None:
            return []
        runs.append(best)
        at += best[2] - best[1]
    return runs


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes are equal from the start on."""
    equal, size = 0, min(len(one), len(other))
    while size > equal:
        middle = (equal + size + 1) // 2
        if one[equal:middle] == other[equal:middle]:
            equal = middle
        else:
            size = middle - 1
    return equal
