"""Take from the other side's config.json what no arg of Megatron states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Container

    from ckptdiff.forward.megatron_args.base import Args
    from ckptdiff.forward.model import Model, Rope

# Families that args do not describe completely, and the fields of Model that are then taken from
# the other side's config.json.
_NORMS = ("norms_in_front", "norms_behind")
_STATED_BY = {
    "gate_limit": "activation_func_clamp_value",
    "up_offset": "glu_linear_offset",
}
# Fields of Megatron-Bridge's classes, which are in no args of Megatron-LM: there, None is no cap.
_CAPS = {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"}
_OF_FUNCTION = ("activation", "gated", "gate_limit", "up_offset")
_FUNCTIONS = ("swiglu", "squared_relu", "quick_geglu")  # args that state it
_GEMMA = ("embedding_scale", "activation", "gated")
_GEMMA2 = (*_GEMMA, *_NORMS, "attention_cap", "logit_cap")
NOT_IN_ARGS: dict[str, tuple[str, ...]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA2,
    "olmo2": (*_NORMS, "norms_all_heads"),
    "olmoe": ("norms_all_heads",),
    "exaone4": _NORMS,
    "gpt_oss": _OF_FUNCTION,
}
_ROPE_BY_WINDOW = ("gemma3", "olmo2")  # layers with a window have rotary positions of their own
_WORDS = {
    "embedding_scale": "scale of embeddings",
    "activation": "activation",
    "gated": "activation",
    "gate_limit": "clamp of the gate",
    "up_offset": "offset of what the gate multiplies",
    "norms_behind": "norms behind attention and MLP",
    "norms_all_heads": "norms over all heads at once",
    "attention_cap": "cap of attention scores",
    "logit_cap": "cap of logits",
}


def _like(own: Rope | None, other: Rope | None) -> Rope | None:
    if own is None or other is None:
        return other
    return replace(own, base=other.base, scaling=other.scaling)


def completed(model: Model, args: Args, named: Container[str], other: Model | None) -> Model:
    """Return the model with what no arg states from the other side.

    `named` are all args, those that are None among them. Raises UnsupportedLayout.
    """
    names = list(NOT_IN_ARGS[model.family])
    is_stated = any(args.get(name) for name in _FUNCTIONS)
    names = [
        name
        for name in names
        if not args.get(_STATED_BY.get(name, ""))
        and _CAPS.get(name) not in named
        and not (is_stated and name in _OF_FUNCTION)
    ]
    if not names:
        return model
    if other is None:
        raise UnsupportedLayout(
            f"Megatron's args cannot tell all of a {model.family} model; compare it with a Hugging "
            "Face folder, whose config.json does"
        )
    changes = {name: getattr(other, name) for name in names}
    # What Megatron computes anyway is no condition.
    differing = [name for name, value in changes.items() if value != getattr(model, name)]
    taken = list(dict.fromkeys(_WORDS[name] for name in differing if name in _WORDS))
    if model.family == "olmo2":
        changes["wide_norm"] = False
    layers = model.layers
    if model.family in _ROPE_BY_WINDOW and len(layers) == len(other.layers):
        layers = tuple(
            own if others.window is None else replace(own, rope=_like(own.rope, others.rope))
            for own, others in zip(layers, other.layers, strict=True)
        )
        if layers != model.layers:
            taken.append("rotary positions of layers with a window")
    if not taken:
        return replace(model, **changes, layers=layers)
    note = (
        f"Megatron's args do not state all of a {model.family} model: what they lack is taken from "
        "the other side's config.json"
    )
    notes = (*model.notes, note)
    return replace(model, **changes, layers=layers, notes=notes, taken=tuple(taken))
