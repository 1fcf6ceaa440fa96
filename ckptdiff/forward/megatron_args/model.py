"""Read Megatron's args for the forward pass, as megatron-core's GPTModel is built from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward import biases
from ckptdiff.forward.megatron_args.base import base_of, epsilon_of, size
from ckptdiff.forward.megatron_args.completed import NOT_IN_ARGS, completed
from ckptdiff.forward.megatron_args.experts import has_experts, routing_of
from ckptdiff.forward.megatron_args.hybrids import with_delta_net, with_mamba
from ckptdiff.forward.megatron_args.latent import with_latent
from ckptdiff.forward.megatron_args.yarn import plain_scaling
from ckptdiff.forward.model import (
    LLAMA3,
    Activation,
    Fixed,
    LayerSpec,
    Model,
    Rope,
)
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
    *("deepseek", "glm4_moe", "gemma", "gemma2", "gemma3", "gpt2", "nemotron", "olmo2", "phi3"),
    *("gpt_oss", "gpt_neox", "exaone4", "qwen3_next", "qwen3_5", "qwen3_5_moe", "nemotron_h"),
    *("seed_oss", "smollm3"),
)
# Args of which other values than these, None and False are not yet computed. Args that the config
# table does not state either are not looked for here.
NOT_YET: dict[str, tuple[Any, ...]] = {
    "normalization": ("LayerNorm", "RMSNorm"),
    "position_embedding_type": ("learned_absolute", "rope", "yarn", "none"),
    "moe_router_score_function": ("softmax", "sigmoid"),
    "softmax_type": ("vanilla", "off-by-one", "learnable"),
}
_LLAMA3_FIELDS = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "old_context_len",
}
# What a config in YAML has to state: what it leaves out is not known, and has no default here.
_DECIDING = (
    *("num_layers", "hidden_size", "num_attention_heads", "group_query_attention"),
    *("normalization", "norm_epsilon", "activation_func", "gated_linear_unit"),
    *("position_embedding_type", "rotary_base", "share_embeddings_and_output_weights"),
)
_FUNCTIONS = frozenset({"silu", "gelu", "gelu_tanh", "squared_relu"})
# Scores that rank a group of experts, hard-coded in transformers: in DeepSeek-V2, and later ones.
_HF_RANKING = {"softmax": 1, "sigmoid": 2}


def read(args: Args, family: str, other: Model | None = None) -> Model:
    """Return the model that Megatron builds from its args.

    What no arg states for the family is taken from the `other` side's model. Raises UnknownConfig
    if a size is missing, UnsupportedLayout for what is not computed, or if the other model is
    needed and is None.
    """
    named = frozenset(args)
    args = {name: value for name, value in args.items() if value is not None}
    _refuse(family)
    heads = size(args, "num_attention_heads")
    hidden = size(args, "hidden_size")
    channels = args.get("kv_channels") or hidden // heads
    groups = args.get("group_query_attention") and args.get("num_query_groups")
    positions = _positions(args, family)
    rope, routing = _rope(args, channels, positions), routing_of(args)
    rms_norm, zero_centered = args.get("normalization") == "RMSNorm", _zero_centered(args)
    softmax_type = args.get("softmax_type", "vanilla")
    if softmax_type not in ("vanilla", "off-by-one", "learnable"):
        raise UnsupportedLayout(f"args: softmax_type {softmax_type!r} is not yet computed")
    model = Model(
        family=family,
        layers=tuple(
            LayerSpec(
                None if _is_without_rope(args, n) else rope,
                _window(args, n),
                routing if has_experts(args, n) else None,
            )
            for n in range(size(args, "num_layers"))
        ),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups or heads,
        kv_channels=channels,
        layernorm_epsilon=epsilon_of(args),
        softmax_scale=args.get("softmax_scale") or channels**-0.5,
        rms_norm=rms_norm,
        zero_centered=zero_centered,
        wide_norm=rms_norm and zero_centered,  # only Transformer Engine has both
        activation=_activation(args),
        gated=_is_gated(args),
        gate_limit=args.get("activation_func_clamp_value"),
        up_offset=float(args.get("glu_linear_offset", 0.0)),
        softmax_type=softmax_type,
        # Fields of Megatron-Bridge's Gemma 2; Megatron's own classes have none.
        attention_cap=args.get("attn_logit_softcapping"),
        logit_cap=args.get("final_logit_softcapping"),
        tied=not args.get("untie_embeddings_and_output_weights"),
        learned_positions=positions == "learned_absolute",
        output_gate=bool(args.get("attention_output_gate")),
        without_bias=biases.absent_in_megatron(args),
        expert_latent=args.get("moe_latent_size"),
        expert_turns=args.get("moe_mlp_glu_interleave_size") or 0,
        shared_turns=_shared_turns(args),
        not_computed=tuple(
            f"{name} {config_value_text(args[name])}"
            for name, computed in NOT_YET.items()
            if args.get(name) not in (None, False, *computed)
        ),
    )
    usual = 0 if routing is None else _HF_RANKING[routing.score]
    if routing is not None and routing.groups > 1 and routing.ranking != usual:
        note = (
            f"Megatron ranks a group of experts by the sum of its best {routing.ranking} scores "
            f"(moe_router_topk / moe_router_group_topk), transformers by that of its best "
            f"{usual}: neither can be set to the other's rule"
        )
        model = replace(model, fixed=(*model.fixed, Fixed(note, frozenset({"routing"}))))
    if positions == "yarn" and args.get("rotary_percent", 1.0) != 1.0:
        note = "Megatron rotates whole heads with YaRN, whatever rotary_percent says"
        rotated = Fixed(note, frozenset({"q_rope", "k_rope"}))
        model = replace(model, fixed=(*model.fixed, rotated))
    if model.gate_limit is not None and args.get("swiglu"):
        words = "activation_func_clamp_value beside swiglu, which fused kernels leave out"
        model = replace(model, not_computed=(*model.not_computed, words))
    if _is_odd_window(args):
        words = f"window_size {args['window_size']}, which its kinds of attention read differently"
        model = replace(model, not_computed=(*model.not_computed, words))
    if args.get("multi_latent_attention"):
        model = with_latent(model, args)
    model = with_delta_net(with_mamba(model, args, routing), args)
    return completed(model, args, named, other) if family in NOT_IN_ARGS else model


def check_stated(args: Args, file: str) -> None:
    """Raise UnknownConfig if a config in YAML leaves out what decides about the logits."""
    absent = [name for name in _DECIDING if name not in args]
    if absent:
        raise UnknownConfig(
            f"{file} does not state {', '.join(absent)}: the class that has defaults for them is "
            "not loaded, so logits cannot be computed"
        )
    function, gated = args["activation_func"], bool(args["gated_linear_unit"])
    if function not in _FUNCTIONS or gated != (function == "silu"):
        kind = "gated" if gated else "not gated"
        raise UnsupportedLayout(f"{file}: {function}, {kind}, is not yet computed")


def _refuse(family: str) -> None:
    """Raise UnsupportedLayout for a family that is not computed."""
    if family and family not in FAMILIES:
        raise UnsupportedLayout(
            f"logits of a {family} model are not yet possible: `ckptdiff help logits` lists those "
            "that are"
        )


def _shared_turns(args: Args) -> int:
    """Return how many rows of gate and up take turns in a shared expert; one kernel alone asks."""
    if not args.get("use_grouped_gemm_for_shared_expert"):
        return 0
    return args.get("moe_shared_expert_glu_interleave_size") or 0


def _zero_centered(args: Args) -> bool:
    return any(args.get(n) for n in ("apply_layernorm_1p", "layernorm_zero_centered_gamma"))


def _activation(args: Args) -> Activation:
    if args.get("swiglu"):
        return "silu"
    if args.get("squared_relu"):
        return "relu2"
    if args.get("quick_geglu"):
        return "quick_gelu"
    # The fused kernel of GELU with a bias computes the tanh form, whatever the unfused one does.
    # No core model reads openai_gelu, which a legacy one does; from YAML it is the activation_func.
    fused = args.get("bias_gelu_fusion") and args.get("add_bias_linear")
    named = args.get("use_legacy_models") or "activation_func" in args
    return "gelu_tanh" if fused or (named and args.get("openai_gelu")) else "gelu"


def _is_gated(args: Args) -> bool:
    # Beside squared_relu, Megatron-LM does not read quick_geglu.
    return bool(args.get("swiglu") or (args.get("quick_geglu") and not args.get("squared_relu")))


def _rope(args: Args, channels: int, kind: str) -> Rope | None:
    if kind not in ("rope", "yarn"):
        return None
    if kind == "yarn":  # which knows no rotary_percent
        if args.get("rotary_interleaved"):
            raise UnsupportedLayout("args: yarn with rotary_interleaved is refused by Megatron")
        return Rope(base_of(args), channels, plain_scaling(args))
    scaling: dict[str, Any] = {}
    if args.get("use_rope_scaling"):
        # Classes of NeMo and Megatron-Bridge state what Megatron's own code has as constants.
        own = {key: args[name] for key, name in _LLAMA3_FIELDS.items() if name in args}
        scaling = {**LLAMA3, **own, "factor": args.get("rope_scaling_factor") or 8.0}
    elif factor := args.get("rotary_seq_len_interpolation_factor"):
        scaling = {"rope_type": "linear", "factor": factor}
    fraction = args.get("rotary_percent", 1.0)
    dim = channels if fraction == 1.0 else int(channels * fraction)
    return Rope(base_of(args), dim, scaling, interleaved=bool(args.get("rotary_interleaved")))


def _positions(args: Args, family: str) -> str:
    """Return the kind of positions; if no arg states it, that of the family."""
    if args.get("use_rotary_position_embeddings"):
        return "rope"
    kind = args.get("position_embedding_type")
    if kind is None:
        return {"gpt2": "learned_absolute", "nemotron_h": "none"}.get(family, "rope")
    if kind not in ("rope", "yarn", "learned_absolute", "none"):
        raise UnsupportedLayout(f"args: position_embedding_type {kind!r} is not yet computed")
    return str(kind)


def _is_without_rope(args: Args, number: int) -> bool:
    """Return whether `no_rope_freq` leaves a layer without rotary positions."""
    freq = args.get("no_rope_freq")
    if isinstance(freq, int) and freq:
        return (number + 1) % freq == 0
    return bool(freq and freq[number])


def _window(args: Args, number: int) -> int | None:
    """Return how many positions a layer sees, its own among them; None: all before.

    `window_size` does not count the own position. Of layers counted from 1, each
    `window_attn_skip_freq`-th has no window.
    """
    window, frequency = args.get("window_size"), args.get("window_attn_skip_freq")
    if not window or window[0] < 0:
        return None
    if isinstance(frequency, list):
        is_windowed = bool(frequency[number])
    else:
        is_windowed = frequency is None or (number + 1) % frequency != 0
    return int(window[0]) + 1 if is_windowed else None


def _is_odd_window(args: Args) -> bool:
    """Return whether not all attention reads a window as so many positions before the own one.

    Transformer Engine takes -1 for no limit, and looks ahead of no position if attention is causal.
    The mask of local layers (get_sliding_window_causal_mask) is by the plain numbers: -1 leaves no
    position, and a second number above 0 shows later ones.
    """
    window = args.get("window_size")
    if not window or (window[0] >= 0 and window[1] == 0):
        return False
    is_unlimited = tuple(window) in {(-1, 0), (-1, -1)}
    return args.get("transformer_impl") == "local" or not is_unlimited
