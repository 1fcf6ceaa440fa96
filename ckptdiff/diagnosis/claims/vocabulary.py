"""Claims of the vocabulary: rows that moved or are lost, tied heads that are no copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import is_head
from ckptdiff.diagnosis.claims.values import stale_ranks
from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.thresholds import (
    MAX_UNSHIFTED_ROWS,
    MAX_VOCABULARY_LOOKUP_ROWS,
    MIN_DISPLACED_ROWS,
    MIN_KNOWN_ROWS,
    MIN_ONE_STEP_ROWS,
    MIN_TRUNCATED_ROWS,
    MIN_VERSION_COSINE,
)
from ckptdiff.resharding.shard_pairs import chosen_rows, with_padding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair


def tied(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of tied heads that are stored and are no copy of the embedding."""
    versions = [p for p in unexplained if origins.residual[p].cosine > MIN_VERSION_COSINE]
    stale = stale_ranks(origins, versions)
    for pair in unexplained:
        stored = pair.actual.pieces[0].ref.name
        if (
            pair.is_copy
            and pair.rule.role == "embedding"
            and is_head(stored)
            and pair not in origins.moved
            and not (pair in versions and pair.rank in stale)
        ):
            yield Claim("TIED", "copy", (pair,), "the head is no copy of the embedding",
                        "tied weights were saved from another moment", is_lost=True)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _HeldRows:
    """For each row of a vocabulary of B, the row that it is of one vocabulary of A."""

    source: str  # the tensor of A
    tokens: list[int]  # -1: no row of the source, -2: a row that occurs twice in it
    padding: list[int] = field(default_factory=list)  # likewise, of the rows behind the last token
    is_exchanged_back: bool = False  # read with an exchange of ranks undone


