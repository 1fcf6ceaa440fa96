"""What a program cannot compute of a model, and what it does instead: a clause for each cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import FIELDS
from ckptdiff.config.fields.base import guarded, show
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.scaling import FIXED, LLAMA3, SCALING, is_llama31
from ckptdiff.config.fields.scaling_kind import scaling_kind
from ckptdiff.config.fields.shape import is_latent
from ckptdiff.config.launch import can_split_sequence, leftovers
from ckptdiff.text import config_value_text, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.config.fields import ConfigField, ConfigSide, Stated
    from ckptdiff.config.programs import Version

_FIELDS = {field.name: field for field in FIELDS}
_SCALING = tuple(field.name for field in SCALING)
_DELTA_NET = "Gated DeltaNet"
_BY_CHOICE = "choose the names te"
_LATENT_EPSILON = 1e-6
_MAMBA_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Beyond:
    """One thing that a program cannot compute of a model."""

    clause: str  # without a full stop
    fields: tuple[str, ...] = ()  # the ConfigFields that it accounts for


# What a model does without an arg that has no flag, or none that does what it says.
_INSTEAD = {
    "softmax_scale": "scales attention by 1/sqrt(head dimension)",
    "softmax_type": "has no sinks",
    "window_size": "lets every token see all before it",
    "window_attn_skip_freq": "gives every layer the same window",
    "rotary_seq_len_interpolation_factor": "does not scale positions",
    "original_max_position_embeddings": "takes 4096",
    "beta_fast": "takes 32",
    "beta_slow": "takes 1",
    "quick_geglu": "applies GELU without a gate",
    "glu_linear_offset": "adds nothing to what the gate multiplies",
    "activation_func_clamp_value": "does not clamp it",
    "moe_shared_expert_gate": "adds the shared expert without a gate",
    "moe_latent_size": "routes the whole hidden state",
    "experimental_attention_variant": "has attention in every layer",
    "attention_output_gate": "has no gate behind attention",
}


def limits_of(
    side: ConfigSide, args: Mapping[str, Any], origins: Mapping[str, ConfigField], version: Version
) -> list[Beyond]:
    """Return what a program cannot compute of the model of a side, from the args that say it.

    `origins` are the fields that the args come from, if the side is no Megatron side.
    """
    found = list(_special(side, args, version)) if side.kind == "hf" else []
    found += _of_layers(args, version)
    if version == "bridge":
        return [*found, *_of_bridge(args)]
    known = {name for limit in found for name in limit.fields}
    for left in leftovers(args, version):
        field = origins.get(left.arg)
        if left.why_not is None or (field is not None and field.name in known):
            continue
        if left.arg.startswith("linear_") and _DELTA_NET in known:
            continue  # of layers that the program has not at all
        reading = None if field is None else field.read(side)
        start = f"{left.arg} is {show(left.value)}"
        if field is not None and reading is not None:
            start = _named(field, reading)
            known.add(field.name)
        instead = _INSTEAD.get(left.arg)
        does = f", and {instead}" if instead is not None else ""
        found.append(Beyond(f"{start}: it {left.why_not}{does}", (field.name,) if field else ()))
    return found


def unset_limit(field: ConfigField, reading: Stated, written: ConfigSide) -> Beyond:
    """Return the limit that a field's value is, which no args say."""
    read = field.read(written)
    instead = f", and it would be {read.value}" if read and isinstance(read.value, str) else ""
    why = (field.cannot or "Megatron's args do not say it").removesuffix(".")
    means = f" ({reading.value})" if isinstance(reading.raw, str) else ""
    return Beyond(f"{_named(field, reading)}{means}: {why}{instead}", (field.name,))


def _named(field: ConfigField, reading: Stated) -> str:
    """Return the entry of config.json and its value; the field's name if no entry states it."""
    raw = reading.raw if reading.raw is not None else reading.value
    if isinstance(raw, (list, tuple)):
        return f"{reading.name or field.name} differs by layer"
    return f"{reading.name or field.name} is {config_value_text(raw)}"


def _value(side: ConfigSide, name: str) -> Any:
    field = _FIELDS[name]
    reading = field.read(side) if field.has_effect(side) else None
    return None if reading is None else reading.value


def _special(side: ConfigSide, args: Mapping[str, Any], version: Version) -> Iterator[Beyond]:
    for limit in (_scaling_limit, _rotated_limit, _weights_limit, _groups_limit):
        found: Beyond | None = guarded(limit, side, args, version)
        if found is not None:
            yield found


