"""Assemble a checkpoint of any format, alone or beside the one that it is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.adapters import with_adapter
from ckptdiff.assembly.by_words import with_rules_by_words
from ckptdiff.assembly.completeness import with_shortfall
from ckptdiff.assembly.compose import renamed
from ckptdiff.assembly.equal_names import with_equal_names
from ckptdiff.assembly.from_huggingface import assemble_huggingface
from ckptdiff.assembly.from_megatron import assemble_megatron
from ckptdiff.assembly.from_meta import assemble_meta
from ckptdiff.assembly.packed import multiplied_out
from ckptdiff.assembly.recipe import Assembled, LayoutError
from ckptdiff.assembly.shared_names import with_shared_names
from ckptdiff.assembly.unwrapping import unwrapped
from ckptdiff.formats.gc_pause import uncollected

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.recipe import PackedWeight
    from ckptdiff.checkpoint import Checkpoint, Convention


# Whose files state family and vocabulary, the fuller ones first.
_SELF_DESCRIBING: tuple[Convention, ...] = ("hf", "meta")


@uncollected()
def assemble(
    checkpoint: Checkpoint, *, like: Assembled | None = None, family: Architecture | None = None
) -> Assembled:
    """Return the canonical tensors of a checkpoint: Hugging Face names, unsharded, no data read.

    `like` is the other side of a comparison. It supplies what Megatron's files do not state: the
    family, and how many vocabulary rows are not padding. `family` supplies the first alone. Raises
    UnknownConfig if a sharded checkpoint has no args and `like` has no config either.
    """
    found = unwrapped(checkpoint)
    checkpoint = found.checkpoint
    if checkpoint.convention == "hf":
        side = assemble_huggingface(checkpoint)
    elif checkpoint.convention == "meta":
        side = assemble_meta(checkpoint, like)
    else:
        side = assemble_megatron(checkpoint, like, family)
    if found.wrapping is not None:
        notes = (*side.notes, found.wrapping.words)
        side = replace(side, wrapping=found.wrapping, notes=notes)
    return with_shortfall(with_adapter(side, like) if found.has_adapter else side)


@uncollected()
def assemble_pair(
    a: Checkpoint, b: Checkpoint, *, alone: Assembled | None = None
) -> tuple[Assembled, Assembled]:
    """Return both sides of a comparison, each assembled with what the other side states.

    `alone` is `assemble(a)` if the caller has it already: it takes seconds for the largest models.
    Raises UnknownConfig as `assemble` does.
    """
    first, second = _pair(a, b, alone)
    sides = with_equal_names(first, second)
    first, second = (
        side if side is was else with_shortfall(side)
        for side, was in zip(sides, (first, second), strict=True)
    )
    first, second = _without_packed(first, second), _without_packed(second, first)
    return with_tied_head(first, second), with_tied_head(second, first)


def _pair(a: Checkpoint, b: Checkpoint, alone: Assembled | None) -> tuple[Assembled, Assembled]:
    for convention in _SELF_DESCRIBING:
        if a.convention == convention:
            return _like(alone or assemble(a), b)
        if b.convention == convention:
            return _like(assemble(b), a)[::-1]
    first, second = alone or assemble(a), assemble(b)
    # Both vocabularies may be padded, for different TP sizes: only rows that both have compare.
    return with_shared_names(assemble(a, like=second), assemble(b, like=first))


def _like(whole: Assembled, other: Checkpoint) -> tuple[Assembled, Assembled]:
    """Return a side, with what rules its names' words add to its own, and `other` read like it."""
    ruled = with_rules_by_words(whole, other)
    read = assemble(other, like=ruled)
    return (ruled if read.architecture is not None else whole), read


def _without_packed(side: Assembled, other: Assembled) -> Assembled:
    """Replace packed weights by the reason that they are not compared, where the other differs.

    Weights that both sides hold packed in one way stay as they are: they are compared bit by bit.
    So do those that the other side does not have. Where the other side has plain numbers, weights
    of a scheme that is decoded are multiplied out.
    """
    plain = {name for name, tensor in other.tensors.items() if not tensor.is_scaled}
    side = multiplied_out(side, plain - other.packed.keys())
    here = other.tensors.keys() | other.errors.keys() | other.packed.keys()
    parts = {
        part
        for name, packed in side.packed.items()
        if name in here and not _equally_packed(packed, other.packed.get(name))
        for part in packed.parts
    }
    if not parts:
        return side
    tensors = {name: tensor for name, tensor in side.tensors.items() if name not in parts}
    errors = {
        name: LayoutError(packed.problem) if packed.problem else LayoutError(packed.text, "packed")
        for name, packed in side.packed.items()
        if not parts.isdisjoint(packed.parts)
    }
    return replace(side, tensors=tensors, errors={**side.errors, **errors})


def _equally_packed(one: PackedWeight, other: PackedWeight | None) -> bool:
    """Return whether equal bits of both are equal numbers, as far as their headers say."""
    if other is None or one.scheme != other.scheme:
        return False
    return one.form == other.form or bool(one.problem or other.problem)


def with_tied_head(side: Assembled, other: Assembled) -> Assembled:
    """Return a side with a head made of its embedding, where only the other side stores a head.

    Only where the config ties them: that of this side or, if it has none, of the other one.
    """
    rules = side.architecture or other.architecture
    config = side.config or other.config
    if rules is None or config is None or not config.tied_embeddings:
        return side
    head, embedding = rules.head_name(), side.tensors.get(rules.embedding().hf[0])
    if head is None or embedding is None or head in side.tensors or head not in other.tensors:
        return side
    tensors = put_in_model_order({**side.tensors, head: renamed(embedding, head)}, rules)
    return replace(side, tensors=tensors)
