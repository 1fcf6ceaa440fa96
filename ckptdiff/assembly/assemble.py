"""Bring a checkpoint to canonical tensors: Hugging Face names, unsharded, still unread."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.from_huggingface import assemble_huggingface
from ckptdiff.assembly.from_megatron import assemble_megatron
from ckptdiff.assembly.from_meta import assemble_meta
from ckptdiff.assembly.recipe import Assembled, Copy, LayoutError, can_be_copies
from ckptdiff.gc_pause import uncollected

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Checkpoint, Convention


# Whose files tell family and vocabulary by themselves, the fuller ones first.
_KNOW_ALL: tuple[Convention, ...] = ("hf", "meta")


@uncollected()
def assemble(checkpoint: Checkpoint, *, like: Assembled | None = None) -> Assembled:
    """Return the canonical tensors of a checkpoint.

    `like`, the other side of a comparison, lends what Megatron's files do not tell: the family, and
    the number of vocabulary rows that are not padding. Raises UnknownConfig if a sharded
    checkpoint has no args and there is nothing to lend them.
    """
    if checkpoint.convention == "hf":
        return assemble_huggingface(checkpoint)
    if checkpoint.convention == "meta":
        return assemble_meta(checkpoint)
    return assemble_megatron(checkpoint, like)


@uncollected()
def assemble_pair(
    a: Checkpoint, b: Checkpoint, *, alone: Assembled | None = None
) -> tuple[Assembled, Assembled]:
    """Return both sides, each lent what the other knows; `alone` is what A assembles to by itself.

    It takes seconds for the largest models, so who has it already may give it.
    """
    first, second = _pair(a, b, alone)
    first, second = _without_packed(first, second), _without_packed(second, first)
    return _with_tied_head(first, second), _with_tied_head(second, first)


def _pair(a: Checkpoint, b: Checkpoint, alone: Assembled | None) -> tuple[Assembled, Assembled]:
    for one in _KNOW_ALL:
        if a.convention == one:
            whole = alone or assemble(a)
            return whole, assemble(b, like=whole)
        if b.convention == one:
            whole = assemble(b)
            return assemble(a, like=whole), whole
    first, second = alone or assemble(a), assemble(b)
    # Vocabularies padded for different TP sizes: what both have can be compared.
    return assemble(a, like=second), assemble(b, like=first)


def _without_packed(side: Assembled, other: Assembled) -> Assembled:
    """Refuse packed weights that the other side has as numbers; alike ones compare bit by bit."""
    refused = {
        name: packed
        for name, packed in side.packed.items()
        if name not in other.packed and (name in other.tensors or name in other.errors)
    }
    if not refused:
        return side
    parts = {part for packed in refused.values() for part in packed.parts}
    tensors = {name: tensor for name, tensor in side.tensors.items() if name not in parts}
    errors = {name: LayoutError(packed.why, "quantised") for name, packed in refused.items()}
    return replace(side, tensors=tensors, errors={**side.errors, **errors})


def _with_tied_head(side: Assembled, other: Assembled) -> Assembled:
    """Join the head to the embedding, as its copy, in a format that does not say they are tied."""
    rules = other.architecture
    if rules is None or other.config is None or not other.config.tied_embeddings:
        return side
    if side.checkpoint.convention != "meta" and side.architecture is not None:
        return side
    names = {m.role: m.hf[0] for m in rules.mappings}
    head, embedding = (side.tensors.get(names.get(kind, "")) for kind in ("head", "embedding"))
    if head is None or embedding is None or head.name in other.tensors:
        return side
    if [p.box for p in head.pieces] != [p.box for p in embedding.pieces] or not can_be_copies(
        head.pieces[0].ref, embedding.pieces[0].ref
    ):
        return side
    pieces = tuple(
        replace(piece, copies=(*piece.copies, Copy(copy.ref, copy.rank), *copy.copies))
        for piece, copy in zip(embedding.pieces, head.pieces, strict=True)
    )
    tensors = {name: tensor for name, tensor in side.tensors.items() if name != head.name}
    tensors[embedding.name] = replace(embedding, pieces=pieces)
    return replace(side, tensors=tensors)
