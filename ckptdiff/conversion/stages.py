"""How many layers each pipeline stage of a target has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.errors import BadArgument
from ckptdiff.resharding.to_megatron import even_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.conversion.plan import Target


def uneven_ends(stages: Sequence[int]) -> tuple[int | None, int | None]:
    """Return the layers of the first and the last stage; None where Megatron's default is right."""
    if len(set(stages)) == 1:
        return None, None
    return stages[0], stages[-1] if len(set(stages[1:])) > 1 else None


def stages_of(num_layers: int, target: Target) -> Sequence[int]:
    """Return the layers of each (chunk, stage), as `even_stages` does.

    Raises BadArgument if the stages that the target leaves open cannot be even, UnsupportedLayout
    as `even_stages`.
    """
    first, last = target.first_layers, target.last_layers
    pp = target.parallelism.pp
    if first is None and last is None:
        return even_stages(num_layers, target.parallelism)
    ends = (first is not None) + (last is not None)
    rest = num_layers - (first or 0) - (last or 0)
    between = pp - ends
    if (
        target.parallelism.vpp > 1
        or between < 0
        or rest < 0
        or (rest % between if between else rest)
    ):
        raise BadArgument(
            f"{num_layers} layers: with {first or 0} on the first and {last or 0} on the last "
            f"stage, {rest} cannot be cut evenly for the other {between}"
        )
    each = rest // between if between else 0
    middle = [each] * between
    return [*([first] if first is not None else []), *middle, *([last] if last is not None else [])]
