"""Sentences on sizes that do not fit: of a side's tensors and its config, and of the two sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ckptdiff.forward.model import Model
    from ckptdiff.forward.steps import Step


def against_config(step: Step, given: Sequence[Tensor], model: Model) -> str:
    """Return what a step gives in another size than the config says, in words, or nothing.

    A program would not load such tensors.
    """
    if step.method == "embed" and given[0].shape[-1] != model.hidden_size:
        return (
            f"its embedding has {given[0].shape[-1]} columns, and its config a hidden size of "
            f"{model.hidden_size}: the config is of another model"
        )
    if step.method != "project":
        return ""
    for words, value, heads in (
        ("query", given[0], model.num_attention_heads),
        ("key", given[1], model.num_query_groups),
    ):
        if value.shape[1] != heads:
            return (
                f"its tensors make {value.shape[1]} {words} heads of {value.shape[2]} channels, "
                f"and its config says {heads}: the config is of another model"
            )
    return ""


def of_models(a: Model, b: Model) -> str:
    """Return in which size the two sides' configs differ, in words, or nothing."""
    sizes: tuple[tuple[str, int, int], ...] = (
        ("{} layers", len(a.layers), len(b.layers)),
        ("a hidden size of {}", a.hidden_size, b.hidden_size),
        ("{} experts", _experts(a), _experts(b)),
    )
    for words, one, other in sizes:
        if one != other and one and other:
            return f"A has {words.format(one)} and B {words.format(other)}"
    return ""


def _experts(model: Model) -> int:
    return next((layer.routing.experts for layer in model.layers if layer.routing), 0)


def of_values(name: str, a: Tensor, b: Tensor) -> str:
    """Return that two values of one step have other shapes, in words, or nothing."""
    if a.shape == b.shape:
        return ""
    one, other = (" x ".join(map(str, value.shape[1:])) for value in (a, b))
    return f"{name} has {one} values a position in A and {other} in B"
