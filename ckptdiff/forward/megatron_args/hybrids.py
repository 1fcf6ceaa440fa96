"""Read gated DeltaNet and Mamba layers from Megatron's args."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.megatron_args.base import size
from ckptdiff.forward.model import DeltaNet, Fixed, Mamba, hybrid_layer

if TYPE_CHECKING:
    from ckptdiff.forward.megatron_args.base import Args
    from ckptdiff.forward.model import Model, Routing

_EPSILON = 1e-5  # of a mixer's norm, hard-coded in megatron.core.ssm.mamba_mixer


def with_delta_net(model: Model, args: Args) -> Model:
    """Return the model with the gated DeltaNet layers that the args say, if any.

    Raises UnsupportedLayout for another kind of attention, or one that Megatron does not build.
    """
    variant = args.get("experimental_attention_variant")
    if variant is None:
        return model
    if variant != "gated_delta_net" or model.activation != "silu" or model.latent is not None:
        raise UnsupportedLayout(f"args: experimental_attention_variant {variant!r} with "
                                f"{model.activation} is not yet computed")  # fmt: skip
    freq = args.get("linear_attention_freq")
    if freq is None:
        raise UnsupportedLayout(
            "args: experimental_attention_variant is gated_delta_net without linear_attention_freq,"
            " which says the layers of it: Megatron builds no such model"
        )
    layers = (
        replace(layer, mixer="delta_net", rope=None) if _is_linear(freq, number) else layer
        for number, layer in enumerate(model.layers)
    )
    return replace(
        model,
        layers=tuple(layers),
        delta_net=DeltaNet(
            key_heads=size(args, "linear_num_key_heads", 16),
            value_heads=size(args, "linear_num_value_heads", 32),
            key_channels=size(args, "linear_key_head_dim", 128),
            value_channels=size(args, "linear_value_head_dim", 128),
        ),
    )


def _is_linear(freq: int | list[int], number: int) -> bool:
    """Return whether a layer, from 0, is a DeltaNet: all but each `freq`-th, or as is listed."""
    if isinstance(freq, list):
        return bool(freq[number])
    return (number + 1) % freq != 0


def with_mamba(model: Model, args: Args, routing: Routing | None) -> Model:
    """Return the model with MambaModel's layers, if the args say that it is a hybrid.

    Raises UnsupportedLayout if no pattern says which layer is of which kind.
    """
    pattern = args.get("hybrid_override_pattern") or args.get("hybrid_layer_pattern")
    if not (args.get("is_hybrid_model") or pattern):
        return model
    letters = str(pattern or "").partition("/")[0].replace("|", "")  # "|" ends a pipeline stage
    if len(letters) != len(model.layers):
        raise UnsupportedLayout(
            f"args: hybrid_override_pattern {pattern!r} does not say the kinds of "
            f"{len(model.layers)} layers, which logits need"
        )
    channels = size(args, "mamba_head_dim", 64)
    fixed = model.fixed
    if model.layernorm_epsilon != _EPSILON:
        note = f"Megatron's Mamba layers have a norm with {_EPSILON:g}, whatever norm_epsilon says"
        fixed = (*fixed, Fixed(note, frozenset({"ctx_norm"})))
    return replace(
        model,
        fixed=fixed,
        layers=tuple(
            hybrid_layer(letter, layer, routing)
            for letter, layer in zip(letters, model.layers, strict=True)
        ),
        mamba=Mamba(
            heads=size(args, "mamba_num_heads", 2 * model.hidden_size // channels),
            channels=channels,
            groups=size(args, "mamba_num_groups", 8),
            states=size(args, "mamba_state_dim", 128),
            epsilon=_EPSILON,
        ),
    )
