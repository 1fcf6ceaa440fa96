"""Claims of the vocabulary: rows that lie elsewhere or are gone, heads that are no copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import is_head
from ckptdiff.diagnosis.claims.values import stale_ranks
from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.origins import NEAR
from ckptdiff.resharding.shard_pairs import chosen_rows, with_padding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair

FEW = 0.1  # part of the vocabulary that a shift may leave in place at its beginning
FOUND = 0.3  # part of the rows by which a tensor is known
SOME_ROWS = 64  # that are looked for where none is just what it was
ALIKE = 0.8  # part of the displaced rows that are so by one number


def tied(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """A head that is to be a copy of the embedding, and is not."""
    near = [p for p in left if origins.residual[p].cosine > NEAR]
    stale = stale_ranks(origins, near)
    for place in left:
        stored = place.actual.pieces[0].ref.name
        if (
            place.is_copy
            and place.rule.role == "embedding"
            and is_head(stored)
            and place not in origins.moved
            and not (place in near and place.rank in stale)
        ):
            yield Claim("TIED", "copy", (place,), "the head is no copy of the embedding",
                        "tied weights were saved from another moment", is_lost=True)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the rows of a vocabulary are: rows of a tensor of A's, its own or the other one."""

    source: str
    own: list[int]  # -1: none of them
    padding: list[int] = field(default_factory=list)  # of the rows behind the last
    is_exchanged: bool = False  # as they were before ranks were exchanged


