"""Assemble a Hugging Face folder: split fused tensors, join copies, join factors to weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch import find_architecture
from ckptdiff.arch.fused import canonical
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.templates import split_name, template
from ckptdiff.assembly.dcp_chunks import ViewsOfWholes
from ckptdiff.assembly.derived_buffers import derived_entry, is_derived
from ckptdiff.assembly.packed import label_problem, problems, without_packed
from ckptdiff.assembly.quantisation import join_factors
from ckptdiff.assembly.recipe import (
    Assembled,
    Assembly,
    Copy,
    LayoutError,
    Piece,
    can_be_copies,
    whole_box,
)
from ckptdiff.checkpoint import Rank
from ckptdiff.config import model as configs
from ckptdiff.config.fields.rope_versions import contradictions
from ckptdiff.errors import UnknownConfig, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.arch.base import Architecture
    from ckptdiff.checkpoint import Checkpoint, TensorRef
    from ckptdiff.config.model import ModelConfig


def assemble_huggingface(checkpoint: Checkpoint) -> Assembled:
    """Return the canonical tensors of a Hugging Face folder, each one piece of a stored tensor.

    Where stored tensors are in chunks, it is the pieces of those that hold it.

    A head that is stored is a tensor, also where the config ties it: it may differ.
    """
    (shard,) = checkpoint.shards
    settings = checkpoint.config or {}
    architecture = find_architecture(settings)
    try:
        family = None if architecture is None else architecture.name
        tied = architecture is not None and architecture.tied_by_default
        config = (
            configs.from_huggingface(settings, family=family, tied_by_default=tied)
            if settings
            else None
        )
    except UnknownConfig:
        config = None
    tensors, parts, packed = without_packed(shard.tensors, settings, architecture)
    fused_errors: dict[str, str] = {}
    if architecture is not None:
        tensors, fused_errors = canonical(tensors, architecture)
    derived = [
        derived_entry(tensors.pop(name), config, checkpoint)
        for name in list(tensors)
        if is_derived(name)
    ]
    tensors, factor_errors = join_factors(tensors, settings)
    mislabelled = label_problem(packed, tensors, settings)
    notes = (*problems(packed, tensors), *([mislabelled] if mislabelled else []))
    tensors |= parts
    errors = {name: LayoutError(text) for name, text in {**fused_errors, **factor_errors}.items()}
    copies = _shared_copies(tensors, architecture) if architecture is not None else {}
    assemblies = {}
    rank = Rank()
    views = ViewsOfWholes(checkpoint)
    for name, ref in tensors.items():
        whole = whole_box(ref)
        piece = Piece(ref, rank, whole, whole, copies.get(name, ()))
        try:
            assemblies[name] = views.resolved(Assembly(name, ref.shape, ref.dtype, (piece,)))
        except UnsupportedLayout as error:
            errors[name] = LayoutError(str(error))
    return Assembled(
        checkpoint,
        architecture,
        config,
        put_in_model_order(assemblies, architecture),
        unmapped=(),
        errors=put_in_model_order(errors, architecture),
        derived=tuple(derived),
        packed=packed,
        notes=(*notes, *_tied_note(architecture, config, assemblies), *contradictions(settings)),
    )


def _tied_note(
    architecture: Architecture | None, config: ModelConfig | None, tensors: Mapping[str, Assembly]
) -> tuple[str, ...]:
    """Return a note if a head is stored that the config ties to the embedding."""
    if architecture is None or config is None or not config.tied_embeddings:
        return ()
    head = architecture.head_name()
    if head not in tensors or architecture.embedding().hf[0] not in tensors:
        return ()
    return (
        f"{head} is stored, though the config ties it to the embedding: transformers 5 keeps it "
        "where it differs, transformers 4 and Megatron do not",
    )


def _shared_copies(
    tensors: dict[str, TensorRef], architecture: Architecture
) -> dict[str, tuple[Copy, ...]]:
    """Remove the tensors that only repeat another one; return them as copies, by its name."""
    copies: dict[str, tuple[Copy, ...]] = {}
    originals = {template(pattern): original for pattern, original in architecture.shared}
    for name in list(tensors) if originals else ():
        original = originals.get(split_name(name)[0])
        if original in tensors and can_be_copies(tensors[name], tensors[original]):
            copies[original] = (*copies.get(original, ()), Copy(tensors.pop(name), Rank()))
    return copies
