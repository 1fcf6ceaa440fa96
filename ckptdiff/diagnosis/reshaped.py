"""Findings of tensors that have another shape in B: parts of the whole, another vocabulary, …"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.diagnosis.other_forms import same_elements
from ckptdiff.dtypes import FLOATS
from ckptdiff.results import Finding
from ckptdiff.text import format_shape, plural

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ckptdiff.arch.base import Architecture
    from ckptdiff.diagnosis.content_search import ContentSearch
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.results import TensorDiff

    Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Explained:
    """What a tensor of another shape is. Those of one class and key make one finding."""

    kind: FaultClass
    key: str
    title: str  # of one of them
    evidence: str
    is_lost: bool = True


def reshaped(
    search: ContentSearch,
    results: Sequence[TensorDiff],
    architecture: Architecture | None,
    equal_names: Collection[str],
) -> Iterator[Finding]:
    """Yield findings of the tensors that both sides have in different shapes.

    `equal_names` are those of the tensors that have one shape on both.
    """
    rules = architecture.mappings if architecture is not None else ()
    vocabulary = {rule.hf[0] for rule in rules if rule.of_vocabulary}
    embedding = {rule.hf[0] for rule in rules if rule.role == "embedding"}
    if not embedding.intersection(result.name for result in results) and embedding.intersection(
        equal_names
    ):
        vocabulary = set()  # a head alone is short: the vocabulary is not another one
    groups: dict[tuple[FaultClass, str], list[tuple[str, _Explained]]] = defaultdict(list)
    for result in results:
        found = _explained(search, result, of_vocabulary=result.name in vocabulary)
        groups[found.kind, found.key].append((result.name, found))
    for (kind, _), members in groups.items():
        names = [name for name, _ in members]
        (_, first) = members[0]
        evidence = first.evidence
        if len(names) > 1 and kind in ("PART", "SHAPE"):
            evidence = f"`{names[0]}`: {evidence}"
        yield Finding(
            kind,
            "fault",
            first.title if len(names) == 1 else _title_of_many(kind, first, len(names)),
            tensors=tuple(names),
            layers=layers_of(names),
            experts=experts_of(names),
            evidence=evidence,
            is_lost=first.is_lost,
        )


def _title_of_many(kind: FaultClass, first: _Explained, count: int) -> str:
    if kind == "PART":
        short = "B" if first.key.endswith("A's") else "A"
        return f"{plural(count, 'tensor')} of {short} are the part of {first.key}"
    if kind == "SHAPE":
        return f"{plural(count, 'tensor')} of B have another shape than A's"
    return first.title


def _explained(search: ContentSearch, result: TensorDiff, *, of_vocabulary: bool) -> _Explained:
    name, a, b = result.name, result.shape_a, result.shape_b
    assert a is not None
    assert b is not None
    shapes = f"{format_shape(a)} in A, {format_shape(b)} in B"
    if result.dtype_a != result.dtype_b:
        shapes = f"{result.dtype_a} {format_shape(a)} in A, {result.dtype_b} {format_shape(b)} in B"
    if 0 in b or 0 in a:
        empty, other = ("B", "A") if 0 in b else ("A", "B")
        return _Explained(
            "SHAPE", f"empty {empty}", f"{name} is empty in {empty}",
            f"{shapes}: {empty}'s has no elements. ZeRO-3 leaves such tensors in each rank's file; "
            f"{other}'s has its values",
        )  # fmt: skip
    if name not in search.a or name not in search.b:  # a packed weight, or a part of one
        return _Explained("SHAPE", "packed", f"{name} has another shape", shapes)
    for short, full in ("BA", "AB"):
        # In a larger vocabulary, A's rows are a part of B's and not that of a rank.
        if short == "A" and of_vocabulary:
            continue
        sizes = (a, b) if short == "B" else (b, a)
        part = _part(search, name, *sizes, short.lower())
        if part is not None:
            rank, ranks, what = part
            key = f"rank {rank} of {ranks}"
            return _Explained(
                "PART", f"{key} of {full}'s",
                f"{short}'s {name} is {what} of {full}'s: the part of {key}",
                f"{shapes}; {short}'s is equal to {what} of {full}'s",
            )  # fmt: skip
    alike = a[1:] == b[1:] and {result.dtype_a, result.dtype_b} <= FLOATS.keys()
    evidence, is_lost = _evidence(search, name, a, b)
    if of_vocabulary and alike:
        return _Explained(
            "VOCAB-TRUNC" if b[0] < a[0] else "VOCAB-PAD", "",
            f"the vocabulary has {b[0]} rows, A's has {a[0]}", evidence,
        )  # fmt: skip
    key = "" if is_lost else evidence
    title = f"{name} has another shape"
    return _Explained("SHAPE", key, title, f"{shapes}; {evidence}", is_lost=is_lost)


def _part(
    search: ContentSearch, name: str, a: Shape, b: Shape, side: str
) -> tuple[int, int, str] | None:
    """Return (rank, ranks, which part) if a side's tensor is one rank's part of the other's.

    `b` is the shape of that side's, `a` of the other's.
    """
    columns = search.column_part(name, side)
    if columns is not None:
        rank, ranks = columns
        each, word = b[-1], "columns" if len(a) > 1 else "elements"
        return rank, ranks, f"{word} {rank * each} to {(rank + 1) * each - 1}"
    if len(a) < 2 or a[1:] != b[1:] or b[0] >= a[0] or a[0] % b[0]:
        return None
    ranks = a[0] // b[0]
    inner = _rows_in_first(a)
    places = search.where(side, name, only=name)
    if not places or any(p.start % inner or p.stop % inner for p in places):
        return None
    runs = [(p.start // inner, p.stop // inner) for p in places]
    words = " and ".join(f"rows {start} to {stop - 1}" for start, stop in runs)
    # A gated layer in one tensor has a rank's share of gate, then its share of up.
    block = a[0] // len(runs)
    each = b[0] // len(runs)
    ranks_of = {
        (start - i * block) // each
        for i, (start, stop) in enumerate(runs)
        if stop - start == each and not (start - i * block) % each
    }
    if len(runs) > 3 or len(ranks_of) != 1 or not 0 <= (rank := ranks_of.pop()) < ranks:
        return None
    if any(stop - start != each for start, stop in runs):
        return None
    return rank, ranks, words


def _rows_in_first(shape: Shape) -> int:
    """Return how many rows of the matrix one index of the first dimension is."""
    count = 1
    for n in shape[1:-1]:
        count *= n
    return count


def _evidence(search: ContentSearch, name: str, a: Shape, b: Shape) -> tuple[str, bool]:
    """Return in words what was found of two tensors of different shapes, and if A's is lost."""
    if search.is_transpose(name):
        return "B's is the transpose of A's: it has the same values", False
    if same_elements(search, name):
        return "the same values in another shape", False
    for side, other, shape in (("b", "A", a), ("a", "B", b)):
        places = search.where(side, name, only=name)
        mine = side.upper()
        is_lost = mine == "B" and not search.where("a", name, only=name)
        if len(places) == 1:
            (place,) = places
            if a[0] == b[0] or place.stop - place.start == len(search.rows[other.lower()][name]):
                return f"the rows of {mine}'s are those of {other}'s", is_lost
            return (
                f"{mine}'s rows are rows {place.start} to {place.stop - 1} of {other}'s, "
                f"which has {shape[0]}"
            ), is_lost
        if places:
            return f"{mine}'s rows are all in {other}'s, in another order", is_lost
    if prod(a) <= prod(b):
        return "each side has rows that the other lacks; compare them by hand", False
    return "each side has rows that the other lacks", True