def _scaling_limit(side: ConfigSide, _args: Mapping[str, Any], version: Version) -> Beyond | None:
    kind = scaling_kind(side)
    if not is_rotary(side) or kind == "none":
        return None
    factor = _value(side, "RoPE scaling factor")
    by = "" if factor is None else f" with factor {show(factor)}"
    what = f"rope_type is {kind}{by}"
    if kind == "llama3":
        if is_llama31(side):
            return None
        fixed = {"factor": LLAMA3, **FIXED}
        own = {key: _value(side, _OF_FIXED[key]) for key in fixed}
        odd = [key for key in fixed if own[key] != fixed[key]]
        words, hard = (", ".join(f"{key} {show(d[key])}" for key in odd) for d in (own, fixed))
        does = f"it scales with {hard}, whatever the args say"
        return Beyond(f"rope_type is llama3 with {words}: {does}", _SCALING)
    if kind == "yarn":
        if is_latent(side) or version == "0.19":
            return None
        return Beyond(f"{what}: without latent attention it builds no YaRN from args", _SCALING)
    if kind == "linear":
        if version != "bridge":
            return None
        return Beyond(f"{what}: it hands no interpolation of positions on to the model", _SCALING)
    return Beyond(f"{what}: it has no such scaling, and would not scale positions", _SCALING)


_OF_FIXED = {
    "factor": "RoPE scaling factor",
    "low_freq_factor": "RoPE low frequency factor",
    "high_freq_factor": "RoPE high frequency factor",
    "original_max_position_embeddings": "RoPE original length",
}


def _rotated_limit(side: ConfigSide, _: Mapping[str, Any], version: Version) -> Beyond | None:
    """Return the limit of YaRN beside heads that are rotated in part.

    YarnRotaryEmbedding does not read rotary_percent. Releases before 0.19 build no YaRN from args.
    """
    name = "Rotated part of a head"
    part = _value(side, name)
    if part in (None, 1) or scaling_kind(side) != "yarn" or is_latent(side) or version != "0.19":
        return None
    does = "with YaRN it rotates whole heads, whatever rotary_percent says"
    return Beyond(f"partial_rotary_factor is {show(part)}: {does}", (name,))


def _weights_limit(side: ConfigSide, args: Mapping[str, Any], _: Version) -> Beyond | None:
    """Return the limit of routers that choose one expert and weight it by one."""
    name = "Router weights sum to one"
    if args.get("moe_router_topk") != 1 or not _value(side, name) or not args.get("num_experts"):
        return None
    chosen = "num_experts_per_tok is 1, and the weight of that expert is 1"
    if args.get("moe_router_score_function") == "sigmoid":
        return Beyond(f"{chosen}: it weights one expert by its score", (name,))
    does = "it takes one expert only with --moe-router-pre-softmax, which weights it by its score"
    return Beyond(f"{chosen}: {does}", (name,))


def _groups_limit(side: ConfigSide, args: Mapping[str, Any], _: Version) -> Beyond | None:
    """Return the limit of routers that rank groups of experts by another number of scores."""
    name = "Experts that rank a group"
    count, chosen = _value(side, name), args.get("moe_router_group_topk")
    if count is None or not chosen or args["moe_router_topk"] // chosen == count:
        return None
    ratio = args["moe_router_topk"] // chosen
    best = "its best score" if count == 1 else f"the sum of its {count} best scores"
    return Beyond(
        f"n_group is {args['moe_router_num_groups']}, and a group ranks by {best}: it ranks it by "
        f"{plural(ratio, 'score')} (moe_router_topk // moe_router_group_topk)",
        (name,),
    )


