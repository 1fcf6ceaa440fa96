"""Take from the other side's config.json what no arg of Megatron states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args
    from ckptdiff.forward.model import Model

# Families that args do not describe completely, and the fields of Model that are then taken from
# the other side's config.json.
_NORMS = ("norms_in_front", "norms_behind")
_GEMMA = ("embedding_scale", "activation", "gated")
_GEMMA2 = (*_GEMMA, *_NORMS, "attention_cap", "logit_cap")
NOT_IN_ARGS: dict[str, tuple[str, ...]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA2,
    "olmo2": (*_NORMS, "norms_all_heads"),
}
_WORDS = {
    "embedding_scale": "scale of embeddings",
    "activation": "activation",
    "gated": "activation",
    "norms_behind": "norms behind attention and MLP",
    "norms_all_heads": "norms over all heads at once",
    "attention_cap": "cap of attention scores",
    "logit_cap": "cap of logits",
}


def completed(model: Model, args: Args, other: Model | None) -> Model:
    """Return the model with what no arg states from the other side. Raises UnsupportedLayout."""
    if other is None:
        raise UnsupportedLayout(
            f"Megatron's args cannot tell all of a {model.family} model; compare it with a Hugging "
            "Face folder, whose config.json does"
        )
    names = list(NOT_IN_ARGS[model.family])
    if args.get("swiglu") or args.get("squared_relu"):
        names = [name for name in names if name not in ("activation", "gated")]
    changes = {name: getattr(other, name) for name in names}
    # What Megatron computes anyway is no condition.
    differing = [name for name, value in changes.items() if value != getattr(model, name)]
    taken = list(dict.fromkeys(_WORDS[name] for name in differing if name in _WORDS))
    if model.family == "olmo2":
        changes["wide_norm"] = False
    layers = model.layers
    if model.family == "gemma3" and len(layers) == len(other.layers):
        layers = tuple(
            own if others.window is None else replace(own, rope=others.rope)
            for own, others in zip(layers, other.layers, strict=True)
        )
        if layers != model.layers:
            taken.append("rotary base of layers with a window")
    if not taken:
        return replace(model, **changes, layers=layers)
    listed = ", ".join(taken)
    note = f"Megatron's args cannot tell {listed}: taken from the other side's config.json"
    notes = (*model.notes, note)
    return replace(model, **changes, layers=layers, notes=notes, taken=tuple(taken))
