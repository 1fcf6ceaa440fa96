"""Compare optimizer state as well: master weights and moments beside the weights they belong to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assemble import assemble, assemble_pair
from ckptdiff.errors import BadArgument
from ckptdiff.states import KINDS, read_states

if TYPE_CHECKING:
    from ckptdiff.assembly import Assembled


def with_optimizer(a: Assembled, b: Assembled) -> tuple[Assembled, Assembled]:
    """Return both sides with the state of every weight, as `optimizer.<kind>.<weight>`.

    Raises BadArgument if neither side has any.
    """
    states = read_states(a.checkpoint), read_states(b.checkpoint)
    for side, found in (("A", states[0]), ("B", states[1])):
        if not found.kinds and not found.unnamed:
            root = (a if side == "A" else b).checkpoint.root
            raise BadArgument(f"--optimizer: {root} ({side}) holds no optimizer state")
    for kind in KINDS:
        left, right = states[0].kinds.get(kind), states[1].kinds.get(kind)
        if left is not None and right is not None:
            one, other = assemble_pair(left, right)
            a, b = _joined(a, one, kind), _joined(b, other, kind)
        elif left is not None:
            a = _joined(a, assemble(left), kind)
        elif right is not None:
            b = _joined(b, assemble(right), kind)
    return (
        replace(a, unmapped=(*a.unmapped, *states[0].unnamed)),
        replace(b, unmapped=(*b.unmapped, *states[1].unnamed)),
    )


def _joined(side: Assembled, state: Assembled, kind: str) -> Assembled:
    prefix = f"optimizer.{kind}."
    return replace(
        side,
        tensors={
            **side.tensors,
            **{prefix + n: replace(t, name=prefix + n) for n, t in state.tensors.items()},
        },
        unmapped=(*side.unmapped, *(prefix + name for name in state.unmapped)),
        errors={**side.errors, **{prefix + n: text for n, text in state.errors.items()}},
    )