def _of_layers(args: Mapping[str, Any], version: Version) -> Iterator[Beyond]:
    """Yield what the layers of a spec cannot do, whatever the args say."""
    local = args.get("transformer_impl") == "local"
    if version == "0.19" and args.get("use_legacy_models"):
        yield Beyond("use_legacy_models is True: it has no legacy model; choose the names mcore")
        return
    if args.get("use_legacy_models"):
        yield from _of_legacy(args)
    if version == "0.14" and args.get("num_experts"):
        if args.get("add_bias_linear"):
            yield Beyond("experts have biases: it builds none with them")
        if args.get("is_hybrid_model"):
            yield Beyond("there are experts beside Mamba layers: it builds no such hybrid")
    if local and _one_more(args) and args.get("normalization") == "RMSNorm":
        yield Beyond(
            "norms scale by one more than their weight (apply_layernorm_1p): its local layers "
            f"refuse that beside RMSNorm; {_BY_CHOICE}"
        )
    if local and args.get("multi_latent_attention"):
        yield Beyond(f"attention is latent: its local layers cannot be built so; {_BY_CHOICE}")
    if local and (args.get("is_hybrid_model") or args.get("experimental_attention_variant")):
        kind = "Mamba" if args.get("is_hybrid_model") else "gated DeltaNet"
        yield Beyond(f"there are {kind} layers: its local layers know none; {_BY_CHOICE}")


def _of_legacy(args: Mapping[str, Any]) -> Iterator[Beyond]:
    """Yield what Megatron-LM's legacy model does not do (megatron/legacy/model).

    Its RotaryEmbedding is given no base and no scaling but interpolation, its attention no window.
    """
    choice = "choose the names mcore"
    if args.get("position_embedding_type") == "rope":
        base = args.get("rotary_base")
        if base not in (None, 10000):
            yield Beyond(f"rotary_base is {show(base)}: its legacy model takes 10000; {choice}")
        if args.get("use_rope_scaling"):
            yield Beyond(f"RoPE is scaled: its legacy model does not scale it; {choice}", _SCALING)
    if args.get("window_size") is not None:
        yield Beyond(
            f"there is a sliding window: its legacy model has none; {choice}", ("Sliding window",)
        )


def needs_engine(side: ConfigSide) -> bool:
    """Return whether a model's norms are computed by Transformer Engine's layers alone.

    They scale by one more than their weight: Megatron's local RMSNorm refuses that, its local
    LayerNorm needs Apex for it (megatron/core/transformer/torch_norm.py).
    """
    return _value(side, "Zero-centred norms") is True


def _of_bridge(args: Mapping[str, Any]) -> Iterator[Beyond]:
    """Yield what Megatron-Bridge does not read of args (its mlm_compat/arguments.py)."""
    if args.get("ckpt_format") == "torch":
        yield Beyond("ckpt_format is torch: it reads torch_dist alone")
    if args.get("is_hybrid_model"):
        yield Beyond("there are Mamba layers: it builds none from Megatron-LM's args")
    if args.get("quick_geglu"):
        yield Beyond(
            "quick_geglu is True: it does not read that, and applies GELU", ("Activation",)
        )


def layer_notes(args: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the layers that names were chosen for need, or keep Megatron from."""
    if args.get("sequence_parallel") and not can_split_sequence(args):
        yield (
            "Megatron trains experts beside tensor parallelism only with sequence parallelism, "
            f"which its local layers refuse beside RMSNorm; {_BY_CHOICE}"
        )
    local = args.get("transformer_impl") == "local"
    if local and _one_more(args) and args.get("normalization") != "RMSNorm":
        yield (
            "norms scale by one more than their weight: Megatron's local layers need Apex for "
            f"that; {_BY_CHOICE} to do without"
        )


def class_notes(side: ConfigSide, args: Mapping[str, Any]) -> Iterator[str]:
    """Yield what one program fixes in a class, and the other takes from its config or leaves open.

    It shows in the last digits of logits. Source: modeling_deepseek_v2.py (and those of v3 and
    glm4_moe_lite) and modeling_nemotron_h.py of transformers 5.
    """
    epsilon = args.get("norm_epsilon")
    if is_latent(side) and epsilon != _LATENT_EPSILON:
        yield (
            f"transformers gives the norms of latent attention an epsilon of {_LATENT_EPSILON:g}, "
            f"Megatron that of all norms, {epsilon:g}"
        )
    shortest = side.get("time_step_min") or 1e-3
    if side.family == "nemotron_h":
        yield f"transformers lets no Mamba layer take a step below {shortest:g}, Megatron does"
        if epsilon != _MAMBA_EPSILON:
            yield (
                f"Megatron gives the norms inside Mamba layers an epsilon of {_MAMBA_EPSILON:g}, "
                f"transformers that of all norms, {epsilon:g}"
            )


def _one_more(args: Mapping[str, Any]) -> bool:
    names = ("apply_layernorm_1p", "layernorm_zero_centered_gamma")
    return any(args.get(name) for name in names)
