"""Read Megatron's args for the forward pass, as megatron-core's GPTModel is built from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig
from ckptdiff.forward.model import Activation, Layer, Model, Rope

if TYPE_CHECKING:
    from collections.abc import Mapping

# What `--use-rope-scaling` means beside its factor, in megatron-core 0.16.1.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(args: Mapping[str, Any], family: str) -> Model:
    """Return the model that Megatron builds. Raises UnknownConfig if a size is missing."""
    heads = _size(args, "num_attention_heads")
    hidden = _size(args, "hidden_size")
    channels = args.get("kv_channels") or hidden // heads
    grouped = args.get("group_query_attention") and args.get("num_query_groups")
    rope = _rope(args, channels)
    return Model(
        family=family,
        layers=tuple(Layer(rope, _window(args)) for _ in range(_size(args, "num_layers"))),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=grouped or heads,
        kv_channels=channels,
        layernorm_epsilon=float(args.get("norm_epsilon", 1e-5)),
        softmax_scale=channels**-0.5,
        rms_norm=args.get("normalization") == "RMSNorm",
        zero_centered=bool(args.get("apply_layernorm_1p")),
        activation=_activation(args),
        gated=bool(args.get("swiglu")),
        tied=not args.get("untie_embeddings_and_output_weights"),
    )


def _size(args: Mapping[str, Any], name: str) -> int:
    value = args.get(name)
    if type(value) is not int or value < 1:
        raise UnknownConfig(f"args: {name} is {value!r}, which is no size")
    return value


def _activation(args: Mapping[str, Any]) -> Activation:
    if args.get("swiglu"):
        return "silu"
    return "relu2" if args.get("squared_relu") else "gelu"


def _rope(args: Mapping[str, Any], channels: int) -> Rope | None:
    if args.get("position_embedding_type") != "rope" and not args.get(
        "use_rotary_position_embeddings"
    ):
        return None
    scaling: dict[str, Any] = {}
    if args.get("use_rope_scaling"):
        scaling = {**_LLAMA3, "factor": args.get("rope_scaling_factor") or 8.0}
    elif factor := args.get("rotary_seq_len_interpolation_factor"):
        scaling = {"rope_type": "linear", "factor": factor}
    share = args.get("rotary_percent", 1.0)
    dim = channels if share == 1.0 else int(channels * share)
    base = float(args.get("rotary_base", 10000))
    return Rope(base, dim, scaling, interleaved=bool(args.get("rotary_interleaved")))


def _window(args: Mapping[str, Any]) -> int | None:
    """Return how many positions are seen: those before that `window_size` counts, and the own."""
    window = args.get("window_size")
    return None if not window or window[0] < 0 else int(window[0]) + 1
