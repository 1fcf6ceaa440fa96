"""Compare optimizer state as well: master weights and moments beside the weights they belong to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.assembly.optimizer_states import KINDS, MASTER, has_masters, read_states
from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.assembly.optimizer_states import States
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import TensorDiff


PREFIX = "optimizer."


def with_optimizer(a: Assembled, b: Assembled) -> tuple[Assembled, Assembled]:
    """Return both sides with the state of every weight, as `optimizer.<kind>.<weight>`.

    Where one side alone has an optimizer, the weights of the other stand against its fp32 master
    weights, which are what was trained; its moments have no partner and are left out. Raises
    BadArgument if neither side has any state, or the only one no master weights.
    """
    states = read_states(a.checkpoint), read_states(b.checkpoint)
    left, right = (bool(found.kinds or found.unnamed) for found in states)
    if not left and not right:
        raise BadArgument(
            f"neither {a.checkpoint.root} nor {b.checkpoint.root} holds an optimizer state"
        )
    if not left:
        return _against_masters(a, b, states[1], plain="A")
    if not right:
        return _against_masters(b, a, states[0], plain="B")[::-1]
    for kind in KINDS:
        one, other = states[0].kinds.get(kind), states[1].kinds.get(kind)
        if one is not None and other is not None:
            first, second = assemble_pair(one, other)
            a, b = _joined(a, first, kind), _joined(b, second, kind)
        elif one is not None:
            a = _joined(a, assemble(one), kind)
        elif other is not None:
            b = _joined(b, assemble(other), kind)
    return (
        replace(a, unmapped=(*a.unmapped, *states[0].unnamed)),
        replace(b, unmapped=(*b.unmapped, *states[1].unnamed)),
    )


def _against_masters(
    weights: Assembled, trained: Assembled, states: States, *, plain: str
) -> tuple[Assembled, Assembled]:
    """Return both sides, the weights of one once more as partners of the other's master weights."""
    held = states.kinds.get(MASTER)
    if held is None:
        why = f": {states.unnamed[0]}" if states.unnamed else ""
        raise BadArgument(
            f"{weights.checkpoint.root} holds no optimizer state, and "
            f"{trained.checkpoint.root} no fp32 master weights that can be named{why}"
        )
    again, masters = assemble_pair(weights.checkpoint, held)
    there = masters.tensors.keys() | masters.errors.keys()
    again = replace(
        again,
        tensors={name: t for name, t in again.tensors.items() if name in there},
        unmapped=(),
        errors={name: error for name, error in again.errors.items() if name in there},
    )
    note = f"its fp32 master weights stand against the weights of {plain}"
    trained = replace(
        _joined(trained, masters, MASTER),
        unmapped=(*trained.unmapped, *states.unnamed),
        notes=(*trained.notes, note),
    )
    return _joined(weights, again, MASTER), trained


def master_holders(a: Assembled, b: Assembled, results: Iterable[TensorDiff]) -> list[str]:
    """Return which sides, `A` or `B`, hold fp32 master weights that would tell more.

    That is: some of their narrower weights differ, and no state was compared.
    """
    dtypes: tuple[set[str | None], set[str | None]] = (set(), set())
    for result in results:
        if result.name.startswith(PREFIX):
            return []
        if result.status == "differ":
            dtypes[0].add(result.dtype_a)
            dtypes[1].add(result.dtype_b)
    return [
        letter
        for letter, side, found in zip("AB", (a, b), dtypes, strict=True)
        if found - {"F32", "F64"} and has_masters(side.checkpoint)
    ]


def _joined(side: Assembled, state: Assembled, kind: str) -> Assembled:
    prefix = f"{PREFIX}{kind}."
    return replace(
        side,
        tensors={
            **side.tensors,
            **{prefix + n: replace(t, name=prefix + n) for n, t in state.tensors.items()},
        },
        unmapped=(*side.unmapped, *(prefix + name for name in state.unmapped)),
        errors={**side.errors, **{prefix + n: error for n, error in state.errors.items()}},
    )
