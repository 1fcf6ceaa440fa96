"""Run sequences through two checkpoints as scores does, in one call."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward.packed import answer_spans, begin_batch, take_packed_section
from ckptdiff.forward.plan import PackedRun, PackedSequence
from ckptdiff.logits.sides import check_families, forward_side, holdings_of, sections, token_count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckptdiff.results import Answers, StepApart


@dataclass(frozen=True)
class Ran:
    """What a batch came to."""

    apart: tuple[StepApart, ...]
    answers: tuple[tuple[Answers, ...], ...]

    @property
    def large(self) -> list[StepApart]:
        """The steps that are further apart than the order of sums makes in float32."""
        return [step for step in self.apart if not step.rel <= 50 * 2**-23]

    @property
    def places(self) -> list[tuple[int | None, str]]:
        return [(step.layer, step.name) for step in self.large]


def packed(ids: Sequence[int], *spans: tuple[int, Sequence[int]]) -> PackedSequence:
    """Return a sequence with its spans: first position, and the tokens that follow."""
    made = tuple((first, int32(tokens)) for first, tokens in spans)
    return PackedSequence(int32(ids), made)


def int32(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"={len(tokens)}i", *tokens)


def whole(ids: Sequence[int]) -> PackedSequence:
    """Return a sequence of which each next token is wanted, as in a rolling task."""
    return packed(ids, (0, ids[1:]))


def run_batch(
    a: Path,
    b: Path,
    batch: Sequence[PackedSequence],
    dtype: str = "fp32",
    device: str = "cpu",
    reference: str = "hf",
) -> Ran:
    """Return what both sides answer to the sequences, computed as one batch."""
    pair = assemble_pair(open_checkpoint(a), open_checkpoint(b))
    sides = forward_side(*pair, reference), forward_side(pair[1], pair[0], reference)
    held = [holdings_of(*side) for side in zip(pair, sides, strict=True)]
    check_families(sides, held)
    run = PackedRun(*sides, dtype, device, token_count(*pair), f"{a} {b}")
    begin_batch(run, tuple(batch))
    apart: list[StepApart] = []
    for section in sections(*held):
        apart += take_packed_section(run, section)
    return Ran(tuple(apart), answer_spans(run, section))
