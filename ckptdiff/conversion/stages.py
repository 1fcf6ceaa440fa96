"""How many layers each pipeline stage of a target has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.resharding.to_megatron import even_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.conversion.plan import Target


def uneven_ends(stages: Sequence[int], pp: int) -> tuple[int | None, int | None]:
    """Return the layers of the first and the last stage; None where Megatron's default is right.

    `stages` are the layers of each (chunk, stage), as `stages_of` returns them.
    """
    if len(set(stages)) == 1:
        return None, None
    first, *others = (sum(stages[stage::pp]) for stage in range(pp))
    return first, others[-1] if len(set(others)) > 1 else None


def stages_of(num_layers: int, target: Target) -> Sequence[int]:
    """Return the layers of each (chunk, stage), as `even_stages` does.

    `check_limits` has found that the stages that the target leaves open can be even. Raises
    UnsupportedLayout as `even_stages`.
    """
    first, last = target.first_layers, target.last_layers
    pp, vpp = target.parallelism.pp, target.parallelism.vpp
    if first is None and last is None:
        return even_stages(num_layers, target.parallelism)
    between = pp - (first is not None) - (last is not None)
    rest = num_layers - (first or 0) - (last or 0)
    layers = [rest // between] * between if between else []
    layers = [*filter(None, (first,)), *layers, *filter(None, (last,))]
    return [count // vpp for count in layers] * vpp
