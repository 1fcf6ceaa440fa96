"""Say of weights that differ that they were cast, where one side stores them in fewer bits."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from ckptdiff.comparison.run import diff
from ckptdiff.text import plural

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import StepApart, TensorDiff

_NAMED = 3  # tensors


def cast_words(
    pair: tuple[Assembled, Assembled],
    step: StepApart,
    executor: Executor,
    *,
    is_whole: bool,
    conflicts: int = 0,
) -> str:
    """Return in sentences that what a step reads was cast; "" if something else tells it apart.

    If `is_whole`, all tensors are read, to tell whether it is so of every one that differs: a fault
    behind the cast shows in no step, as the sides part at the cast. `conflicts` are lines of the
    configs that conflict.
    """
    names = [name for name in step.reads if name in pair[0].tensors or name in pair[1].tensors]
    found = sorted(diff(*pair, executor, names=names), key=lambda one: one.name) if names else []
    read = [one for one in found if not _is_equal(one)]
    if not read or not all(map(_is_cast, read)):
        return ""
    shown = [one.name for one in read[:_NAMED]]
    more = [f"{len(read) - _NAMED} more"] if read[_NAMED:] else []
    dtypes = dict.fromkeys(f"{one.dtype_a} in A, {one.dtype_b} in B" for one in read)
    words = (
        f"{' and '.join([*shown, *more])} {'were' if read[1:] else 'was'} cast: {'; '.join(dtypes)}"
    )
    if not is_whole:
        return f"{words}."
    with closing(diff(*pair, executor)) as every:
        other = next((one for one in every if not _is_equal(one) and not _is_cast(one)), None)
    if other is not None and other.status == "error":
        return f"{words}. Whether all that differs was cast is not known: {other.error}."
    if other is not None:
        return f"{words}. But no cast explains {other.name}, which differs too."
    words += ", and so was every tensor that differs"
    if conflicts:
        return f"{words}. But the configs conflict too, in {plural(conflicts, 'setting')}."
    return f"{words}."


def _is_equal(one: TensorDiff) -> bool:
    return one.status in ("same", "close", "matched") and one.why != "cast"


def _is_cast(one: TensorDiff) -> bool:
    return one.status == "close" and one.why == "cast"
