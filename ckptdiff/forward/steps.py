"""The steps of a model, in order: what each takes, and what it gives to the next.

Both sides take the same steps. In lockstep each one starts from the reference's values, so that a
fault shows in the step that it is in and in no other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from ckptdiff.forward.reading import Reader

    Values = dict[str, Tensor]

Part = Literal["first", "layer", "last"]


@dataclass(frozen=True, slots=True)
class Step:
    """A method of a layer's. What it gives is compared, but for sums of what was."""

    method: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    is_tap: bool = True
    replays: tuple[str, ...] = ()  # of the reference's values, those that the other side follows


class LayerParts(Protocol):
    """A layer of one side: a method a step."""

    reader: Reader

    @property
    def features(self) -> frozenset[str]:
        """Return the optional steps that it takes, and the structures that it is made of."""
        ...


_POSITIONS = (
    Step("embed", ("ids",), ("embed",)),
    Step("positions", ("ids",), ("positions",)),
    Step("add", ("embed", "positions"), ("x",), is_tap=False),
)
_NO_POSITIONS = (
    Step("embed", ("ids",), ("embed",)),
    Step("start", ("embed",), ("x",), is_tap=False),
)
_LAST = (Step("final_norm", ("x",), ("final_norm",)), Step("logits", ("final_norm",), ("logits",)))

# `x` is the residual stream. A step in _OPTIONAL is left out unless a side takes it.
_HEADS = (
    Step("norm1", ("x",), ("norm1",)),
    Step("project", ("norm1",), ("q", "k", "v")),
    Step("norm_heads", ("q", "k"), ("q_norm", "k_norm")),
    Step("rotate", ("q_norm", "k_norm"), ("q_rope", "k_rope")),
)
_LATENT_HEADS = (
    Step("norm1", ("x",), ("norm1",)),
    Step("compress_queries", ("norm1",), ("q_latent",)),
    Step("norm_queries", ("q_latent",), ("q_latent_norm",)),
    Step("compress_keys", ("norm1",), ("kv_latent", "k_shared")),
    Step("norm_keys", ("kv_latent",), ("kv_latent_norm",)),
    Step("expand", ("q_latent_norm", "kv_latent_norm"), ("q", "k", "v")),
    Step("rotate_latent", ("q", "k", "k_shared"), ("q_rope", "k_rope")),
)
_ATTENTION = (
    Step("attend", ("q_rope", "k_rope", "v"), ("ctx",)),
    Step("attention_out", ("ctx",), ("attn_out",)),
    Step("norm_attention", ("attn_out",), ("attn_norm",)),
    Step("add", ("x", "attn_norm"), ("x1",), is_tap=False),
    Step("norm2", ("x1",), ("norm2",)),
)
_DENSE = (
    Step("activate", ("norm2",), ("act",)),
    Step("mlp_out", ("act",), ("mlp_out",)),
)
_EXPERTS = (
    Step("router", ("norm2",), ("router",)),
    Step("route", ("router",), ("routing",), replays=("router", "routing")),
    Step("activate_experts", ("norm2", "routing"), ("experts_act",)),
    Step("experts_out", ("experts_act", "routing"), ("mlp_out",)),
)
_SHARED = (
    *_EXPERTS[:-1],
    Step("experts_out", ("experts_act", "routing"), ("experts_out",)),
    Step("activate_shared", ("norm2",), ("shared_act",)),
    Step("shared_out", ("shared_act", "norm2"), ("shared_out",)),
    Step("add", ("experts_out", "shared_out"), ("mlp_out",)),
)
_END = (
    Step("norm_mlp", ("mlp_out",), ("mlp_norm",)),
    Step("add", ("x1", "mlp_norm"), ("x",), is_tap=False),
)
_OPTIONAL = frozenset(
    {
        *("norm1", "norm2", "norm_attention", "norm_mlp"),
        *("norm_heads", "compress_queries", "norm_queries"),
    }
)
_WORDS = {
    "positions": "learned positions",
    "compress_queries": "compressed queries in this layer",
}


def steps(part: Part, *sides: LayerParts) -> tuple[Step, ...]:
    """Return the steps that any of the sides takes.

    Raises UnsupportedLayout if they are made of other structures.
    """
    if part == "first":
        return _POSITIONS if _are_all("positions", sides) else _NO_POSITIONS
    if part == "last":
        return _LAST
    heads = _LATENT_HEADS if _are_all("latent attention", sides) else _HEADS
    _are_all("compress_queries", sides)
    mlp: tuple[Step, ...] = _DENSE
    if _are_all("experts", sides):
        mlp = _SHARED if _is_any("shared experts", sides) else _EXPERTS
    features = frozenset[str]().union(*(side.features for side in sides))
    return tuple(_taken((*heads, *_ATTENTION, *mlp, *_END), features))


def _taken(every: Iterable[Step], features: frozenset[str]) -> Iterator[Step]:
    """Yield the steps without the optional ones that no side has, whose values pass them by."""
    renamed: dict[str, str] = {}  # what a step that is left out would have given: what it takes
    for step in every:
        takes = tuple(renamed.get(name, name) for name in step.takes)
        if step.method in _OPTIONAL - features:
            renamed.update(zip(step.gives, takes, strict=True))
        else:
            yield replace(step, takes=takes)


def _is_any(structure: str, sides: Iterable[LayerParts]) -> bool:
    return any(structure in side.features for side in sides)


def _are_all(structure: str, sides: Iterable[LayerParts]) -> bool:
    found = {structure in side.features for side in sides}
    if len(found) == 2:
        words = _WORDS.get(structure, f"{structure} in this layer")
        raise UnsupportedLayout(
            f"by its config, only one side has {words}: compare two files of one model"
        )
    return found == {True}


def take(
    step: Step, side: LayerParts, values: Values, reference: Values | None = None
) -> tuple[Tensor, ...]:
    """Return what a step gives on one side; the other side than the reference's follows it."""
    method: Callable[..., Tensor | tuple[Tensor, ...]] = getattr(side, step.method)
    followed = () if reference is None else step.replays
    given = method(
        *(values[name] for name in step.takes),
        *(reference[name] for name in followed if reference is not None),
    )
    return given if isinstance(given, tuple) else (given,)
