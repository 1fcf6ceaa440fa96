"""Read multi-latent attention from Megatron's args."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.megatron_args.base import base_of, epsilon_of, size
from ckptdiff.forward.megatron_args.yarn import latent_factor, latent_scaling
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
    is_yarn = (args.get("rope_type") or "yarn") == "yarn"
    scaling = latent_scaling(args) if is_yarn else {}
    rope = Rope(base_of(args), latent.rotated, scaling, interleaved=True, regroups=True)
    sharpness = yarn_scale(latent_factor(args), args.get("mscale_all_dim", 0.0))
    scale = (latent.unrotated + latent.rotated) ** -0.5 * sharpness**2
    return replace(
        model,
        layers=tuple(replace(layer, rope=rope) for layer in model.layers),
        latent=latent,
        softmax_scale=scale,
    )