def vocabulary_claims(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """Rows of the vocabulary that lie elsewhere, or are gone."""
    by_tensor: dict[str, list[ShardPair]] = defaultdict(list)
    for place in left:
        near = abs(origins.residual[place].cosine) > NEAR
        if place.rule.of_vocabulary and not place.is_copy and not near:
            by_tensor[place.share.hf[0]].append(place)
    ranks = origins.rank_map()
    repeated = set() if set(ranks) == set(ranks.values()) else set(ranks)
    for name, found in by_tensor.items():
        rows = _held_rows(origins, name, found)
        if rows is None:
            yield from _shifted_nearly(origins, name, found)
            continue
        _move(origins, found, rows)
        # Rows of other places are near what they should be, or right, or those of another rank.
        spoken = {
            row for p in found if p.share.rank not in repeated for source, of, _ in p.share.pieces
            if source is not None for row in range(*of[0])
        }  # fmt: skip
        own = [m if i in spoken else i for i, m in enumerate(rows.own)]
        # A row that many others repeat is what a gap was filled with.
        told = Counter(m for i, m in enumerate(own) if i in spoken)
        filled = {row for row, times in told.items() if times > 1}
        right = sum(m == i for i, m in enumerate(own))
        displaced = {
            i: m - i for i, m in enumerate(own) if m not in (i, -1, -2) and m not in filled
        }
        gone = [i for i, m in enumerate(own) if m != i and i not in displaced]
        if len(displaced) > 0.3 * (len(own) - right):
            claim = _displaced(tuple(found), own, rows.padding, displaced)
            yield replace(claim, rows=(), is_lost=True) if rows.is_exchanged else claim
        elif (
            gone and gone[-1] == len(own) - 1 and len(gone) >= 0.9 * (len(own) - gone[0])
            and right >= FOUND * gone[0]
            and (rows.source != name or any(origins.share_wrong[p] < 1 for p in found))
        ):  # fmt: skip
            yield Claim(
                "VOCAB-TRUNC", str(gone[0]), tuple(found),
                f"rows {gone[0]} to {len(own) - 1} of the vocabulary do not hold what A has",
                "the vocabulary was cut off and filled up again", is_lost=True,
            )  # fmt: skip


def _sources(origins: Origins, name: str) -> list[str]:
    """Return the tensors of A whose rows a vocabulary may hold: its own, then the other one."""
    shape = origins.grid.a.tensors[name].shape
    others = [p.share.hf[0] for p in origins.firsts.values() if p.rule.of_vocabulary]
    return [n for n in dict.fromkeys((name, *others)) if origins.grid.a.tensors[n].shape == shape]


def _held_rows(origins: Origins, name: str, found: list[ShardPair]) -> _Rows | None:
    """Return which rows of which tensor a vocabulary holds; None where they are of neither."""
    whole = with_padding(origins.grid.b.tensors[name])
    for source in _sources(origins, name):
        one = origins.grid.a.tensors[source]
        match = origins.ask.match(one, whole)
        before = _exchanged_back(origins, found, match)
        is_exchanged = _most_by_one_step(before) > _most_by_one_step(match)
        match = before if is_exchanged else match
        own = match[: one.shape[0]]
        known = sum(row >= 0 for row in own)
        if known > FOUND * len(own) or any(origins.share_wrong[p] < 1 for p in found):
            return _Rows(source, own, match[one.shape[0] :], is_exchanged)
    return None


def _most_by_one_step(match: list[int]) -> int:
    """Return how many rows lie off their places by one number."""
    steps = Counter(row - at for at, row in enumerate(match) if row >= 0)
    return max(steps.values(), default=0)


def _exchanged_back(origins: Origins, found: list[ShardPair], match: list[int]) -> list[int]:
    """Return the rows as they were before ranks were exchanged, where others' shards show that."""
    ranks = origins.rank_map()
    size = found[0].stored.shape[0] if found[0].stored else 0
    shards = [match[at : at + size] for at in range(0, len(match), max(1, size))]
    held = {ranks.get(rank, rank): shard for rank, shard in enumerate(shards)}
    if not ranks or sorted(held) != list(range(len(shards))):
        return match
    return [row for rank in range(len(shards)) for row in held[rank]]


def _move(origins: Origins, found: list[ShardPair], rows: _Rows) -> None:
    """Keep in mind that places hold what belongs to the other tensor, or to another rank."""
    ranks = origins.rank_map()
    if set(ranks) == set(ranks.values()) and not rows.is_exchanged:
        ranks = {}
    by_rank = {p.share.rank: p for p in origins.firsts.values() if p.share.hf[0] == rows.source}
    for place in found:
        origin = by_rank[ranks.get(place.share.rank, place.share.rank)]
        if origin.home != place.home:
            origins.moved[place] = origin


def _shifted_nearly(origins: Origins, name: str, found: list[ShardPair]) -> Iterator[Claim]:
    """Rows that lie elsewhere and have other values as well."""
    held = origins.grid.b.tensors[name]
    rows = [i * held.shape[0] // SOME_ROWS for i in range(min(SOME_ROWS, held.shape[0]))]
    for source in _sources(origins, name):
        one = origins.grid.a.tensors[source]
        near = origins.ask.nearest([one], chosen_rows(held, rows))
        steps = Counter(at - row for row, at in zip(rows, near, strict=True) if at >= 0)
        step, most = max(steps.items(), key=lambda pair: pair[1], default=(0, 0))
        if most < ALIKE * len(rows) or (step == 0 and source == name):
            continue
        _move(origins, found, _Rows(source, []))
        inside = [row for row in rows if 0 <= row + step < one.shape[0]]
        pair = chosen_rows(one, [row + step for row in inside]), chosen_rows(held, inside)
        (residual,) = origins.ask.residuals([(*pair, held.dtype)])
        for place in found:
            origins.residual[place] = residual
            origins.instead[place] = place.expected
        if step:
            yield _shift(tuple(found), step, [])
        return


def _displaced(
    found: tuple[ShardPair, ...], own: list[int], padding: list[int], displaced: dict[int, int]
) -> Claim:
    step, most = Counter(displaced.values()).most_common(1)[0]
    before = next(i for i, m in enumerate(own) if i in displaced)
    held: dict[int, int] = {}
    for at, row in enumerate((*own, *padding)):
        if row >= 0:
            held.setdefault(row, at)
    rows = [held[row] for row in range(len(own)) if row in held]
    whole = rows if len(rows) == len(own) else []
    if most >= ALIKE * len(displaced) and before <= FEW * len(own):
        return _shift(found, step, whole)
    return Claim(
        "VOCAB-PAD", "", found, "padding lies between rows of the vocabulary",
        "the vocabulary was padded rank by rank, not as a whole", is_lost=not whole, rows=whole,
    )  # fmt: skip


def _shift(found: tuple[ShardPair, ...], step: int, rows: list[int]) -> Claim:
    return Claim(
        "VOCAB-SHIFT", str(step), found,
        f"rows of the vocabulary lie {abs(step)} {'later' if step < 0 else 'earlier'} than "
        "they should", "a token was counted, or not, before the first row",
        is_lost=not rows, rows=rows,
    )  # fmt: skip
