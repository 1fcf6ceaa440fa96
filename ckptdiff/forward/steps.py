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


# What these steps give are rows as they are stored: no two right programs ever round them apart.
LOOKUPS = frozenset({"embed", "positions"})


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
_GATED_HEADS = (
    _HEADS[0],
    Step("project", ("norm1",), ("q", "k", "v", "gate")),
    *_HEADS[2:],
)
_ATTENTION = (
    Step("attend", ("q_rope", "k_rope", "v"), ("ctx",)),
    Step("attention_out", ("ctx",), ("attn_out",)),
)
_GATED_ATTENTION = (
    _ATTENTION[0],
    Step("gate_context", ("ctx", "gate"), ("ctx_gated",)),
    Step("attention_out", ("ctx_gated",), ("attn_out",)),
)
_DELTA_NET = (
    Step("norm1", ("x",), ("norm1",)),
    Step("project_delta", ("norm1",), ("q", "k", "v", "gate", "b", "a")),
    Step("convolve", ("q", "k", "v"), ("q_conv", "k_conv", "v_conv")),
    Step("decay_delta", ("a", "b"), ("decay", "beta")),
    Step("delta_rule", ("q_conv", "k_conv", "v_conv", "decay", "beta"), ("ctx",)),
    Step("norm_delta", ("ctx", "gate"), ("ctx_norm",)),
    Step("delta_out", ("ctx_norm",), ("attn_out",)),
)
_MAMBA = (
    Step("norm1", ("x",), ("norm1",)),
    Step("project_mamba", ("norm1",), ("gate", "X", "B", "C", "dt")),
    Step("convolve", ("X", "B", "C"), ("X_conv", "B_conv", "C_conv")),
    Step("step_sizes", ("dt",), ("dt_size",)),
    Step("scan", ("X_conv", "B_conv", "C_conv", "dt_size"), ("ctx",)),
    Step("norm_mamba", ("ctx", "gate"), ("ctx_norm",)),
    Step("mamba_out", ("ctx_norm",), ("attn_out",)),
)
_MIXED = (
    Step("norm_attention", ("attn_out",), ("attn_norm",)),
    Step("add", ("x", "attn_norm"), ("x1",), is_tap=False),
)
_NORM2 = (Step("norm2", ("x1",), ("norm2",)),)
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
_LATENT_EXPERTS = (
    *_EXPERTS[:2],
    Step("enter_latent", ("norm2",), ("experts_in",)),
    Step("activate_experts", ("experts_in", "routing"), ("experts_act",)),
    Step("experts_out", ("experts_act", "routing"), ("experts_latent",)),
    Step("leave_latent", ("experts_latent",), ("mlp_out",)),
)
_LATENT_SHARED = (
    *_LATENT_EXPERTS[:-1],
    Step("leave_latent", ("experts_latent",), ("experts_out",)),
    *_SHARED[4:],
)
_END = (
    Step("norm_mlp", ("mlp_out",), ("mlp_norm",)),
    Step("add", ("x1", "mlp_norm"), ("x",), is_tap=False),
)
# Steps that others take the place of if the MLP of a side is beside attention, not behind it.
_BESIDE = {
    "norm2": Step("norm2_beside", ("x", "x1"), ("norm2",)),
    "x": Step("add_beside", ("x", "attn_norm", "x1", "mlp_norm"), ("x",), is_tap=False),
}
_OPTIONAL = frozenset(
    {
        *("norm1", "norm2", "norm_attention", "norm_mlp"),
        *("norm_heads", "compress_queries", "norm_queries"),
    }
)
_WORDS = {
    "positions": "learned positions",
    "compress_queries": "compressed queries in this layer",
    "an output gate of attention": "an output gate of attention",
}


def steps(part: Part, *sides: LayerParts) -> tuple[Step, ...]:
    """Return the steps that any of the sides takes.

    The sides are A and B. Raises UnsupportedLayout if one has a structure that the other lacks.
    """
    if part == "first":
        return _POSITIONS if _are_all("positions", sides) else _NO_POSITIONS
    if part == "last":
        return _LAST
    features = frozenset[str]().union(*(side.features for side in sides))
    before, after = _mixer(sides), _mlp(sides)
    if before:
        before = (*before, *_MIXED)
    if after:
        after = (*_NORM2, *after, *_END)
    sequence = _joined(before, after)
    if "parallel residual" in features:
        sequence = tuple(_BESIDE.get(step.gives[0], step) for step in sequence)
    return tuple(_used(sequence, features))


def _joined(before: tuple[Step, ...], after: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps of a layer; one that has only a mixer or an MLP has no `x1` in between."""
    if before and after:
        return (*before, *after)
    return tuple(
        replace(step, takes=_without_x1(step.takes), gives=_without_x1(step.gives))
        for step in (*before, *after)
    )


def _without_x1(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("x" if name == "x1" else name for name in names)


def _mixer(sides: tuple[LayerParts, ...]) -> tuple[Step, ...]:
    """Return the steps in which positions see each other; none in a layer without a mixer."""
    if _are_all("an MLP alone", sides):
        return ()
    if _are_all("a Mamba mixer", sides):
        return _MAMBA
    if _are_all("a gated DeltaNet", sides):
        return _DELTA_NET
    if _are_all("latent attention", sides):
        _are_all("compress_queries", sides)
        return (*_LATENT_HEADS, *_ATTENTION)
    if _are_all("an output gate of attention", sides):
        return (*_GATED_HEADS, *_GATED_ATTENTION)
    return (*_HEADS, *_ATTENTION)


def _mlp(sides: tuple[LayerParts, ...]) -> tuple[Step, ...]:
    if _are_all("no MLP", sides):
        return ()
    if not _are_all("experts", sides):
        return _DENSE
    if _are_all("experts in a latent space", sides):
        return _LATENT_SHARED if _are_all("shared experts", sides) else _LATENT_EXPERTS
    return _SHARED if _are_all("shared experts", sides) else _EXPERTS


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
