"""The output head at wanted positions alone: log-likelihoods, and how far apart rows are.

Some rows of the head are read at a time, once for the whole batch, whatever the number of positions
and of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.arithmetic import at_least_float32
from ckptdiff.forward.batch import PackedChunk
from ckptdiff.forward.blocks import blocks, spread
from ckptdiff.forward.compute import FLOOR_POSITIONS, ONE_MODEL, is_equal, take_or_raise
from ckptdiff.forward.layer import MOST_ELEMENTS
from ckptdiff.forward.plan import most_logits
from ckptdiff.forward.rules import have_same_rules
from ckptdiff.forward.steps import Step
from ckptdiff.results import Answer, Answers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ckptdiff.forward.batch import Batch
    from ckptdiff.forward.holdings import HeldTensor
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.streams import SectionStreams

_SOME_LOGITS = Step("some_logits", ("final_norm", "head"), ("logits",))
_PAIRS = ("af", "fb", "ab")


class _Seen:
    """What is known of a stream's logits at some positions, from the blocks of tokens so far."""

    def __init__(self, positions: int, wanted: int, device: torch.device) -> None:
        def filled(count: int, value: float) -> Tensor:
            return torch.full((count,), value, dtype=torch.float64, device=device)

        self.logsum = filled(positions, -math.inf)  # the logarithm of the sum of exp(logit)
        self.best = filled(positions, -math.inf)  # the highest logit, and its token
        self.token = torch.zeros(positions, dtype=torch.int64, device=device)
        self.wanted = filled(wanted, 0.0)  # the wanted tokens' logits
        self.squares = filled(positions, 0.0)  # the sum of squared logits


@dataclass(frozen=True, slots=True)
class _Block:
    """A stream's logits of some tokens at some positions, and what they come to by position."""

    logits: Tensor
    logsum: Tensor
    best: Tensor
    token: Tensor
    squares: Tensor

    @classmethod
    def of(cls, logits: Tensor, first: int) -> _Block:
        """Return a block whose tokens begin with `first`."""
        wide = at_least_float32(logits)
        best, token = wide.max(-1)
        logsum = torch.logsumexp(wide, -1)
        return cls(wide, logsum.double(), best.double(), token + first, _squares(wide))


class Rows:
    """A chunk's wanted positions, and what is known of their logits."""

    def __init__(self, chunk: PackedChunk, batch: Batch) -> None:
        device = chunk.values.b["x"].device
        self.spans: list[tuple[int, slice, Tensor]] = []  # sequence, wanted tokens, their rows
        places: list[int] = []
        lengths: list[int] = []
        rows: list[int] = []
        tokens: list[Tensor] = []
        for number, part in enumerate(chunk.slices):
            spans = batch.spans[chunk.first + number]
            positions = sorted({p for first, t in spans for p in range(first, first + len(t))})
            row_of = {position: len(places) + i for i, position in enumerate(positions)}
            places += [part.start + position for position in positions]
            lengths.append(len(positions))
            for first, wanted in spans:
                mine = [row_of[first + i] for i in range(len(wanted))]
                of_span = slice(len(rows), len(rows) + len(mine))
                self.spans.append((chunk.first + number, of_span, torch.tensor(mine).long()))
                rows += mine
                tokens.append(wanted)
        self.row = torch.tensor(rows, dtype=torch.int64, device=device)
        self.wanted = torch.cat(tokens).to(device) if tokens else self.row
        at = torch.tensor(places, dtype=torch.int64, device=device)
        self.chunk = PackedChunk(chunk.first, tuple(lengths), chunk.values.at(at))
        self.seen = {stream: _Seen(len(places), len(rows), device) for stream in "afb"}
        self.apart = {pair: torch.zeros(len(places), dtype=torch.float64) for pair in _PAIRS}
        self.apart = {pair: value.to(device) for pair, value in self.apart.items()}

    def __len__(self) -> int:
        return sum(self.chunk.lengths)

    def add(self, stream: str, block: _Block, rows: slice, first: int) -> None:
        """Add a stream's logits of the tokens from `first` at some of the positions."""
        seen = self.seen[stream]
        seen.logsum[rows] = torch.logaddexp(seen.logsum[rows], block.logsum)
        is_better = block.best > seen.best[rows]
        seen.best[rows] = torch.where(is_better, block.best, seen.best[rows])
        seen.token[rows] = torch.where(is_better, block.token, seen.token[rows])
        seen.squares[rows] += block.squares
        here = (self.row >= rows.start) & (self.row < rows.stop)
        here &= (self.wanted >= first) & (self.wanted < first + block.logits.shape[1])
        at = self.row[here] - rows.start, self.wanted[here] - first
        seen.wanted[here] = block.logits[at].double()

    def answers(self) -> Iterator[tuple[int, Answers]]:
        """Yield the number of a sequence and the answers of a span, in order."""
        loglik, is_greedy = {}, {}
        for stream, seen in self.seen.items():
            loglik[stream] = (seen.wanted - seen.logsum[self.row]).cpu()
            is_greedy[stream] = (seen.token[self.row] == self.wanted).cpu()
        apart = {pair: self._rel(pair).cpu() for pair in _PAIRS}
        for sequence, of_span, rows in self.spans:
            a, f, b = (
                Answer(float(loglik[s][of_span].sum()), bool(is_greedy[s][of_span].all()))
                for s in "afb"
            )
            far = [float(apart[pair][rows].max()) if len(rows) else 0.0 for pair in _PAIRS]
            yield sequence, Answers(a, f, b, *far)

    def _rel(self, pair: str) -> Tensor:
        """Return the relative distance of two streams' rows; infinite if it is not finite."""
        apart, size = self.apart[pair].sqrt(), self.seen[pair[0]].squares.sqrt()
        rel = torch.where(apart == 0, 0.0, apart / size)
        return torch.where(rel.isfinite(), rel, math.inf)


