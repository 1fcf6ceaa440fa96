"""Read multi-latent attention from Megatron's args."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.megatron_args.base import base_of, epsilon_of, size
from ckptdiff.forward.model import Latent, Model, Rope, yarn_scale

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args


def with_latent(model: Model, args: Args) -> Model:
    """Return the model with MLATransformerConfig's attention."""
    if args.get("rotary_interleaved"):
        raise UnsupportedLayout("args: latent attention with rotary_interleaved is not computed")
    latent = Latent(
        query_rank=args.get("q_lora_rank"),
        rank=size(args, "kv_lora_rank"),
        unrotated=size(args, "qk_head_dim"),
        rotated=size(args, "qk_pos_emb_head_dim"),
        value=size(args, "v_head_dim"),
        epsilon=epsilon_of(args),
    )
    factor = float(args.get("rotary_scaling_factor", 40.0))  # MLATransformerConfig's default
    mscale, all_dim = args.get("mscale", 1.0), args.get("mscale_all_dim", 0.0)
    scaling: dict[str, Any] = {}
    if (args.get("rope_type") or "yarn") == "yarn":
        attention_factor = yarn_scale(factor, mscale) / yarn_scale(factor, all_dim)
        original_length = args.get("original_max_position_embeddings")
        scaling = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_length
            or args.get("max_position_embeddings"),
            "beta_fast": args.get("beta_fast") or 32.0,
            "beta_slow": args.get("beta_slow") or 1.0,
            "attention_factor": attention_factor,
        }
    rope = Rope(base_of(args), latent.rotated, scaling, interleaved=True, regroups=True)
    scale = (latent.unrotated + latent.rotated) ** -0.5 * yarn_scale(factor, all_dim) ** 2
    return replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
    )
