"""A claim that one fault explains some shards, and the finding made of equal claims."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptdiff.conversion.remap import Remap, by_template
from ckptdiff.diagnosis.displaced import displaced_numbers, displaced_rows, rejected_classes
from ckptdiff.diagnosis.thresholds import STALE_CONFIDENCE
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
    """One fault explains what some shards hold. Claims of one kind and key make one finding."""

    kind: FaultClass
    key: str
    pairs: tuple[ShardPair, ...]
    words: str  # the title of the finding
    cause: str
    others: tuple[str, ...] = ()  # words of other mistakes that leave the same bytes
    is_info: bool = False  # no fault: the model's output is the same
    # The fault lies in the content: tensors and layers are those of its origin, if it was moved.
    is_about_content: bool = False
    is_lost: bool = False  # content is gone: no re-mapping brings it back
    # A TP rank, and the one whose content it holds; layers, experts, templates of names likewise.
    ranks: Mapping[int, int] = field(default_factory=dict)
    layers: Mapping[int, int] = field(default_factory=dict)
    experts: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[int] = ()  # for each row of the tensor, at which row it lies
    mistake: Mistake | None = None


def finding_of(claims: Sequence[Claim], origins: Origins) -> Finding:
    """Return the one finding of claims with the same kind and key."""
    first = claims[0]
    pairs = origins.with_replicas(pair for claim in claims for pair in claim.pairs)
    # Tensors and layers are reported as they are once other faults, such as a move, are undone.
    homes = [_origin(p, origins) if first.is_about_content else p for p in pairs]
    names = {n for p in homes for n in p.hf_names}
    tensors = sorted(names - origins.equal_names) or sorted(names)
    others = tuple(dict.fromkeys(o for claim in claims for o in claim.others))
    sharded = origins.grid.is_sharded
    layers = {p.layer for p in homes if p.layer is not None}
    fraction = sum(origins.wrong_fraction.get(p, 1.0) for p in pairs) / len(pairs)
    evidence = first.words
    if sharded:
        shards = f"{len(pairs)} shard{'' if len(pairs) == 1 else 's'}"
        evidence += (
            f"; {shards}, {fraction:.0%} of {'its' if len(pairs) == 1 else 'their'} rows differ"
        )
    residuals = [origins.residual[p] for p in pairs if p in origins.residual]
    cosines = [r.cosine for r in residuals if r.constant != 0]  # with zeros it is not defined
    if cosines:
        least, most = (f"{cosine:.3f}" for cosine in (min(cosines), max(cosines)))
        evidence += f"{',' if sharded else ';'} cosine {least}"
        evidence += f" to {most}" if most != least else ""
    undo = None if first.is_lost else _remap(first, claims)
    mistake = first.mistake
    return Finding(
        first.kind,
        "info" if all(claim.is_info for claim in claims) else "fault",
        first.words,
        tensors=tuple(tensors),
        layers=tuple(sorted(layers)),
        experts=tuple(sorted({p.expert for p in homes if p.expert is not None})),
        ranks=tuple(sorted({p.rank for p in pairs})) if sharded else (),
        evidence=evidence,
        confidence=1.0 if first.kind != "STALE" else STALE_CONFIDENCE,
        cause_confidence=1 / (1 + len(others)),
        also_explained_by=(first.cause, *others) if others else (),
        undo=undo,
        cause=first.cause,
        rejected=() if mistake is None else rejected_classes(first.pairs[0], mistake, origins.grid),
        displaced=_displaced(first, origins),
    )


def _displaced(claim: Claim, origins: Origins) -> Displaced | None:
    """Return the picture of the rows, ranks, layers or experts that moved; None if none did."""
    if claim.mistake is not None:
        return displaced_rows(claim.pairs[0], claim.mistake, origins.grid)
    return (
        displaced_numbers("rank", claim.ranks)
        or displaced_numbers("layer", claim.layers)
        or displaced_numbers("expert", claim.experts)
    )


def _origin(pair: ShardPair, origins: Origins) -> ShardPair:
    """Return the pair whose content this one holds: itself if it was not moved."""
    return origins.moved.get(origins.firsts[pair.home], pair)


def _remap(first: Claim, claims: Sequence[Claim]) -> Remap | None:
    """Return the re-mapping that undoes the fault; None if the claims moved nothing."""
    found = Remap(
        first.kind,
        by_template(p.name for claim in claims for p in claim.pairs),
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
    """Return rows as runs of (number of rows, first row)."""
    found: list[list[int]] = []
    for row in rows:
        if found and sum(found[-1]) == row:
            found[-1][0] += 1
        else:
            found.append([1, row])
    return tuple((count, at) for count, at in found)
