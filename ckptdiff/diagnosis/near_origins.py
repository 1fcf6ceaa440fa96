"""Find what was moved and changed: content that is like another place's, or as a mistake has it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.mistakes import mistakes, pairs_of_mistakes
from ckptdiff.assembly.compose import transpose
from ckptdiff.diagnosis.layout_search import pieces_by, recipe_by
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

    Pairs = list[tuple[ShardPair, ShardPair]]  # a place, and the one whose content it may hold
    Row = tuple[str, int]  # of a tensor of A (or a column)

SAME = 0.98  # cosine from which nothing can have been moved that would show
LIKE = 0.9  # cosine from which a content is a version of another, whatever was changed
NEARER = 0.2  # so much more like another's than like its own must it be
SURE = 0.9  # part of the rows that must be where a mistake, or another place, puts them
MOST_ROWS = 96  # that are looked for, of all ranks together


def find_nearly(origins: Origins) -> None:
    """Look for moves and mistakes where values were changed too.

    Costs nothing where every content is another's, or the expected one by one relation.
    """
    for name in dict.fromkeys(p.name for p in origins.left if _is_open(origins, p)):
        group = [p for p in origins.firsts.values() if p.name == name and p.actual.pieces]
        if not _find_move(origins, group) and not _find_transposed(origins, group):
            _find_mistake(origins, group)
    _follow_firsts(origins)


def _follow_firsts(origins: Origins) -> None:
    """Take replicas that drifted for what the first is: it was moved, and this one with it."""
    copies = [p for p in origins.left if p.is_copy and origins.firsts[p.home] in origins.wrong]
    made = {p: origins.firsts[p.home].actual for p in copies}
    found = origins.measured([replace(p, expected=recipe) for p, recipe in made.items()])
    for place, residual in zip(copies, found, strict=True):
        if residual.constant is None and residual.cosine > max(
            LIKE, origins.residual[place].cosine
        ):
            origins.residual[place] = residual
            origins.instead[place] = made[place]
            first = origins.firsts[place.home]
            if first in origins.moved:
                origins.moved[place] = origins.moved[first]


def _is_open(origins: Origins, place: ShardPair) -> bool:
    """Ask whether nothing says yet what a place holds."""
    found = origins.residual[place]
    told = (found.constant, found.offset, found.scale, found.cast)
    return (
        not place.is_copy
        and place.actual.pieces != ()
        and place not in origins.moved
        and place not in origins.instead
        and all(x is None for x in told)
        and not found.block
        and not (len(place.actual.shape) > 1 and abs(found.cosine) > SAME)
    )


# ── another place's content ──────────────────────────────────────────────────────────────────


def _find_move(origins: Origins, group: list[ShardPair]) -> bool:
    """Look for the content of other places of the same layer, under one relation."""
    wrong = [
        p for p in group
        if p in origins.left and _is_open(origins, p) and origins.share_wrong[p] > SURE
    ]  # fmt: skip
    for place in wrong:
        others = list(_like(origins, place))
        moved = [_as_if(place, other) for other in others]
        found = list(zip(origins.measured(moved), others, strict=True))
        best = max(found, key=lambda pair: pair[0].closeness, default=None)
        if best is not None and _is_nearer(best[0], origins.residual[place], place):
            origins.residual[place], origins.moved[place] = best
    return bool(wrong) and all(p in origins.moved for p in wrong)


def _like(origins: Origins, place: ShardPair) -> Iterator[ShardPair]:
    """Yield the places that a content may have been taken for: of its shape, and near to it."""
    for other in origins.firsts.values():
        if (
            other.home != place.home
            and other.expected.pieces
            and other.expected.shape == place.actual.shape
            and other.rule.dim == place.rule.dim
            and (other.layer, other.expert) == (place.layer, place.expert)
            and (other.name == place.name or other.share.rank == place.share.rank)
        ):
            yield other


def _as_if(place: ShardPair, origin: ShardPair) -> ShardPair:
    return replace(place, expected=replace(origin.expected, dtype=place.actual.dtype))


def _is_nearer(found: Residual, own: Residual, place: ShardPair) -> bool:
    """Ask whether one relation explains a content, or at least its direction does."""
    if len(place.actual.shape) < 2:
        return found.offset is not None or found.scale is not None
    is_like = found.closeness[0] or abs(found.cosine) > LIKE
    return is_like and abs(found.cosine) > max(NEARER + abs(own.cosine), 0.5)


# ── rows as a mistake has them ───────────────────────────────────────────────────────────────


def _find_transposed(origins: Origins, group: list[ShardPair]) -> bool:
    """Look for the transpose of a square matrix."""
    names = group[0].share.hf
    shapes = {origins.grid.a.tensors[name].shape for name in names}
    if group[0].rule.of_vocabulary or any(len(s) != 2 or s[0] != s[1] for s in shapes):
        return False
    tensors = {name: transpose(origins.grid.a.tensors[name]) for name in names}
    made = {
        p: replace(recipe_of(p.share, tensors), dtype=p.actual.dtype)
        for p in group
        if p in origins.left
    }
    found = origins.measured([replace(p, expected=recipe) for p, recipe in made.items()])
    if not all(_is_nearer(r, origins.residual[p], p) for p, r in zip(made, found, strict=True)):
        return False
    origins.transposed.update(names)
    _settle(origins, made, found)
    return True


def _find_mistake(origins: Origins, group: list[ShardPair]) -> None:
    """Look for the mistake that puts rows where the nearest ones of the reference lie."""
    rule = group[0].rule
    if rule.dim is None or rule.partition is None or rule.of_vocabulary:
        return
    if len(group[0].actual.shape) < 2:
        return
    for home in origins.homes():
        homes = [home(p) for p in group]
        pairs = [(p, q) for p, q in zip(group, homes, strict=True) if q is not None]
        if len(pairs) < len(group):
            continue
        held = _nearest(origins, pairs)
        own = _agreeing([_rows(q.share.pieces, rule.dim) for _, q in pairs], held)
        if len(held) < 4 or own >= SURE * len(held):
            continue
        for find in (mistakes, pairs_of_mistakes):
            right = [
                m for m in find(rule, origins.grid.config, origins.grid.size(rule))
                if m.boxes is None and _gives(origins, pairs, m, held)
            ]  # fmt: skip
            if right and _accept(origins, pairs, right):
                return


def _gives(
    origins: Origins, pairs: Pairs, mistake: Mistake, held: dict[tuple[int, int], Row]
) -> bool:
    tables = [
        _rows(list(pieces_by(mistake, q, origins.grid)), mistake.rule.dim or 0) for p, q in pairs
    ]
    return _agreeing(tables, held) >= SURE * len(held)


def _agreeing(tables: list[dict[int, Row]], held: dict[tuple[int, int], Row]) -> int:
    return sum(tables[rank].get(at) == row for (rank, at), row in held.items())


def _rows(pieces: Iterable[tuple[str | None, Box, Box]], dim: int) -> dict[int, Row]:
    """Return which row (or column) of which tensor each one of a shard is."""
    return {
        box[dim][0] + step: (source, of[dim][0] + step)
        for source, of, box in pieces
        if source is not None
        for step in range(box[dim][1] - box[dim][0])
    }


def _nearest(origins: Origins, pairs: Pairs) -> dict[tuple[int, int], Row]:
    """Return of some rows (or columns) of each rank's shard which one of A they are like."""
    rule = pairs[0][0].rule
    names = pairs[0][1].share.hf
    across = rule.dim == 1
    tensors = [origins.grid.a.tensors[n] for n in names]
    pool = [transpose(t) if across != rule.transposed else t for t in tensors]
    starts = [sum(t.shape[0] for t in pool[:i]) for i in range(len(pool))]
    held: dict[tuple[int, int], Row] = {}
    for rank, (place, _) in enumerate(pairs):
        if place not in origins.left:
            continue
        content = transpose(place.actual) if across else place.actual
        rows = list(range(content.shape[0])) if across else origins.wrong[place]
        step = max(1, len(rows) * len(pairs) // MOST_ROWS)
        rows = rows[::step]
        for row, at in zip(
            rows, origins.ask.nearest(pool, chosen_rows(content, rows)), strict=True
        ):
            if at >= 0:
                which = max(i for i, start in enumerate(starts) if start <= at)
                held[rank, row] = names[which], at - starts[which]
    return held


def _accept(origins: Origins, pairs: Pairs, right: list[Mistake]) -> bool:
    """Take what a mistake gives for what was to be expected, where that is nearer."""
    made = {p: recipe_by(right[0], p, q, origins.grid) for p, q in pairs}
    recipes = {p: recipe for p, recipe in made.items() if recipe is not None}
    if len(recipes) < len(pairs):
        return False
    wrong = {p: recipe for p, recipe in recipes.items() if p in origins.left}
    found = origins.measured([replace(p, expected=recipe) for p, recipe in wrong.items()])
    if any(
        r.scale != 1 and abs(r.cosine) <= abs(origins.residual[p].cosine)
        for p, r in zip(wrong, found, strict=True)
    ):
        return False
    words = tuple(dict.fromkeys(m.words for m in right[1:]))
    for place, origin in pairs:
        origins.mistaken[place] = right[0], words
        if place is not origin and place in origins.wrong:
            origins.moved[place] = origin
    _settle(origins, wrong, found)
    return True


def _settle(origins: Origins, made: dict[ShardPair, Assembly], found: list[Residual]) -> None:
    """Keep what places are like now; what is just that is explained by it alone."""
    alike = origins.ask.alike([(recipe, p.actual) for p, recipe in made.items()])
    for (place, recipe), residual, same in zip(made.items(), found, alike, strict=True):
        if same:
            origins.left.remove(place)
        else:
            origins.instead[place] = recipe
            origins.residual[place] = residual
