"""Find the origin of content that was moved, or laid out wrongly, and has changed values too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes, pairs_of_mistakes
from ckptdiff.assembly.compose import transpose
from ckptdiff.diagnosis.layout_search import pieces_by, recipe_by
from ckptdiff.diagnosis.thresholds import (
    MAX_LOOKUP_ROWS,
    MIN_AGREEING_ROWS,
    MIN_LOCATED_ROWS,
    MIN_MOVED_COSINE,
    MIN_MOVED_MARGIN,
    MIN_MOVED_ROWS,
    MIN_UNMOVED_COSINE,
    MIN_VERSION_COSINE,
)
from ckptdiff.resharding.shard_pairs import chosen_rows
from ckptdiff.resharding.to_megatron import recipe_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.checkpoint import Box
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardPair

    WithOrigins = list[tuple[ShardPair, ShardPair]]  # a pair, and the one whose content it may hold
    Row = tuple[str, int]  # a tensor of A, and the number of its row (or column)


def find_near_origins(origins: Origins) -> None:
    """Find moves and mistakes among unexplained pairs whose values were changed too.

    Updates `moved`, `mistaken`, `transposed`, `predicted`, `residual` and `unexplained` of
    `origins`. Reads nothing where every residual is simple: a factor, an offset, a cast.
    """
    for name in dict.fromkeys(p.name for p in origins.unexplained if _is_open(origins, p)):
        group = [p for p in origins.firsts.values() if p.name == name and p.actual.pieces]
        if not _find_move(origins, group) and not _find_transposed(origins, group):
            _find_mistake(origins, group)
    _compare_replicas_with_firsts(origins)


def _compare_replicas_with_firsts(origins: Origins) -> None:
    """Take the first replica's wrong content as predicted of one that drifted, if it is nearer.

    The fault of the first replica then explains the drifted one too.
    """
    copies = [
        p for p in origins.unexplained if p.is_copy and origins.firsts[p.home] in origins.wrong
    ]
    contents = {p: origins.firsts[p.home].actual for p in copies}
    found = origins.measured([replace(p, expected=recipe) for p, recipe in contents.items()])
    for pair, residual in zip(copies, found, strict=True):
        if residual.constant is None and residual.cosine > max(
            MIN_MOVED_COSINE, origins.residual[pair].cosine
        ):
            origins.residual[pair] = residual
            origins.predicted[pair] = contents[pair]
            first = origins.firsts[pair.home]
            if first in origins.moved:
                origins.moved[pair] = origins.moved[first]


def _is_open(origins: Origins, pair: ShardPair) -> bool:
    """Return whether no move, mistake or relation explains the content of a pair so far."""
    found = origins.residual[pair]
    relations = (found.constant, found.offset, found.scale, found.cast)
    return (
        not pair.is_copy
        and pair.actual.pieces != ()
        and pair not in origins.moved
        and pair not in origins.predicted
        and all(x is None for x in relations)
        and not found.block
        and not (len(pair.actual.shape) > 1 and abs(found.cosine) > MIN_UNMOVED_COSINE)
    )


# ── content of another shard ─────────────────────────────────────────────────────────────────


def _find_move(origins: Origins, group: list[ShardPair]) -> bool:
    """Find pairs that hold a changed version of another shard of their layer; True for all."""
    wrong = [
        p for p in group
        if p in origins.unexplained and _is_open(origins, p)
        and origins.wrong_fraction[p] > MIN_MOVED_ROWS
    ]  # fmt: skip
    for pair in wrong:
        candidates = list(_candidates(origins, pair))
        moved = [_as_if_moved(pair, other) for other in candidates]
        measured = list(zip(origins.measured(moved), candidates, strict=True))
        best = max(measured, key=lambda candidate: candidate[0].closeness, default=None)
        if best is not None and _is_nearer(best[0], origins.residual[pair], pair):
            origins.residual[pair], origins.moved[pair] = best
    return bool(wrong) and all(p in origins.moved for p in wrong)


def _candidates(origins: Origins, pair: ShardPair) -> Iterator[ShardPair]:
    """Yield the pairs whose content may lie here: of this shape, in the same layer and expert.

    They have another name or another rank, not both.
    """
    for other in origins.firsts.values():
        if (
            other.home != pair.home
            and other.expected.pieces
            and other.expected.shape == pair.actual.shape
            and other.rule.dim == pair.rule.dim
            and (other.layer, other.expert) == (pair.layer, pair.expert)
            and (other.name == pair.name or other.tp_rank == pair.tp_rank)
        ):
            yield other


def _as_if_moved(pair: ShardPair, origin: ShardPair) -> ShardPair:
    """Return a pair with the content expected at `origin`."""
    return replace(pair, expected=replace(origin.expected, dtype=pair.actual.dtype))


def _is_nearer(found: Residual, own: Residual, pair: ShardPair) -> bool:
    """Return whether content is nearer to a new origin than to the expected content.

    `found` is its residual by the new origin, `own` by what is expected. Vectors need a relation:
    most norms have nearly the same direction.
    """
    if len(pair.actual.shape) < 2:
        return found.offset is not None or found.scale is not None
    is_like = found.closeness[0] or abs(found.cosine) > MIN_MOVED_COSINE
    return is_like and abs(found.cosine) > max(
        MIN_MOVED_MARGIN + abs(own.cosine), MIN_VERSION_COSINE
    )


# ── rows in the order of a mistake ───────────────────────────────────────────────────────────


def _find_transposed(origins: Origins, group: list[ShardPair]) -> bool:
    """Find changed versions of the transpose of square matrices, in all ranks of one tensor."""
    names = group[0].hf_names
    shapes = {origins.grid.a.tensors[name].shape for name in names}
    if group[0].rule.of_vocabulary or any(len(s) != 2 or s[0] != s[1] for s in shapes):
        return False
    tensors = {name: transpose(origins.grid.a.tensors[name]) for name in names}
    made = {
        p: replace(recipe_of(p.rank_slice, tensors), dtype=p.actual.dtype)
        for p in group
        if p in origins.unexplained
    }
    found = origins.measured([replace(p, expected=recipe) for p, recipe in made.items()])
    if not all(_is_nearer(r, origins.residual[p], p) for p, r in zip(made, found, strict=True)):
        return False
    origins.transposed.update(names)
    _settle(origins, made, found)
    return True


def _find_mistake(origins: Origins, group: list[ShardPair]) -> None:
    """Find the mistake that puts rows where those of the same direction lie in the reference."""
    rule = group[0].rule
    if rule.dim is None or rule.partition is None or rule.of_vocabulary:
        return
    if len(group[0].actual.shape) < 2:
        return
    for origin_of in origins.origin_finders():
        found = [origin_of(p) for p in group]
        with_origins = [(p, q) for p, q in zip(group, found, strict=True) if q is not None]
        if len(with_origins) < len(group):
            continue
        held = _nearest_rows(origins, with_origins)
        right = _agreeing(
            [_row_table(q.rank_slice.pieces, rule.dim) for _, q in with_origins], held
        )
        if len(held) < MIN_LOCATED_ROWS or right >= MIN_AGREEING_ROWS * len(held):
            continue
        for find in (mistakes, pairs_of_mistakes):
            fitting = [
                m for m in find(rule, origins.grid.config, origins.grid.size(rule))
                if m.boxes is None and _puts_rows_there(origins, with_origins, m, held)
            ]  # fmt: skip
            if fitting and _accept(origins, with_origins, fitting):
                return


def _puts_rows_there(
    origins: Origins, with_origins: WithOrigins, mistake: Mistake, held: dict[tuple[int, int], Row]
) -> bool:
    """Return whether a mistake puts nearly all rows of `held` where they were found."""
    tables = [
        _row_table(pieces_by(mistake, origin, origins.grid), mistake.rule.dim or 0)
        for _, origin in with_origins
    ]
    return _agreeing(tables, held) >= MIN_AGREEING_ROWS * len(held)


def _agreeing(tables: list[dict[int, Row]], held: dict[tuple[int, int], Row]) -> int:
    """Return how many rows of `held`, keyed by (rank, row), are those of the ranks' tables."""
    return sum(tables[rank].get(at) == row for (rank, at), row in held.items())


