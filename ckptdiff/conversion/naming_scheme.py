"""Which of Megatron's naming schemes a checkpoint is written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.naming import has_local_spec, is_hybrid, templates_of
from ckptdiff.config.compare import config_side
from ckptdiff.config.not_computed import needs_engine
from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.programs import Version
    from ckptdiff.conversion.plan import Target

# With norms in latent attention, these build one in front of whole queries too, which no model has:
# MLA's norms are settled for queries and keys together (megatron.core's mla_qk_norm_config).
_NORMS_WHOLE_QUERIES: frozenset[Version] = frozenset({"0.19"})


def scheme_of(
    side: Assembled, target: Target, notes: list[str], cannot: list[str]
) -> tuple[Names, bool]:
    """Return the names to write, and whether experts are named as TEGroupedMLP names them.

    Where the target names no scheme it is `te` for torch_dist, and for models that Megatron builds
    in no other way, or whose norms its local layers cannot compute; else `mcore`. Experts beside
    Mamba layers are always grouped there (megatron.core's mamba_stack_spec). Adds to `notes`, and
    to `cannot` a tensor that the program asks for and no model has. Raises BadArgument for a scheme
    that does not go with the format, or the experts.
    """
    assert side.architecture is not None
    assert side.config is not None
    model = templates_of(side.architecture)
    has_both = has_local_spec(model)
    by_engine = target.to == "torch_dist" or not has_both or needs_engine(config_side(side))
    names: Names = target.names or ("te" if by_engine else "mcore")
    if names == "legacy" and target.to == "torch_dist":
        raise BadArgument("Megatron's legacy model has no torch_dist checkpoints")
    if target.moe_grouped_gemm and names != "te":
        raise BadArgument("grouped experts have Transformer Engine's names: choose the names te")
    if names == "mcore" and not has_both:
        notes.append(
            "Megatron-LM builds this model of Transformer Engine's parts alone; only ModelOpt's "
            "layer specs have the names mcore"
        )
    sizes = side.config
    has_whole_queries = sizes.kv_lora_rank > 0 and sizes.q_lora_rank is None
    if target.version in _NORMS_WHOLE_QUERIES and has_whole_queries and sizes.qk_layernorm:
        cannot.append("it puts a norm in front of queries that are not compressed")
    return names, target.moe_grouped_gemm or (names == "te" and is_hybrid(model))
