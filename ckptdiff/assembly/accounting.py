"""Account for every stored tensor: those that repeat another one, and those in no recipe at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import TensorRef


def repeated(side: Assembled) -> dict[str, str]:
    """Return the stored tensors that only repeat another one, with the canonical name of that.

    Replicas of one name, which ranks hold, are not among them.
    """
    return {
        copy.ref.name: name
        for name, assembly in side.tensors.items()
        for piece in assembly.pieces
        for copy in piece.copies
        if copy.ref.name != piece.ref.name
    }


def unlisted(side: Assembled) -> list[str]:
    """Return the native names of stored tensors that no list of the side has; none as a rule."""
    known = {ref.name for ref in _used(side)}
    known.update(side.unmapped)
    for packed in (*side.packed.values(), *side.multiplied_out.values()):
        known.update(packed.parts, packed.stored)
    failed = tuple(side.errors)
    chunks = side.checkpoint.chunks
    refs = [ref for shard in side.checkpoint.shards for ref in shard.tensors.values()]
    if chunks is not None:
        refs = [chunk.ref for ref in refs for chunk in chunks[ref]]
    stored = dict.fromkeys(ref.name for ref in refs)
    if failed and side.checkpoint.convention != "hf":
        return []  # an error is of a canonical name, and says which shards it is about
    return [name for name in stored if name not in known and not name.startswith(failed)]


def _used(side: Assembled) -> Iterator[TensorRef]:
    """Yield every stored tensor that a recipe reads, and buffers that follow from the config."""
    for assembly in side.tensors.values():
        for piece in (*assembly.pieces, *assembly.padding):
            yield piece.ref
            if piece.ref.scale is not None:
                yield from piece.ref.scale.refs
            yield from (copy.ref for copy in piece.copies)
    yield from (entry.ref for entry in side.derived if entry.ref is not None)
