"""The steps of a model, in order: which values each takes, and which it gives.

Both sides take the same steps. In lockstep, each step of B starts from A's values, the reference,
so that a fault shows in its own step and in no other.
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
    """A call of one method of a layer, by the names of values that it takes and gives."""

    method: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    is_tap: bool = True  # what it gives is compared; False: it only adds values that were
    replays: tuple[str, ...] = ()  # values of the reference that the other side gets as well


class LayerParts(Protocol):
    """A layer of one side: a method for each step."""

    reader: Reader

    @property
    def features(self) -> frozenset[str]:
        """Return the optional steps that it takes, and the structures that it has."""
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

    The sides are A and B. Raises UnsupportedLayout if one has a structure that the other lacks.
    """
    if part == "first":
        return _POSITIONS if _are_all("positions", sides) else _NO_POSITIONS
    if part == "last":
        return _LAST
    heads = _LATENT_HEADS if _are_all("latent attention", sides) else _HEADS
    _are_all("compress_queries", sides)
    mlp: tuple[Step, ...] = _DENSE
    if _are_all("experts", sides):
        mlp = _SHARED if _are_all("shared experts", sides) else _EXPERTS
    features = frozenset[str]().union(*(side.features for side in sides))
    return tuple(_used((*heads, *_ATTENTION, *mlp, *_END), features))


def _used(sequence: Iterable[Step], features: frozenset[str]) -> Iterator[Step]:
    """Yield the steps but the optional ones that no side takes; later steps take their inputs."""
    renamed: dict[str, str] = {}  # what a step that is left out would give, to what it takes
    for step in sequence:
        takes = tuple(renamed.get(name, name) for name in step.takes)
        if step.method in _OPTIONAL - features:
            renamed.update(zip(step.gives, takes, strict=True))
        else:
            yield replace(step, takes=takes)


def _are_all(structure: str, sides: Iterable[LayerParts]) -> bool:
    """Return whether all sides have a structure. Raises UnsupportedLayout if only some do."""
    found = [structure in side.features for side in sides]
    if any(found) and not all(found):
        words = _WORDS.get(structure, f"{structure} in this layer")
        raise UnsupportedLayout(
            f"only {'AB'[found.index(True)]} has {words}: no step of the other side answers to "
            "it. Give two checkpoints of one model, each with its own config"
        )
    return all(found)


def take(
    step: Step, side: LayerParts, values: Values, reference: Values | None = None
) -> tuple[Tensor, ...]:
    """Return the values that a step gives on one side; `reference` are A's values, for B."""
    method: Callable[..., Tensor | tuple[Tensor, ...]] = getattr(side, step.method)
    replayed = () if reference is None else step.replays
    given = method(
        *(values[name] for name in step.takes),
        *(reference[name] for name in replayed if reference is not None),
    )
    return given if isinstance(given, tuple) else (given,)
