"""Position embedding, maximum length, and the sliding window."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    TRANSFORMERS,
    ConfigField,
    ConfigSide,
    Stated,
    by_family,
    default,
    is_number,
    null_means,
    number,
    sets,
    sets_in,
    sets_nothing,
    stated,
)
from ckptdiff.config.fields.shape import layer_count

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import Settings

QWEN = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"})
NO_ROPE_STEPS = {"smollm3": 4}  # every n-th layer is not rotated, if no list says it
_SWITCHED = QWEN | NO_ROPE_STEPS.keys()  # whose window is off unless a switch is on
# Every n-th layer has no window, if config.json does not list the layers. By family: n.
WINDOW_STEPS = {"gemma2": 2, "gemma3": 6, "gpt_oss": 2, "olmo2": 4, "exaone4": 4}
WINDOWED = frozenset({"mistral", "mixtral", "phi3", *WINDOW_STEPS})


def positions(side: ConfigSide) -> str | None:
    """Return `rope`, `learned_absolute`, …; None if a side does not state it."""
    found = POSITION_KIND.read(side)
    return None if found is None else found.value


def is_rotary(side: ConfigSide) -> bool:
    return positions(side) in ("rope", "yarn")


def is_learned(side: ConfigSide) -> bool:
    return positions(side) == "learned_absolute"


def qwen_windows(side: ConfigSide) -> Stated | None:
    """Read 1 for each layer of a Qwen with a window, and 0 for each without, if no list says it.

    Source: configuration_qwen2.py (as of Qwen 3), configuration_qwen2_moe.py and
    modeling_qwen3_moe.py of transformers 5.
    """
    count = layer_count(side)
    if side.family not in QWEN or count is None:
        return None
    if side.family == "qwen3_moe":  # which does not read max_window_layers
        return Stated([1] * count, None, None, "every qwen3_moe model")
    found = number("max_window_layers")(side) or Stated(28, None, 28, TRANSFORMERS)
    border = found.value
    if side.family == "qwen2_moe":
        return replace(found, value=[int(i % 2 == 0 and i < border) for i in range(count)])
    return replace(found, value=[int(i >= border) for i in range(count)])


def _window_hf(side: ConfigSide) -> Stated | None:
    off = Stated(None, None, None, TRANSFORMERS)
    window, name = side.get("sliding_window"), "sliding_window"
    if window is None:
        return off
    kinds = side.get("layer_types")
    if not (side.family in NO_ROPE_STEPS and kinds):  # whose mask goes by the list alone
        if side.get("use_sliding_window") is False:
            return Stated(None, "use_sliding_window", False)
        if side.family in _SWITCHED and not side.get("use_sliding_window"):
            return off
    if isinstance(kinds, list) and kinds:
        if all(kind == "full_attention" for kind in kinds):
            return Stated(None, "layer_types", "full_attention")
    elif (found := qwen_windows(side)) is not None and not any(found.value):
        return replace(found, value=None, name=found.name or name)
    max_positions = side.get("max_position_embeddings")
    if is_number(window) and is_number(max_positions) and window >= max_positions:
        return Stated(None, name, window, "no longer sequence exists")
    return Stated(window, name, window)


def _window_entries(window: Any, side: ConfigSide) -> Settings | None:
    if side.family in _SWITCHED:
        if window is None:
            return {"use_sliding_window": False}
        return {"use_sliding_window": True, "sliding_window": window}
    if side.family in WINDOW_STEPS and window is None:
        return {}  # their classes require a number
    if side.family in WINDOWED:
        return {"sliding_window": window}
    return {} if window is None else None


def _window_megatron(side: ConfigSide) -> Stated | None:
    def by(raw: Any) -> Any:
        # The token itself counts in transformers; Megatron counts only the tokens before it.
        before = raw[0] if isinstance(raw, (list, tuple)) else raw
        return before + 1 if before >= 0 else None

    return default(
        null_means(("window_size",), stated("window_size", by=by), None),
        None,
        "these args have no field for it",
        weak=True,
    )(side)


def _position_megatron(side: ConfigSide) -> Stated | None:
    if side.get("use_rotary_position_embeddings"):
        return Stated("rope", "use_rotary_position_embeddings", True)
    found: Stated | None = stated("position_embedding_type")(side)
    if found is not None or not side.tensors:
        return found
    table = any(name.endswith("wpe.weight") for name in side.tensors)
    value = "learned_absolute" if table else "rope"
    return Stated(value, None, value, f"{'a' if table else 'no'} table of positions")


def _same_position(a: Any, b: Any) -> bool:
    return bool(a == b) or {a, b} == {"rope", "yarn"}  # the scaling has a line of its own


POSITION_KIND = ConfigField(
    "Position embedding",
    by_family({"gpt2": "learned_absolute", "nemotron_h": "none"}, "rope"),
    _position_megatron,
    "Positions are encoded in another way, so logits agree for no sequence.",
    sets("position_embedding_type"),
    sets_nothing,
    equal=_same_position,
    moves=moves.TABLE | moves.ROTATED,
)

WINDOW = ConfigField(
    "Sliding window",
    _window_hf,
    _window_megatron,
    "Past the window, tokens attend to what they cannot see on the other side.",
    sets("window_size", lambda window: None if window is None else (window - 1, 0)),
    _window_entries,
    moves=moves.ATTEND,
)

POSITIONS: tuple[ConfigField, ...] = (
    POSITION_KIND,
    ConfigField(
        "Max positions",
        number("max_position_embeddings", "n_positions"),
        number("max_position_embeddings"),
        "The table of positions has another length.",
        sets("max_position_embeddings"),
        sets_in("max_position_embeddings", {"gpt2": "n_positions"}),
        harmless=lambda a, b: (
            None
            if is_learned(a) and is_learned(b)
            else "with rotary embeddings it bounds the length and changes no value"
        ),
        moves=moves.NOTHING,
    ),
    WINDOW,
)
