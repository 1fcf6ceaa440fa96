"""Which rows, ranks, layers or experts of a fault lie in another's place, for a small picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes
from ckptdiff.arch.scatter import pieces_of
from ckptdiff.results import Displaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

MOST = 64  # pairs that a picture is made of


def displaced_rows(place: ShardPair, mistake: Mistake, grid: ShardGrid) -> Displaced | None:
    """Return the first rows (or columns) that a mistake moved among themselves, some of many."""
    right = _rows(place, place.rule, grid)
    belongs = {content: row for row, content in right.items()}
    moves = {
        row: belongs[content]
        for row, content in sorted(_rows(place, mistake.rule, grid).items())
        if content in belongs
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
    stem = place.name.rpartition(".")[0].rpartition(".")[2]
    unit = "row" if place.rule.dim == 0 else "column"
    return Displaced(unit, min(first, start), reach + 1, _some(span), f"{stem}, ")


def displaced_numbers(unit: str, moves: Mapping[int, int]) -> Displaced | None:
    """Return which rank, layer or expert is where another one belongs."""
    if not moves:
        return None
    pairs = sorted(moves.items())
    return Displaced(unit, pairs[0][0], pairs[-1][0] + 1, tuple(pairs[:MOST]))


def rejected(place: ShardPair, mistake: Mistake, grid: ShardGrid) -> tuple[str, ...]:
    """Return the classes of mistakes that were tried on a tensor and give other bytes."""
    tried = mistakes(place.rule, grid.config, grid.size(place.rule))
    return tuple(dict.fromkeys(m.found for m in tried if m.found != mistake.found))


def _rows(place: ShardPair, rule: ParamMapping, grid: ShardGrid) -> dict[int, tuple[str, int]]:
    """Return what each row of all shards of a tensor, one behind the other, is by a rule."""
    shapes = {name: grid.a.tensors[name].shape for name in place.share.hf}
    size, dim = grid.size(place.rule), rule.dim or 0
    rows: dict[int, tuple[str, int]] = {}
    behind = 0
    for rank in range(size):
        pieces = list(pieces_of(rule, place.share.hf, shapes, grid.config, size, rank))
        for source, of, box in pieces:
            start, stop = box[dim]
            if source is not None:
                for step in range(stop - start):
                    rows[behind + start + step] = source, of[dim][0] + step
        behind += max((box[dim][1] for _, _, box in pieces), default=0)
    return rows


def _some(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return at most `MOST` pairs, odd ones and even ones: rows are often moved by twos."""
    if len(pairs) <= MOST:
        return tuple(pairs)
    step = len(pairs) // MOST
    return tuple(pairs[i * len(pairs) // MOST + i % step] for i in range(MOST))
