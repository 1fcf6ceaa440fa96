"""Which of Megatron's naming schemes a checkpoint is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.naming import has_local_spec, is_hybrid
from ckptdiff.arch.templates import template
from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture
    from ckptdiff.arch.naming import Names
    from ckptdiff.conversion.plan import Target


def scheme_of(architecture: Architecture, target: Target, notes: list[str]) -> tuple[Names, bool]:
    """Return the names to write, and whether experts are named as TEGroupedMLP names them.

    Where the target names no scheme it is `te` for torch_dist, and for models that Megatron builds
    in no other way; else `mcore`. Experts beside Mamba layers are always grouped there
    (megatron.core's mamba_stack_spec). Adds to `notes`. Raises BadArgument for a scheme that does
    not go with the format, or the experts.
    """
    model = {template(rule.megatron) for rule in architecture.mappings}
    has_both = has_local_spec(model)
    names: Names = target.names or ("te" if target.to == "torch_dist" or not has_both else "mcore")
    if names == "legacy" and target.to == "torch_dist":
        raise BadArgument("Megatron's legacy model has no torch_dist checkpoints")
    if target.moe_grouped_gemm and names != "te":
        raise BadArgument("grouped experts have Transformer Engine's names: choose the names te")
    if names == "mcore" and not has_both:
        notes.append(
            "Megatron-LM builds this model of Transformer Engine's parts alone; only ModelOpt's layer "
            "specs have the names mcore"
        )
    return names, target.moe_grouped_gemm or (names == "te" and is_hybrid(model))
