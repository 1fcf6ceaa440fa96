"""A claim of one place by one fault, and the finding that claims of one kind make up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdiff.conversion.remap import Remap, by_template
from ckptdiff.diagnosis.displaced import displaced_numbers, displaced_rows, rejected
from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.resharding.shard_pairs import ShardPair
    from ckptdiff.results import Displaced


@dataclass(frozen=True, slots=True)
class Claim:
    """One fault says of some places that it made them what they are."""

    kind: FaultClass
    key: str  # claims of one kind and key are one fault
    places: tuple[ShardPair, ...]
    words: str
    cause: str
    others: tuple[str, ...] = ()  # that would have left the same bytes
    is_info: bool = False
    at_home: bool = False  # it is of a content, wherever an exchange has put that
    is_lost: bool = False  # no re-mapping brings it back
    ranks: Mapping[int, int] = field(default_factory=dict)  # what each place holds instead
    layers: Mapping[int, int] = field(default_factory=dict)
    experts: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[int] = ()  # where each row of the tensor lies
    mistake: Mistake | None = None


def finding_of(claims: Sequence[Claim], origins: Origins) -> Finding:
    """Return the one finding of claims that have a kind and a key in common."""
    first = claims[0]
    places = origins.together(place for claim in claims for place in claim.places)
    # What one fault explains is told as it is when the others have been undone.
    homes = [_home(p, origins) if first.at_home else p for p in places]
    names = {n for p in homes for n in p.share.hf}
    tensors = sorted(names - origins.same) or sorted(names)
    others = tuple(dict.fromkeys(o for claim in claims for o in claim.others))
    sharded = origins.grid.is_sharded
    layers = {p.layer for p in homes if p.layer is not None}
    part = sum(origins.share_wrong.get(p, 1.0) for p in places) / len(places)
    evidence = f"{first.words}; {len(places)} shards, {part:.0%} of their rows differ"
    near = [origins.residual[p].cosine for p in places if p in origins.residual]
    if near:
        evidence += f", cosine {min(near):.3f} to {max(near):.3f}"
    undo = None if first.is_lost else _remap(first, claims)
    tried = first.mistake
    return Finding(
        first.kind,
        "info" if all(claim.is_info for claim in claims) else "fault",
        first.words,
        tensors=tuple(tensors),
        layers=tuple(sorted(layers)),
        experts=tuple(sorted({p.expert for p in homes if p.expert is not None})),
        ranks=tuple(sorted({p.rank for p in places})) if sharded else (),
        evidence=evidence,
        confidence=1.0 if first.kind != "STALE" else 0.8,
        cause_confidence=1 / (1 + len(others)),
        also_explained_by=(first.cause, *others) if others else (),
        undo=undo,
        cause=first.cause,
        rejected=() if tried is None else rejected(first.places[0], tried, origins.grid),
        displaced=_displaced(first, origins),
    )


def _displaced(claim: Claim, origins: Origins) -> Displaced | None:
    """Return what a claim says of places and contents, for a picture."""
    if claim.mistake is not None:
        return displaced_rows(claim.places[0], claim.mistake, origins.grid)
    return (
        displaced_numbers("rank", claim.ranks)
        or displaced_numbers("layer", claim.layers)
        or displaced_numbers("expert", claim.experts)
    )


def _home(place: ShardPair, origins: Origins) -> ShardPair:
    return origins.moved.get(origins.firsts[place.home], place)


def _remap(first: Claim, claims: Sequence[Claim]) -> Remap | None:
    """Return what undoes the fault; None where nothing was moved."""
    found = Remap(
        first.kind,
        by_template(p.name for claim in claims for p in claim.places),
        written=None if first.mistake is None else first.mistake.key,
        ranks=tuple(sorted(first.ranks.items())),
        layers=tuple(sorted(first.layers.items())),
        experts=tuple(sorted(first.experts.items())),
        names=tuple({k: v for claim in claims for k, v in claim.names.items()}.items()),
        rows=_runs(first.rows),
        transposed=first.kind == "TRANSPOSE",
    )
    return found if found != Remap(first.kind, found.tensors) else None


def _runs(rows: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return rows as runs: how many, and where the first of them lies."""
    found: list[list[int]] = []
    for row in rows:
        if found and sum(found[-1]) == row:
            found[-1][0] += 1
        else:
            found.append([1, row])
    return tuple((count, at) for count, at in found)