def vocabulary_claims(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of vocabularies whose rows moved (shift, padding between ranks) or are lost."""
    by_tensor: dict[str, list[ShardPair]] = defaultdict(list)
    for pair in unexplained:
        is_version = abs(origins.residual[pair].cosine) > MIN_VERSION_COSINE
        if pair.rule.of_vocabulary and not pair.is_copy and not is_version:
            by_tensor[pair.hf_names[0]].append(pair)
    ranks = origins.rank_map()
    repeated = set() if set(ranks) == set(ranks.values()) else set(ranks)
    for name, found in by_tensor.items():
        rows = _held_rows(origins, name, found)
        if rows is None:
            yield from _changed_shift(origins, name, found)
            continue
        _note_origins(origins, found, rows)
        # Rows of other ranks are right, explained otherwise, or copies of another rank's shard.
        searched = {
            row for p in found if p.tp_rank not in repeated for source, of, _ in p.rank_slice.pieces
            if source is not None for row in range(*of[0])
        }  # fmt: skip
        own = [m if i in searched else i for i, m in enumerate(rows.tokens)]
        # A row that occurs several times was used to fill a gap.
        occurrences = Counter(m for i, m in enumerate(own) if i in searched)
        fillers = {row for row, count in occurrences.items() if count > 1}
        right = sum(m == i for i, m in enumerate(own))
        displaced = {
            i: m - i for i, m in enumerate(own) if m not in (i, -1, -2) and m not in fillers
        }
        lost = [i for i, m in enumerate(own) if m != i and i not in displaced]
        if len(displaced) > MIN_DISPLACED_ROWS * (len(own) - right):
            claim = _displaced_claim(tuple(found), own, rows.padding, displaced)
            yield replace(claim, rows=(), is_lost=True) if rows.is_exchanged_back else claim
        elif (
            lost and lost[-1] == len(own) - 1
            and len(lost) >= MIN_TRUNCATED_ROWS * (len(own) - lost[0])
            and right >= MIN_KNOWN_ROWS * lost[0]
            and (rows.source != name or any(origins.wrong_fraction[p] < 1 for p in found))
        ):  # fmt: skip
            yield Claim(
                "VOCAB-TRUNC", str(lost[0]), tuple(found),
                f"rows {lost[0]} to {len(own) - 1} of the vocabulary do not hold what A has",
                "the vocabulary was cut off and filled up again", is_lost=True,
            )  # fmt: skip


def _sources(origins: Origins, name: str) -> list[str]:
    """Return the vocabularies of A with this shape: the tensor's own, then embedding or head."""
    shape = origins.grid.a.tensors[name].shape
    others = [p.hf_names[0] for p in origins.firsts.values() if p.rule.of_vocabulary]
    return [n for n in dict.fromkeys((name, *others)) if origins.grid.a.tensors[n].shape == shape]


def _held_rows(origins: Origins, name: str, found: list[ShardPair]) -> _HeldRows | None:
    """Return which rows of which vocabulary of A a tensor of B holds; None if of none."""
    whole = with_padding(origins.grid.b.tensors[name])
    for source in _sources(origins, name):
        one = origins.grid.a.tensors[source]
        match = origins.ask.match_rows(one, whole)
        exchanged_back = _exchanged_back(origins, found, match)
        is_exchanged = _rows_with_common_step(exchanged_back) > _rows_with_common_step(match)
        match = exchanged_back if is_exchanged else match
        own = match[: one.shape[0]]
        known = sum(row >= 0 for row in own)
        if known > MIN_KNOWN_ROWS * len(own) or any(origins.wrong_fraction[p] < 1 for p in found):
            return _HeldRows(source, own, match[one.shape[0] :], is_exchanged)
    return None


def _rows_with_common_step(match: list[int]) -> int:
    """Return how many rows are off by the most common step, 0 included."""
    steps = Counter(row - at for at, row in enumerate(match) if row >= 0)
    return max(steps.values(), default=0)


def _exchanged_back(origins: Origins, found: list[ShardPair], match: list[int]) -> list[int]:
    """Return the rows with the exchange of ranks undone that other tensors show, if any."""
    ranks = origins.rank_map()
    size = found[0].stored.shape[0] if found[0].stored else 0
    shards = [match[at : at + size] for at in range(0, len(match), max(1, size))]
    held = {ranks.get(rank, rank): shard for rank, shard in enumerate(shards)}
    if not ranks or sorted(held) != list(range(len(shards))):
        return match
    return [row for rank in range(len(shards)) for row in held[rank]]


def _note_origins(origins: Origins, found: list[ShardPair], rows: _HeldRows) -> None:
    """Note as moved the pairs that hold rows of the other vocabulary, or of another rank."""
    ranks = origins.rank_map()
    if set(ranks) == set(ranks.values()) and not rows.is_exchanged_back:
        ranks = {}
    by_rank = {p.tp_rank: p for p in origins.firsts.values() if p.hf_names[0] == rows.source}
    for pair in found:
        origin = by_rank[ranks.get(pair.tp_rank, pair.tp_rank)]
        if origin.home != pair.home:
            origins.moved[pair] = origin


def _changed_shift(origins: Origins, name: str, found: list[ShardPair]) -> Iterator[Claim]:
    """Yield the claim of a vocabulary that was shifted and has changed values."""
    held = origins.grid.b.tensors[name]
    count = MAX_VOCABULARY_LOOKUP_ROWS
    rows = [i * held.shape[0] // count for i in range(min(count, held.shape[0]))]
    for source in _sources(origins, name):
        one = origins.grid.a.tensors[source]
        nearest = origins.ask.nearest_rows([one], chosen_rows(held, rows))
        steps = Counter(at - row for row, at in zip(rows, nearest, strict=True) if at >= 0)
        step, most = max(steps.items(), key=lambda counted: counted[1], default=(0, 0))
        if most < MIN_ONE_STEP_ROWS * len(rows) or (step == 0 and source == name):
            continue
        _note_origins(origins, found, _HeldRows(source, []))
        inside = [row for row in rows if 0 <= row + step < one.shape[0]]
        contents = chosen_rows(one, [row + step for row in inside]), chosen_rows(held, inside)
        (residual,) = origins.ask.residuals([(*contents, held.dtype)])
        for pair in found:
            origins.residual[pair] = residual
            origins.predicted[pair] = pair.expected
        if step:
            yield _shift_claim(tuple(found), step, [])
        return


def _displaced_claim(
    found: tuple[ShardPair, ...], own: list[int], padding: list[int], displaced: dict[int, int]
) -> Claim:
    """Return the claim of displaced rows: a shift, or padding between the ranks' rows."""
    step, most = Counter(displaced.values()).most_common(1)[0]
    first = next(i for i, m in enumerate(own) if i in displaced)
    position: dict[int, int] = {}
    for at, row in enumerate((*own, *padding)):
        if row >= 0:
            position.setdefault(row, at)
    rows = [position[row] for row in range(len(own)) if row in position]
    whole = rows if len(rows) == len(own) else []
    if most >= MIN_ONE_STEP_ROWS * len(displaced) and first <= MAX_UNSHIFTED_ROWS * len(own):
        return _shift_claim(found, step, whole)
    return Claim(
        "VOCAB-PAD", "", found, "padding lies between rows of the vocabulary",
        "the vocabulary was padded rank by rank, not as a whole", is_lost=not whole, rows=whole,
    )  # fmt: skip


def _shift_claim(found: tuple[ShardPair, ...], step: int, rows: list[int]) -> Claim:
    """Return the claim of a shift; without `rows` it cannot be undone."""
    return Claim(
        "VOCAB-SHIFT", str(step), found,
        f"rows of the vocabulary lie {abs(step)} {'later' if step < 0 else 'earlier'} than "
        "they should", "a token too many, or too few, was counted before the first row",
        is_lost=not rows, rows=rows,
    )  # fmt: skip
