"""Sides that are not what their own config promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.shortfall_words import shortfall_lines, way_out
from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import TensorDiff


def incomplete(a: Assembled, b: Assembled, results: Sequence[TensorDiff]) -> Iterator[Finding]:
    """Yield a finding for each side that is not what its config promises; one if both lack alike.

    What B lacks and A has is left out: it is missing, whatever the config says. So is what has
    another shape than in A.
    """
    compared = {r.name for r in results if r.status in ("only_a", "shape", "error")}
    of_a, of_b = _promised(a), _promised(b)
    rest = [name for name in of_b if name not in compared]
    if of_a and of_a == of_b:
        yield _finding("A and B are not what their configs promise", b, of_b)
        return
    if of_a:
        yield replace(_finding("A is not what its config promises", a, of_a), letter="A")
    if rest:
        yield _finding("B is not what its config promises", b, rest)


def _promised(side: Assembled) -> list[str]:
    """Return the names that are lacking, not counted by the config, or of another shape."""
    short = side.shortfall
    return [*short.lacking, *short.beyond, *(misfit.name for misfit in short.misfits)]


def _finding(title: str, side: Assembled, names: Sequence[str]) -> Finding:
    fix = way_out(side.shortfall)
    lines = [line.removeprefix("incomplete: ") for line in shortfall_lines(side)]
    return Finding(
        "INCOMPLETE",
        "fault",
        f"{title}: {lines[0]}",
        tensors=tuple(names),
        layers=layers_of(names),
        experts=experts_of(names),
        evidence="; ".join(lines[1:]),
        fix=f"{fix[0].lower()}{fix[1:]}",
    )