def take_head(streams: SectionStreams, step: Step, found: Sequence[Rows], vocabulary: int) -> None:
    """Compute the logits of all wanted positions, and note where B's head differs from A's."""
    sides, most = (streams.a, streams.b), most_logits(streams.device.type)
    parts = sides[0].head_parts(), sides[1].head_parts()
    for first, stop in _token_blocks(*parts, vocabulary):
        (a, rows_a), (b, rows_b) = (_part_at(of, first, stop) for of in parts)
        streams.a.reader.reads.clear()
        head_a = streams.a.reader.rows(a, rows_a)
        head_b = streams.b.reader.rows_like(b, rows_b, a, rows_a, head_a)
        for rows in found:
            for some in blocks(len(rows), stop - first, most) if len(rows) else ():
                _take_block(streams, step, rows, some, (head_a, head_b), first)
    for rows in found:
        values = rows.chunk.values
        if len(rows) and values.f["final_norm"] is values.b["final_norm"]:
            streams.note_totals("logits", rows.chunk, rows.apart["fb"], rows.seen["f"].squares)


def _take_block(
    streams: SectionStreams,
    step: Step,
    rows: Rows,
    some: slice,
    heads: tuple[Tensor, Tensor],
    first: int,
) -> None:
    """Compute the logits of some tokens at some positions, in all streams."""
    values, section = rows.chunk.values, streams.section

    def logits(layer: LayerOf, x: Tensor, letter: str) -> Tensor:
        taken = {"final_norm": x, "head": heads["AB".index(letter)]}
        return take_or_raise(_SOME_LOGITS, layer, taken, section, letter=letter)[0]

    x, y, z = (of["final_norm"][some] for of in (values.a, values.f, values.b))
    a, b = logits(streams.a, x, "A"), logits(streams.b, z, "B")
    if a.shape != b.shape:
        raise UnsupportedLayout(f"the heads have other sizes. {ONE_MODEL}")
    f: Tensor | None = None
    if streams.is_one_program and values.f["final_norm"] is values.a["final_norm"]:
        f = a
    elif values.f["final_norm"] is values.b["final_norm"]:
        few = z[spread(len(z), FLOOR_POSITIONS).to(z.device)]
        if have_same_rules(step, streams.f, streams.b, ()) and is_equal(
            logits(streams.f, few, "A"), logits(streams.b, few, "B")
        ):
            f = b
    f = logits(streams.f, y, "A") if f is None else f
    if is_equal(f, b):
        b = f
    made: dict[int, _Block] = {}
    for stream, value in zip("afb", (a, f, b), strict=True):
        if id(value) not in made:
            made[id(value)] = _Block.of(value, first)
        rows.add(stream, made[id(value)], some, first)
    of_stream = {s: made[id(v)].logits for s, v in zip("afb", (a, f, b), strict=True)}
    for pair in _PAIRS:
        one, other = (of_stream[stream] for stream in pair)
        if one is not other:
            rows.apart[pair][some] += _squares(one - other)


def _squares(x: Tensor) -> Tensor:
    """Return the sum of squares of each row, in float64."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms.double().square()


def _token_blocks(
    a: Sequence[HeldTensor], b: Sequence[HeldTensor], vocabulary: int
) -> Iterator[tuple[int, int]]:
    """Yield the first token of each block and the one after its last.

    A block lies in one matrix on either side. Raises UnsupportedLayout if there are too few rows.
    """
    ends = {vocabulary}
    for letter, parts in zip("AB", (a, b), strict=True):
        counts = list(accumulate(held.shape[0] for held in parts))
        if counts[-1] < vocabulary:
            raise UnsupportedLayout(
                f"{letter}, logits: the head has {counts[-1]} rows, and there are {vocabulary} "
                f"tokens. {ONE_MODEL}"
            )
        ends.update(end for end in counts if end < vocabulary)
    step = max(1, MOST_ELEMENTS // max(held.shape[1] for held in (*a, *b)))
    for start, end in pairwise((0, *sorted(ends))):
        for first in range(start, end, step):
            yield first, min(first + step, end)


def _part_at(parts: Sequence[HeldTensor], first: int, stop: int) -> tuple[HeldTensor, slice]:
    """Return the matrix that holds some tokens' rows of the head, and these rows of it."""
    start = 0
    for held in parts:
        if first < start + held.shape[0]:
            return held, slice(first - start, stop - start)
        start += held.shape[0]
    raise AssertionError(first)
