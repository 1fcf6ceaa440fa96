"""Find which rows, ranks, layers or experts a fault displaced, for the picture of a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes
from ckptdiff.arch.scatter import pieces_of
from ckptdiff.diagnosis.thresholds import MAX_SHOWN_MOVES
from ckptdiff.results import Displaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair


def displaced_rows(pair: ShardPair, mistake: Mistake, grid: ShardGrid) -> Displaced | None:
    """Return the first run of rows (or columns) that a mistake permuted; None if it moved none.

    Rows are counted over the shards of all ranks, concatenated.
    """
    expected = _rows(pair, pair.rule, grid)
    home_of = {content: row for row, content in expected.items()}
    moves = {
        row: home_of[content]
        for row, content in sorted(_rows(pair, mistake.rule, grid).items())
        if content in home_of
    }
    first = next((row for row, home in moves.items() if row != home), None)
    if first is None:
        return None
    reach = first
    span = []
    for row, home in moves.items():
        if row >= first:
            reach = max(reach, row, home)
            span.append((row, home))
            if row == reach:
                break
    start = min(home for _, home in span)
    stem = pair.name.rpartition(".")[0].rpartition(".")[2]
    unit = "row" if pair.rule.dim == 0 else "column"
    return Displaced(unit, min(first, start), reach + 1, _evenly_chosen(span), f"{stem}, ")


def displaced_numbers(unit: str, moves: Mapping[int, int]) -> Displaced | None:
    """Return the picture of moved ranks, layers or experts: each key holds its value's content."""
    if not moves:
        return None
    placed = sorted(moves.items())
    return Displaced(unit, placed[0][0], placed[-1][0] + 1, tuple(placed[:MAX_SHOWN_MOVES]))


def rejected_classes(pair: ShardPair, mistake: Mistake, grid: ShardGrid) -> tuple[str, ...]:
    """Return the fault classes that were tried on a tensor and give other bytes than `mistake`."""
    tried = mistakes(pair.rule, grid.config, grid.size(pair.rule))
    return tuple(dict.fromkeys(m.kind for m in tried if m.kind != mistake.kind))


def _rows(pair: ShardPair, rule: ParamMapping, grid: ShardGrid) -> dict[int, tuple[str, int]]:
    """Return (source, its row) for each row of the shards of all ranks, concatenated, by a rule."""
    shapes = {name: grid.a.tensors[name].shape for name in pair.hf_names}
    size, dim = grid.size(pair.rule), rule.dim or 0
    rows: dict[int, tuple[str, int]] = {}
    start_of_rank = 0
    for rank in range(size):
        pieces = list(pieces_of(rule, pair.hf_names, shapes, grid.config, size, rank))
        for source, of, box in pieces:
            start, stop = box[dim]
            if source is not None:
                for step in range(stop - start):
                    rows[start_of_rank + start + step] = source, of[dim][0] + step
        start_of_rank += max((box[dim][1] for _, _, box in pieces), default=0)
    return rows


def _evenly_chosen(moves: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return at most `MAX_SHOWN_MOVES` moves, of even and odd rows: many faults move pairs."""
    if len(moves) <= MAX_SHOWN_MOVES:
        return tuple(moves)
    step = len(moves) // MAX_SHOWN_MOVES
    return tuple(
        moves[i * len(moves) // MAX_SHOWN_MOVES + i % step] for i in range(MAX_SHOWN_MOVES)
    )
