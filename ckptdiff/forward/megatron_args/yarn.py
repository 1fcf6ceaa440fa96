"""Read YaRN's scaling of rotary positions from Megatron's args.

Sources: megatron.core.models.common.embeddings.yarn_rotary_pos_embedding; which args it is built
from: MLATransformerConfig, and _apply_yarn_config_from_args of Megatron-LM core_r0.19.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.forward.model import yarn_scale

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args


def latent_factor(args: Args) -> float:
    return float(args.get("rotary_scaling_factor", 40.0))  # MLATransformerConfig's default


def latent_scaling(args: Args) -> dict[str, Any]:
    """Return the scaling of latent attention, in the fields of Hugging Face's rope_parameters."""
    original_length = args.get("original_max_position_embeddings")
    return _scaling(
        args, latent_factor(args), original_length or args.get("max_position_embeddings"), ""
    )


def plain_scaling(args: Args) -> dict[str, Any]:
    """Return the same of attention that is not latent."""
    factor = args.get("yarn_rotary_scaling_factor", args.get("rotary_scaling_factor", 1.0))
    original_length = args.get("yarn_original_max_position_embeddings", 4096)
    return _scaling(args, float(factor), original_length, "yarn_")


def _scaling(args: Args, factor: float, original_length: Any, prefix: str) -> dict[str, Any]:
    mscale, all_dim = (
        float(args.get(f"{prefix}{name}", args.get(name, default)))
        for name, default in (("mscale", 1.0), ("mscale_all_dim", 0.0))
    )
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original_length,
        "beta_fast": args.get(f"{prefix}beta_fast") or 32.0,
        "beta_slow": args.get(f"{prefix}beta_slow") or 1.0,
        "attention_factor": yarn_scale(factor, mscale) / yarn_scale(factor, all_dim),
        "truncate": not prefix or args.get("yarn_correction_range_round_to_int", True),
    }
