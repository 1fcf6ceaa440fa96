"""Pair the names that no rule knows and both of two Megatron sides have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.by_name import shards_of_one_name, unused_tensors
from ckptdiff.assembly.recipe import Copy, can_be_copies

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled, Assembly


def with_shared_names(a: Assembled, b: Assembled) -> tuple[Assembled, Assembled]:
    """Return both sides with a tensor for each name that no rule knows and both have alike.

    Their shards are compared rank by rank, where both have as many; or as copies of one tensor,
    where every rank of both has it in one shape.
    """
    if not a.unmapped or not b.unmapped or not _are_megatron(a, b):
        return a, b
    held = unused_tensors(a), unused_tensors(b)
    if a.checkpoint.parallelism.tp != b.checkpoint.parallelism.tp:
        held = _with_copies(held[0]), _with_copies(held[1])
    names = [n for n, t in held[0].items() if n in held[1] and held[1][n].shape == t.shape]
    return _with(a, held[0], names), _with(b, held[1], names)


def _are_megatron(a: Assembled, b: Assembled) -> bool:
    return a.checkpoint.convention == b.checkpoint.convention == "megatron"


def _with_copies(held: dict[str, Assembly]) -> dict[str, Assembly]:
    """Return tensors, those that every TP rank has in one shape as one, with copies."""
    found = dict(held)
    for name, labels in shards_of_one_name(held).items():
        first, *others = [held[label] for label in labels]
        if all(len(t.pieces) == 1 for t in (first, *others)) and all(
            can_be_copies(t.pieces[0].ref, first.pieces[0].ref) for t in others
        ):
            copies = tuple(Copy(t.pieces[0].ref, t.pieces[0].rank) for t in others)
            found[name] = replace(
                first, name=name, pieces=(replace(first.pieces[0], copies=copies),)
            )
    return found


def _with(side: Assembled, held: dict[str, Assembly], names: list[str]) -> Assembled:
    tensors = {**side.tensors, **{n: held[n] for n in names if n not in side.tensors}}
    pieces = [p for n in names for p in held[n].pieces]
    stored = {ref.name for p in pieces for ref in (p.ref, *(c.ref for c in p.copies))}
    return replace(
        side,
        tensors=put_in_model_order(tensors, side.architecture),
        unmapped=tuple(name for name in side.unmapped if name not in stored),
    )
