"""A batch of sequences in memory, laid end to end in chunks, with the values of each stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.plan import most_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.plan import PackedSequence, Section
    from ckptdiff.forward.steps import Values
    from ckptdiff.results import Answers


@dataclass(frozen=True, slots=True)
class Streams:
    """The values of A, of A's weights as B computes them (F), and of B.

    Where F's value and B's are equal they are one tensor.
    """

    a: Values
    f: Values
    b: Values

    def only(self, names: frozenset[str]) -> Streams:
        """Return these values alone."""
        a, f, b = ({n: v for n, v in of.items() if n in names} for of in (self.a, self.f, self.b))
        return Streams(a, f, b)

    def at(self, rows: slice | Tensor) -> Streams:
        """Return some rows of each value; what is one tensor stays one."""
        made: dict[int, Tensor] = {}

        def cut(values: Values) -> Values:
            for value in values.values():
                if id(value) not in made:
                    made[id(value)] = value[rows]
            return {name: made[id(value)] for name, value in values.items()}

        return Streams(cut(self.a), cut(self.f), cut(self.b))

    def with_parts(self, parts: Sequence[Streams], names: frozenset[str]) -> Streams:
        """Return these values with those of `names` from parts, one after another.

        What is one tensor in every part is one. The parts lose them, so that none is there twice.
        """
        whole = Streams(dict(self.a), dict(self.f), dict(self.b))
        for name in names:
            made: dict[tuple[int, ...], Tensor] = {}
            found = [
                [values.pop(name) for values in of_parts]
                for of_parts in zip(*((part.a, part.f, part.b) for part in parts), strict=True)
            ]
            for values, tensors in zip((whole.a, whole.f, whole.b), found, strict=True):
                key = tuple(map(id, tensors))
                if key not in made:
                    made[key] = torch.cat(tensors)
                values[name] = made[key]
        return whole


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """Whole sequences of a batch, end to end."""

    first: int  # of the batch's sequences
    lengths: tuple[int, ...]  # positions of each sequence
    values: Streams

    @property
    def slices(self) -> list[slice]:
        """The positions of each sequence."""
        ends = list(accumulate(self.lengths))
        return [slice(end - size, end) for size, end in zip(self.lengths, ends, strict=True)]

    def sequence_of(self, device: torch.device) -> Tensor:
        """Return (positions,): the index of each position's sequence in the chunk."""
        sizes = torch.tensor(self.lengths, device=device)
        return torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)

    def cut(self, most: int) -> list[PackedChunk]:
        """Return a chunk of one sequence as parts of it, of at most so many positions."""
        (length,) = self.lengths
        parts = (slice(first, min(first + most, length)) for first in range(0, length, most))
        return [
            PackedChunk(self.first, (rows.stop - rows.start,), self.values.at(rows))
            for rows in parts
        ]

    def pieces(self, most: int) -> Iterator[PackedChunk]:
        """Yield the chunk in chunks of at most so many positions, or of one sequence."""
        if sum(self.lengths) <= most or len(self.lengths) == 1:
            yield self
            return
        start = 0
        for first, count in _groups(self.lengths, most):
            lengths = self.lengths[first : first + count]
            rows = slice(start, start + sum(lengths))
            yield PackedChunk(self.first + first, lengths, self.values.at(rows))
            start = rows.stop


@dataclass(slots=True)
class Batch:
    """What a worker keeps of a batch from section to section."""

    spans: tuple[tuple[tuple[int, Tensor], ...], ...]  # of each sequence: first position, tokens
    chunks: list[PackedChunk]
    answers: tuple[tuple[Answers, ...], ...] = field(default=())


def make_batch(sequences: Sequence[PackedSequence], device: torch.device) -> Batch:
    """Return a batch whose streams are its tokens."""
    ids = [tokens_of(sequence.ids) for sequence in sequences]
    lengths = tuple(len(one) for one in ids)
    chunks, start = [], 0
    for first, count in _groups(lengths, most_tokens(device.type)):
        joined = {"ids": torch.cat(ids[first : first + count]).to(device)}
        chunks.append(PackedChunk(first, lengths[first : first + count], Streams(*(joined,) * 3)))
        start += count
    spans = tuple(
        tuple((first, tokens_of(tokens)) for first, tokens in sequence.spans)
        for sequence in sequences
    )
    return Batch(spans, chunks)


def tokens_of(packed: bytes) -> Tensor:
    """Return the tokens, (count,), of int32 in bytes."""
    if not packed:
        return torch.empty(0, dtype=torch.int64)
    return torch.frombuffer(bytearray(packed), dtype=torch.int32).long()


def width_of(section: Section, chosen: int) -> int:
    """Return about how many features of a position are in memory at once.

    `chosen` are the experts of a position.
    """
    return min(_width(section.a, chosen), _width(section.b, chosen))


def _width(ranks: Ranks, chosen: int) -> int:
    """Return about how many features of a position are in memory at once, over all ranks."""
    widest = 1
    for name, held in ranks[0].items():
        if len(held.shape) == 2:
            times = chosen if ".experts." in name else 1
            widest = max(widest, len(ranks) * max(held.shape) * times)
    return widest


def _groups(lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the number of sequences that have at most so many positions together."""
    first, total = 0, 0
    for number, length in enumerate(lengths):
        if total + length > most and number > first:
            yield first, number - first
            first, total = number, 0
        total += length
    if lengths:
        yield first, len(lengths) - first
