"""Layers other than full attention: windowed, gated DeltaNet, Mamba, and learned sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    MEGATRON,
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    by_family,
    default,
    first,
    from_tensors,
    number,
    only,
    sets,
    sets_nothing,
    show,
    stated,
    switch,
)
from ckptdiff.config.fields.positions import (
    NO_ROPE_STEPS,
    QWEN,
    WINDOW,
    WINDOW_STEPS,
    qwen_windows,
)
from ckptdiff.config.fields.shape import HYBRID_PATTERNS, SHAPES, expert_count, layer_count
from ckptdiff.config.fixes import FlagFix
from ckptdiff.config.keys_read import reads

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Settings

DELTA = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_moe"})
NEMOTRON_H = frozenset({"nemotron_h"})
# Letters of Megatron's hybrid pattern (megatron.core.ssm.mamba_hybrid_layer_allocation).
LETTERS = {
    **dict.fromkeys(("mamba", "linear_attention"), "M"),
    **dict.fromkeys(("attention", "full_attention"), "*"),
    "mlp": "-",
    "moe": "E",
}
KINDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
VARIANT = "experimental_attention_variant"


def is_windowed(side: ConfigSide) -> bool:
    found = WINDOW.read(side)
    return found is not None and found.value is not None


def _windows_hf(side: ConfigSide) -> Stated | None:
    """Read 1 for each layer with a window, and 0 for each without."""
    count = layer_count(side)
    if count is None:
        return None
    kinds = side.get("layer_types")
    if isinstance(kinds, list):
        pattern = [int(kind == "sliding_attention") for kind in kinds]
        return Stated(pattern, "layer_types", pattern)
    if (found := qwen_windows(side)) is not None:
        return found
    if side.family in NO_ROPE_STEPS:  # a window where nothing is rotated
        pattern = (_listed_no_rope(side) or (None, [0] * count))[1]
        return Stated(pattern, None, pattern, f"every {side.family} model")
    step = side.get("sliding_window_pattern") or WINDOW_STEPS.get(side.family or "")
    pattern = [int(step is None or bool((i + 1) % step)) for i in range(count)]
    return Stated(pattern, None, pattern, f"every {side.family} model")


def _windows_megatron(side: ConfigSide) -> Stated | None:
    count, step = layer_count(side), side.get("window_attn_skip_freq")
    if count is None:
        return None
    if isinstance(step, list):
        return Stated([int(bool(one)) for one in step], "window_attn_skip_freq", step)
    pattern = [int(not step or bool((i + 1) % step)) for i in range(count)]
    return Stated(pattern, "window_attn_skip_freq" if step else None, step or pattern)


def _windows_args(pattern: Any, _: ConfigSide) -> Settings:
    return {"window_attn_skip_freq": None if all(pattern) else pattern}


def _windows_entries(pattern: Any, side: ConfigSide) -> Settings | None:
    kinds = ["sliding_attention" if one else "full_attention" for one in pattern]
    if side.family == "qwen3_moe":
        return {} if all(pattern) else None
    if side.family in QWEN:
        start = pattern.index(1) if 1 in pattern else len(pattern)
        return {"max_window_layers": start, "layer_types": kinds}
    return {"layer_types": kinds} if side.family in {*WINDOW_STEPS, *NO_ROPE_STEPS} else {}


def _listed_no_rope(side: ConfigSide) -> tuple[str, list[int]] | None:
    """Return 1 for each layer that is not rotated, and the key that says it; None if none does."""
    listed, count = side.get("no_rope_layers"), layer_count(side)
    every = side.get("no_rope_layer_interval") or NO_ROPE_STEPS.get(side.family or "")
    if count is None or not reads(side.get("model_type"), "no_rope_layers"):
        return None
    if isinstance(listed, list) and listed:
        return "no_rope_layers", [int(not one) for one in listed[:count]]
    if every:
        return "no_rope_layer_interval", [int((n + 1) % every == 0) for n in range(count)]
    return None


def _no_rope_hf(side: ConfigSide) -> Stated | None:
    """Read 1 for each layer whose queries and keys are not rotated; None if all are.

    In EXAONE 4 those are the layers without a window, if any window is set; SmolLM3 lists them, and
    so may classes for which there are no rules.
    """
    if (found := _listed_no_rope(side)) is not None:
        key, pattern = found
        said = key if side.has(key) else None
        raw = side.get(key) if said else pattern
        return Stated(pattern if any(pattern) else None, said, raw, None if said else TRANSFORMERS)
    if side.family != "exaone4" or side.get("sliding_window") is None:
        name = "sliding_window" if side.family == "exaone4" and side.has("sliding_window") else None
        return Stated(None, name, None, None if name else f"every {side.family} model")
    windows = _windows_hf(side)
    if windows is None:
        return None
    pattern = [1 - one for one in windows.value]
    return Stated(pattern if any(pattern) else None, windows.name or "sliding_window", pattern)


def _no_rope_megatron(side: ConfigSide) -> Stated | None:
    freq, count = side.get("no_rope_freq"), layer_count(side)
    if isinstance(freq, list):
        pattern = [int(bool(one)) for one in freq]
        return Stated(pattern if any(pattern) else None, "no_rope_freq", freq)
    if not freq or count is None:
        said = side.has("no_rope_freq")
        return Stated(None, "no_rope_freq" if said else None, freq, None if said else MEGATRON)
    return Stated([int((i + 1) % freq == 0) for i in range(count)], "no_rope_freq", freq)


def _no_rope_entries(pattern: Any, side: ConfigSide) -> Settings | None:
    count = layer_count(side)
    if side.family in NO_ROPE_STEPS:
        return {"no_rope_layers": [1 - one for one in pattern or [0] * (count or 0)]}
    if side.family != "exaone4":
        return {} if pattern is None else None
    if pattern is None:
        kinds = ["full_attention"] * (count or 0)
        return None if is_windowed(side) else {"sliding_window": None, "layer_types": kinds}
    kinds = ["full_attention" if one else "sliding_attention" for one in pattern]
    if is_windowed(side):
        return {"layer_types": kinds}
    # A window that no sequence outgrows.
    return {"sliding_window": side.get("max_position_embeddings"), "layer_types": kinds}


def is_delta_net(side: ConfigSide) -> bool:
    """Return whether the model has gated DeltaNet layers."""
    if side.kind == "megatron" and side.has(VARIANT):
        return bool(side.get(VARIANT) == "gated_delta_net")
    return side.family in DELTA


def _delta_megatron(side: ConfigSide) -> Stated | None:
    if side.has(VARIANT):
        value = side.get(VARIANT) == "gated_delta_net"
        return Stated(value, VARIANT, side.get(VARIANT))
    return first(
        from_tensors(("linear_attn.A_log",), "DeltaNet layer"),
        default(lambda _: None, False, MEGATRON),
    )(side)


def _delta_layers_hf(side: ConfigSide) -> Stated | None:
    """Read 1 for each DeltaNet layer, and 0 for each attention layer."""
    kinds, count = side.get("layer_types"), layer_count(side)
    if isinstance(kinds, list):
        pattern = [int(kind == "linear_attention") for kind in kinds]
        return Stated(pattern, "layer_types", pattern)
    step = side.get("full_attention_interval")
    if count is None:
        return None
    pattern = [int(bool((i + 1) % (step or 4))) for i in range(count)]
    return Stated(pattern, "full_attention_interval" if step else None, step or pattern)


def _delta_layers_megatron(side: ConfigSide) -> Stated | None:
    freq, count = side.get("linear_attention_freq"), layer_count(side)
    if isinstance(freq, list):
        return Stated([int(bool(one)) for one in freq], "linear_attention_freq", freq)
    if freq is None or count is None:
        return None
    pattern = [int(bool((i + 1) % freq)) for i in range(count)]
    return Stated(pattern, "linear_attention_freq", freq)


def _delta_layers_entries(pattern: Any, _: ConfigSide) -> Settings:
    kinds = ["linear_attention" if one else "full_attention" for one in pattern]
    return {"layer_types": kinds}


def is_mamba(side: ConfigSide) -> bool:
    """Return whether the model is a hybrid of Mamba and attention layers (Nemotron-H)."""
    return side.family in NEMOTRON_H or bool(side.get("is_hybrid_model"))


def _letters_hf(side: ConfigSide) -> Stated | None:
    kinds = side.get("layers_block_type")
    if isinstance(kinds, list):
        return Stated("".join(LETTERS[kind] for kind in kinds), "layers_block_type", len(kinds))
    return stated("hybrid_override_pattern")(side)


def _letters_entries(letters: Any, _: ConfigSide) -> Settings:
    return {"layers_block_type": [KINDS[letter] for letter in letters]}


def _size(name: str, hf: str, megatron: str, which: frozenset[str]) -> ConfigField:
    applies = is_delta_net if which is DELTA else is_mamba
    return ConfigField(
        name,
        number(hf),
        number(megatron),
        SHAPES,
        sets(megatron),
        only(which, hf),
        applies=applies,
        moves=moves.MIXERS,
    )


HYBRID: tuple[ConfigField, ...] = (
    ConfigField(
        "Windowed layers",
        _windows_hf,
        _windows_megatron,
        "A layer sees the whole sequence on one side and a window of it on the other.",
        _windows_args,
        _windows_entries,
        applies=is_windowed,
        moves=moves.ATTEND | moves.ROTATED,
    ),
    ConfigField(
        "Layers without RoPE",
        _no_rope_hf,
        _no_rope_megatron,
        "A layer rotates queries and keys on one side only.",
        sets("no_rope_freq"),
        _no_rope_entries,
        off=None,
        fix=lambda value, _: None if value is None else FlagFix((("--no-rope-freq", show(value)),)),
        moves=moves.ROTATED,
    ),
    ConfigField(
        "Attention sinks",
        by_family({"gpt_oss": True}, False),
        first(
            stated("softmax_type", by=lambda kind: kind == "learnable"),
            from_tensors(("self_attn.sinks",), "sink"),
            default(lambda _: None, False, MEGATRON),
        ),
        "Attention has sinks on one side only: there it may attend to no token.",
        lambda on, _: {"softmax_type": "learnable"} if on else {},
        sets_nothing,
        off=False,
        fix=lambda on, _: (
            FlagFix((("--softmax-type", "learnable"),))
            if on
            else FlagFix(left_out=("--softmax-type",))
        ),
        moves=moves.ATTEND,
    ),
    ConfigField(
        "Gated DeltaNet",
        by_family(dict.fromkeys(DELTA, True), False),
        _delta_megatron,
        SHAPES,
        sets(VARIANT, lambda on: "gated_delta_net" if on else None),
        sets_nothing,
        off=False,
        moves=moves.MIXERS,
    ),
    ConfigField(
        "DeltaNet layers",
        _delta_layers_hf,
        _delta_layers_megatron,
        "A layer is a DeltaNet on one side and attention on the other.",
        sets("linear_attention_freq"),
        _delta_layers_entries,
        applies=is_delta_net,
        moves=moves.MIXERS,
    ),
    ConfigField(
        "Gate of attention",
        by_family(dict.fromkeys(DELTA, True), False),
        switch("attention_output_gate"),
        "The attention output is gated on one side only.",
        sets("attention_output_gate"),
        sets_nothing,
        applies=is_delta_net,
        moves=moves.PROJECTED | moves.GATED | moves.ATTENTION_OUT,
    ),
    *(
        _size(words, name, name, DELTA)
        for words, name in (
            ("DeltaNet key heads", "linear_num_key_heads"),
            ("DeltaNet value heads", "linear_num_value_heads"),
            ("DeltaNet key dimension", "linear_key_head_dim"),
            ("DeltaNet value dimension", "linear_value_head_dim"),
            ("DeltaNet convolution", "linear_conv_kernel_dim"),
        )
    ),
    ConfigField(
        "Kinds of layers",
        _letters_hf,
        # "|" ends a pipeline stage, and behind "/" are the layers of each prediction.
        stated(*HYBRID_PATTERNS, by=lambda letters: letters.partition("/")[0].replace("|", "")),
        "A layer is of another kind on the other side.",
        lambda letters, _: {"is_hybrid_model": True, "hybrid_override_pattern": letters},
        _letters_entries,
        applies=is_mamba,
        moves=moves.ALL,
    ),
    _size("Mamba heads", "mamba_num_heads", "mamba_num_heads", NEMOTRON_H),
    _size("Mamba head dimension", "mamba_head_dim", "mamba_head_dim", NEMOTRON_H),
    _size("Mamba groups", "n_groups", "mamba_num_groups", NEMOTRON_H),
    _size("Mamba state size", "ssm_state_size", "mamba_state_dim", NEMOTRON_H),
    ConfigField(
        "Latent size of experts",
        number("moe_latent_size"),
        number("moe_latent_size"),
        SHAPES,
        sets("moe_latent_size"),
        only(NEMOTRON_H, "moe_latent_size"),
        applies=lambda side: (
            is_mamba(side) and expert_count(side) > 0 and side.get("moe_latent_size") is not None
        ),
        moves=moves.MLP,
    ),
)
