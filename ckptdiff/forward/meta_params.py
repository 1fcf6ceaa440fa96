"""Read params.json for the forward pass, as Meta's llama builds its Transformer from it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.model import LLAMA3, LayerSpec, Model, Rope, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Only newer files state the factor of `use_scaled_rope`: it is 32 for Llama 3.2's small models, 8
# for others (transformers' convert_llama_weights_to_hf).
_SMALL_WIDTH = 4096  # hidden size below which a model is one of the small ones
_UNSUPPORTED = ("moe", "moe_args", "vision_chunk_size", "vision_args", "sliding_window")
_size = partial(size_of, "params.json")


def read(params: Mapping[str, Any]) -> Model:
    """Return the model that Meta's code builds.

    Raises UnknownConfig if a size is missing, UnsupportedLayout for what Llama 1 to 3 do not have.
    """
    for name in _UNSUPPORTED:
        if params.get(name):
            raise UnsupportedLayout(f"params.json: {name} {params[name]!r} is not yet computed")
    heads, hidden = _size(params, "n_heads"), _size(params, "dim")
    channels = int(params.get("head_dim") or hidden // heads)
    scaling, notes = _scaling(params, hidden)
    rope = Rope(float(params.get("rope_theta") or 10000.0), channels, scaling)
    return Model(
        family="llama",
        layers=tuple(LayerSpec(rope) for _ in range(_size(params, "n_layers"))),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=params.get("n_kv_heads") or heads,
        kv_channels=channels,
        layernorm_epsilon=float(params.get("norm_eps") or 1e-5),
        softmax_scale=channels**-0.5,
        notes=notes,
    )


def _scaling(params: Mapping[str, Any], hidden: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the scaling of rotary positions, and a note if its factor is assumed."""
    if not params.get("use_scaled_rope"):
        return {}, ()
    if factor := params.get("rope_scaling_factor"):
        return {**LLAMA3, "factor": float(factor)}, ()
    factor = 32.0 if hidden < _SMALL_WIDTH else 8.0
    note = f"params.json does not tell the factor of scaled positions: taken as {factor:g}"
    return {**LLAMA3, "factor": factor}, (note,)