def _row_table(pieces: Iterable[tuple[str | None, Box, Box]], dim: int) -> dict[int, Row]:
    """Return which row (or column) of which tensor each row of a shard is, by its pieces."""
    return {
        box[dim][0] + step: (source, of[dim][0] + step)
        for source, of, box in pieces
        if source is not None
        for step in range(box[dim][1] - box[dim][0])
    }


def _nearest_rows(origins: Origins, with_origins: WithOrigins) -> dict[tuple[int, int], Row]:
    """Return the row (or column) of A most like each of some rows of the ranks' shards.

    Keys are (position in `with_origins`, row of the shard); rows without a likeness are left out.
    """
    rule = with_origins[0][0].rule
    names = with_origins[0][1].hf_names
    by_column = rule.dim == 1
    tensors = [origins.grid.a.tensors[n] for n in names]
    pool = [transpose(t) if by_column != rule.transposed else t for t in tensors]
    starts = [sum(t.shape[0] for t in pool[:i]) for i in range(len(pool))]
    held: dict[tuple[int, int], Row] = {}
    for rank, (pair, _) in enumerate(with_origins):
        if pair not in origins.unexplained:
            continue
        content = transpose(pair.actual) if by_column else pair.actual
        rows = list(range(content.shape[0])) if by_column else origins.wrong[pair]
        step = max(1, len(rows) * len(with_origins) // MAX_LOOKUP_ROWS)
        rows = rows[::step]
        for row, at in zip(
            rows, origins.ask.nearest_rows(pool, chosen_rows(content, rows)), strict=True
        ):
            if at >= 0:
                which = max(i for i, start in enumerate(starts) if start <= at)
                held[rank, row] = names[which], at - starts[which]
    return held


def _accept(origins: Origins, with_origins: WithOrigins, fitting: list[Mistake]) -> bool:
    """Accept the first of equal mistakes if it predicts all ranks, and better than before.

    Returns whether it was accepted.
    """
    made = {p: recipe_by(fitting[0], p, q, origins.grid) for p, q in with_origins}
    recipes = {p: recipe for p, recipe in made.items() if recipe is not None}
    if len(recipes) < len(with_origins):
        return False
    wrong = {p: recipe for p, recipe in recipes.items() if p in origins.unexplained}
    found = origins.measured([replace(p, expected=recipe) for p, recipe in wrong.items()])
    if any(
        r.scale != 1 and abs(r.cosine) <= abs(origins.residual[p].cosine)
        for p, r in zip(wrong, found, strict=True)
    ):
        return False
    words = tuple(dict.fromkeys(m.words for m in fitting[1:]))
    for pair, origin in with_origins:
        origins.mistaken[pair] = fitting[0], words
        if pair is not origin and pair in origins.wrong:
            origins.moved[pair] = origin
    _settle(origins, wrong, found)
    return True


def _settle(origins: Origins, made: dict[ShardPair, Assembly], found: list[Residual]) -> None:
    """Store the predicted content of each pair, and the residual of the actual content.

    A pair that equals the prediction is explained: its values did not change.
    """
    are_equal = origins.ask.are_equal([(recipe, p.actual) for p, recipe in made.items()])
    for (pair, recipe), residual, same in zip(made.items(), found, are_equal, strict=True):
        if same:
            origins.unexplained.remove(pair)
        else:
            origins.predicted[pair] = recipe
            origins.residual[pair] = residual
