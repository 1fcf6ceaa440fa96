"""Jobs: compute what both sides answer to many sequences, a section at a time for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.answers import Rows, take_head
from ckptdiff.forward.batch import PackedChunk, make_batch, width_of
from ckptdiff.forward.compute import COMPUTED, prepare_device
from ckptdiff.forward.kept import keep, kept
from ckptdiff.forward.plan import chunk_tokens, most_tokens
from ckptdiff.forward.streams import SectionStreams

if TYPE_CHECKING:
    from ckptdiff.forward.batch import Batch
    from ckptdiff.forward.plan import PackedRun, PackedSequence, Section
    from ckptdiff.results import Answers, StepApart

_BATCH = "batch"  # the name under which a worker keeps it


def begin_batch(run: PackedRun, sequences: tuple[PackedSequence, ...]) -> None:
    """Keep the tokens of a batch, in the place of those of the batch before."""
    keep(run.comparison, _BATCH, make_batch(sequences, prepare_device(run.device)))


@torch.inference_mode()
def take_packed_section(run: PackedRun, section: Section) -> tuple[StepApart, ...]:
    """Compute a section for the batch: A, A's weights as B computes them (F), and B.

    Returns the steps in which B gave another value than F from equal inputs, each once. The
    sections are to be taken in order; their weights are read once. Raises a CkptDiffError.
    """
    batch: Batch = kept(run.comparison, _BATCH)
    device = prepare_device(run.device)
    streams = SectionStreams(run, section, device)
    if section.part == "last":
        return _take_last(run, batch, streams)
    outputs, most = streams.steps[-1].gives, most_tokens(device.type)
    if section.part == "layer":
        routing = run.a.model.layers[section.number].routing
        chosen = 1 if routing is None else routing.chosen
        width = width_of(section, chosen)
        most = chunk_tokens(width, COMPUTED[run.dtype].itemsize, device.type)
        batch.chunks = [piece for chunk in batch.chunks for piece in chunk.pieces(most)]
    for number, chunk in enumerate(batch.chunks):
        values = streams.take_layer(chunk, outputs, most)
        batch.chunks[number] = PackedChunk(chunk.first, chunk.lengths, values)
    return streams.apart


def _take_last(run: PackedRun, batch: Batch, streams: SectionStreams) -> tuple[StepApart, ...]:
    """Compute the final norm and the logits at the wanted positions, and keep the answers."""
    *before, head = streams.steps
    found = [Rows(chunk, batch) for chunk in batch.chunks]
    for rows in found:
        if len(rows):
            values = streams.take(rows.chunk, tuple(before), head.takes)
            rows.chunk = PackedChunk(rows.chunk.first, rows.chunk.lengths, values)
    take_head(streams, head, [rows for rows in found if len(rows)], run.vocabulary)
    answers: list[list[Answers]] = [[] for _ in batch.spans]
    for rows in found:
        for sequence, answer in rows.answers():
            answers[sequence].append(answer)
    batch.answers = tuple(map(tuple, answers))
    return streams.apart


def answer_spans(run: PackedRun, section: Section) -> tuple[tuple[Answers, ...], ...]:  # noqa: ARG001
    """Return the answers to each sequence's spans, once the last section has been taken."""
    batch: Batch = kept(run.comparison, _BATCH)
    return batch.answers
