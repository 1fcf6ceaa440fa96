"""Pair the optimizer state of two checkpoints: fp32 master weights and moments of each weight."""

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
    """Return both sides with the state of every weight added, as `optimizer.<kind>.<weight>`.

    If only one side has an optimizer, its fp32 master weights are paired with the weights of the
    other: they are what was trained. Its moments have no partner and are left out. Raises
    BadArgument if neither side has any state, the only one that has some has no master weights, or
    the state of one lies in flat buffers.
    """
    states = read_states(a.checkpoint), read_states(b.checkpoint)
    for side, found in zip((a, b), states, strict=True):
        if found.is_flat:
            raise BadArgument(
                f"{side.checkpoint.root}: its optimizer state lies in flat buffers that no name "
                "tells apart (dp_reshardable, the default); a run of Megatron with "
                "dist_ckpt_optim_fully_reshardable saves it under the names of the weights"
            )
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
            a, b = _with_state(a, first, kind), _with_state(b, second, kind)
        elif one is not None:
            a = _with_state(a, assemble(one), kind)
        elif other is not None:
            b = _with_state(b, assemble(other), kind)
    return (
        replace(a, unmapped=(*a.unmapped, *states[0].unnamed)),
        replace(b, unmapped=(*b.unmapped, *states[1].unnamed)),
    )


def _against_masters(
    weights: Assembled, trained: Assembled, states: States, *, plain: str
) -> tuple[Assembled, Assembled]:
    """Return both sides, with master weights added to `trained` and their partners to `weights`.

    The partners are the same weights once more, under the names of the master weights. `plain` is
    the letter of the side without an optimizer. Raises BadArgument if there are no master weights.
    """
    with_masters = states.kinds.get(MASTER)
    if with_masters is None:
        why = f": {states.unnamed[0]}" if states.unnamed else ""
        raise BadArgument(
            f"{weights.checkpoint.root} holds no optimizer state, and "
            f"{trained.checkpoint.root} no fp32 master weights that can be named{why}"
        )
    partners, masters = assemble_pair(weights.checkpoint, with_masters)
    names = masters.tensors.keys() | masters.errors.keys()
    partners = replace(
        partners,
        tensors={name: t for name, t in partners.tensors.items() if name in names},
        unmapped=(),
        errors={name: error for name, error in partners.errors.items() if name in names},
    )
    note = f"its fp32 master weights stand against the weights of {plain}"
    trained = replace(
        _with_state(trained, masters, MASTER),
        unmapped=(*trained.unmapped, *states.unnamed),
        notes=(*trained.notes, note),
    )
    return _with_state(weights, partners, MASTER), trained


def master_holders(a: Assembled, b: Assembled, results: Iterable[TensorDiff]) -> list[str]:
    """Return which sides, `A` or `B`, hold fp32 master weights worth comparing.

    They are where narrower weights of that side differ. Empty if state was compared already.
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
        for letter, side, side_dtypes in zip("AB", (a, b), dtypes, strict=True)
        if side_dtypes - {"F32", "F64"} and has_masters(side.checkpoint)
    ]


def _with_state(side: Assembled, state: Assembled, kind: str) -> Assembled:
    """Return the side with one kind of state added, as `optimizer.<kind>.<weight>`."""
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
