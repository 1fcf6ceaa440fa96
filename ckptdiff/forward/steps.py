"""The steps of a layer, in order: what each takes, and what it gives to the next.

Both sides take the same steps. In lockstep each one starts from the reference's values, so that a
fault shows in the step that it is in and in no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from ckptdiff.forward.reading import Reader

    Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """A method of a layer's. What it gives is compared, but for sums of what was."""

    method: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    is_tap: bool = True


class LayerParts(Protocol):
    """A layer of one side: a method a step."""

    reader: Reader

    @property
    def features(self) -> frozenset[str]:
        """Return the optional steps that it takes."""
        ...


FIRST = (Step("embed", ("ids",), ("embed",)), Step("start", ("embed",), ("x",), is_tap=False))
LAST = (Step("final_norm", ("x",), ("final_norm",)), Step("logits", ("final_norm",), ("logits",)))
# `x` is the residual stream. A step in the second list is left out unless a side takes it.
_STEPS = (
    Step("norm1", ("x",), ("norm1",)),
    Step("project", ("norm1",), ("q", "k", "v")),
    Step("norm_heads", ("q", "k"), ("q_norm", "k_norm")),
    Step("rotate", ("q_norm", "k_norm"), ("q_rope", "k_rope")),
    Step("attend", ("q_rope", "k_rope", "v"), ("ctx",)),
    Step("attention_out", ("ctx",), ("attn_out",)),
    Step("add", ("x", "attn_out"), ("x1",), is_tap=False),
    Step("norm2", ("x1",), ("norm2",)),
    Step("activate", ("norm2",), ("act",)),
    Step("mlp_out", ("act",), ("mlp_out",)),
    Step("add", ("x1", "mlp_out"), ("x",), is_tap=False),
)
_OPTIONAL = {"norm_heads"}


def steps(*sides: LayerParts) -> Iterable[Step]:
    """Yield the steps that any of the sides takes."""
    features = frozenset[str]().union(*(side.features for side in sides))
    renamed: dict[str, str] = {}  # what a step that is left out would have given: what it takes
    for step in _STEPS:
        takes = tuple(renamed.get(name, name) for name in step.takes)
        if step.method in _OPTIONAL - features:
            renamed.update(zip(step.gives, takes, strict=True))
        else:
            yield Step(step.method, takes, step.gives, step.is_tap)


def take(step: Step, side: LayerParts, values: Values) -> tuple[Tensor, ...]:
    """Return what a step gives on one side."""
    method: Callable[..., Tensor | tuple[Tensor, ...]] = getattr(side, step.method)
    given = method(*(values[name] for name in step.takes))
    return given if isinstance(given, tuple) else (given,)
