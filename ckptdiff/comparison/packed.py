"""Packed weights in a comparison: the result of one, and what is said of all of them together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.text import format_shape, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import TensorDiff

LETTERS = ("A", "B")
# What rounding to the codes may change of a weight, by relative L2: half a step of the largest
# codes, for E2M1 and for fp8.
_MOST_OF_HALVES, _MOST_OF_FP8 = 0.25, 0.125
NOT_JUDGED = "no further off than rounding to such codes may be; whether it is that was not judged"


def packed_result(described: TensorDiff, a: Assembled, b: Assembled) -> TensorDiff:
    """Return the result of a tensor that is packed on a side, and not in the same way on the other.

    Its values are not compared. Its shape is, where the headers of the packed side state one.
    """
    name = described.name
    held = [_is_packed(side, name) for side in (a, b)]
    present = [there or name in side.tensors for there, side in zip(held, (a, b), strict=True)]
    shapes = [described.shape_a, described.shape_b]
    dtypes = [described.dtype_a, described.dtype_b]
    for number, side in enumerate((a, b)):
        if held[number]:
            shapes[number] = side.packed[name].shape
            dtypes[number] = side.packed[name].dtype
    result = replace(
        described, dtype_a=dtypes[0], dtype_b=dtypes[1], shape_a=shapes[0], shape_b=shapes[1]
    )
    note = " and ".join(
        f"{letter} is packed as {side.packed[name].text}"
        for letter, side, there in zip(LETTERS, (a, b), held, strict=True)
        if there
    )
    if not all(present):
        return replace(result, status="only_a" if present[0] else "only_b", note=note)
    if None not in shapes and shapes[0] != shapes[1]:
        shown = f"multiplied out it would be {format_shape(shapes[0 if held[0] else 1])}"
        return replace(result, status="shape", note=f"{note}, {shown}")
    return replace(result, status="packed", note=f"{note}, and was not multiplied out")


def is_as_near_as_codes(difference: float | None, name: str, a: Assembled, b: Assembled) -> bool:
    """Return whether a weight that was multiplied out is as near as a right quantisation may be.

    `difference` is relative, L2. Another save or a small fault may be as near as that.
    """
    for side in (a, b):
        weight = side.multiplied_out.get(name)
        if weight is not None and weight.numbers is not None and difference is not None:
            scale = weight.numbers.scale
            in_halves = scale is not None and scale.in_halves
            return difference <= (_MOST_OF_HALVES if in_halves else _MOST_OF_FP8)
    return False


def packed_sentences(results: Iterable[TensorDiff], a: Assembled, b: Assembled) -> Iterator[str]:
    """Yield a sentence for each way in which tensors are packed: how many, and what it takes.

    So for each pair of dtypes that are not compared.
    """
    groups: Counter[tuple[str | None, str | None, str]] = Counter()
    unlike: Counter[tuple[str, str]] = Counter()  # dtypes of A and B that have no common numbers
    for result in results:
        if result.status != "packed":
            continue
        if is_unlike(result, a, b):
            unlike[result.dtype_a or "", result.dtype_b or ""] += 1
        else:
            ways = [
                side.packed[result.name].text if _is_packed(side, result.name) else None
                for side in (a, b)
            ]
            plain = result.dtype_b if ways[1] is None else result.dtype_a
            groups[ways[0], ways[1], (plain or "") if None in ways else ""] += 1
    for (way_a, way_b, plain), count in groups.items():
        tensors = f"{count} tensor{'' if count == 1 else 's'}"
        they, are, were = ("it", "is", "was") if count == 1 else ("they", "are", "were")
        them = "it" if count == 1 else "them"
        if way_a is not None and way_b is not None:
            yield (
                f"{tensors} {are} packed as {way_a} in A and as {way_b} in B: {they} {were} not "
                f"multiplied out, so {they} {were} not compared. To compare {them}, dequantise both"
            )
            continue
        packed, other = ("A", "B") if way_a is not None else ("B", "A")
        yield (
            f"{tensors} of {packed} {are} packed as {way_a or way_b}: {they} {were} not multiplied "
            f"out, so {they} {were} not compared with {other}'s {plain}. To compare {them}, "
            f"dequantise {packed} first"
        )

    for (dtype_a, dtype_b), count in unlike.items():
        tensors, are = ("1 tensor", "is") if count == 1 else (f"{count} tensors", "are")
        yield (
            f"{tensors} {are} {printable(dtype_a)} in A and {printable(dtype_b)} in B: bytes of "
            "different dtypes without numbers are not compared"
        )


def is_unlike(result: TensorDiff, a: Assembled, b: Assembled) -> bool:
    """Return whether a tensor was not compared for its dtypes alone: nothing of it is packed."""
    return result.status == "packed" and not any(_is_packed(x, result.name) for x in (a, b))


def schemes_of(side: Assembled) -> dict[str, int]:
    """Return the ways in which a side's weights are packed, each with its number of weights."""
    return dict(Counter(weight.text for weight in side.packed.values()))


def _is_packed(side: Assembled, name: str) -> bool:
    return name in side.errors and side.errors[name].kind == "packed"
