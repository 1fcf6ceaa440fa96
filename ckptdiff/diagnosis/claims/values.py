"""Claims of content that is in its place and has other values."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.origins import NEAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.checkpoint import Rank
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardPair

MOST = 0.6  # part of a rank's, or the whole model's, places that makes a fault one of all of it
SLIGHT = 0.3  # relative change below which a model may have been trained on
MANY = 3  # different factors that are no longer each a fault of its own
BLOCK_CAUSE = "block factors of quantised weights were not applied, or wrongly"


def value_claims(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """Yield what the values of each place tell of it."""
    right = {p.home for p in origins.places if p.actual.pieces and p not in origins.wrong}
    noisy, slight, scaled = [], [], []
    blocks = {p.name for p in left if origins.residual[p].block}
    for place in left:
        residual = origins.residual[place]
        claim = _value_claim(place, residual)
        # One replica is as it should be: whatever happened to the other, they have drifted.
        if claim is None or (residual.cosine > NEAR and place.home in right):
            noisy.append(place)
        elif claim.kind == "SCALE" and place.name in blocks:
            yield replace(claim, kind="BLOCK-SCALE", key="", cause=BLOCK_CAUSE)
        elif claim.kind in ("LOW-RANK", "SCALE") and residual.relative < SLIGHT:
            slight.append(claim)
        elif claim.kind in ("BIAS-SCALE", "SCALE"):
            scaled.append(claim)
        else:
            yield claim
    # Where a tensor is cut finely, some shards have too few rows to show the rank of a change.
    low = {p.name: claim for claim in slight if claim.kind == "LOW-RANK" for p in claim.places}
    slight += [replace(low[p.name], places=(p,)) for p in noisy if p.name in low]
    noisy = [p for p in noisy if p.name not in low]
    # Where nearly everything changed a little, what changed a little looks so by chance.
    chance = [place for claim in slight for place in claim.places]
    if _is_most(origins, [*noisy, *chance]) and len(noisy) > len(chance):
        noisy += chance
    else:
        scaled += [claim for claim in slight if claim.kind == "SCALE"]
        yield from (claim for claim in slight if claim.kind != "SCALE")
    yield from _scales(origins, scaled)
    yield from _noise(origins, noisy)


def _scales(origins: Origins, found: list[Claim]) -> Iterator[Claim]:
    """Yield claims of factors: near ones are one fault, and many different ones are of blocks."""
    keyed = []
    factors: dict[str, list[float]] = defaultdict(list)  # by class, ascending
    for claim in sorted(found, key=lambda claim: origins.residual[claim.places[0]].scale or 0.0):
        factor, known = origins.residual[claim.places[0]].scale or 0.0, factors[claim.kind]
        if not known or abs(factor - known[-1]) > 0.02 * abs(factor):
            known.append(factor)
        keyed.append(replace(claim, key=f"factor {len(known)}"))
    for claim in keyed:
        if claim.kind == "SCALE" and len(factors["SCALE"]) >= MANY:
            words = "one factor in each tensor"
            claim = replace(claim, kind="BLOCK-SCALE", key="", words=words, cause=BLOCK_CAUSE)
        yield claim


def _is_most(origins: Origins, found: list[ShardPair]) -> bool:
    """Ask whether these are most of what every rank holds."""
    wrong = set(origins.together(found))
    held: dict[Rank, list[bool]] = defaultdict(list)
    for place in origins.places:
        if place.actual.pieces:
            held[place.rank].append(place in wrong)
    return len(wrong) > 1 and all(sum(x) >= MOST * len(x) for x in held.values())


def _value_claim(place: ShardPair, r: Residual) -> Claim | None:
    one = (place,)
    role, is_bias = place.rule.role, place.rule.is_bias
    is_norm = role == "norm" and len(place.actual.shape) == 1
    if r.constant is not None:
        words = f"all elements are {r.constant:g}"
        if is_bias and role == "qkv":
            return Claim("QKV-BIAS", words, one, words, "the bias was never written", is_lost=True)
        return Claim("NOT-LOADED", words, one, words, "it was never loaded", is_lost=True)
    if r.cast is not None or (r.lost and (r.cosine > NEAR or not r.spread)):
        words = (
            f"the values went through {r.cast}" if r.cast else "values are not finite here alone"
        )
        return Claim("DTYPE", f"{r.cast} {bool(r.lost)}", one, words, "a cast on the way",
                     is_info=not r.lost, is_lost=True)  # fmt: skip
    if r.offset is not None and is_norm:
        sign = "-1" if r.offset < 0 else "+1"
        words = f"{r.offset:+.3g} is added to every element"
        return Claim("GAMMA-OFFSET", sign, one, words,
                     "norms centred on zero were taken for plain ones, or the reverse")  # fmt: skip
    if r.scale is not None and r.scale != 1:
        words = f"every element is {r.scale:.4g} times what it should be"
        if is_bias and role in ("proj", "fc2"):
            return Claim("BIAS-SCALE", f"{r.scale:.2g}", one, words,
                         "the bias of a row-parallel layer was summed over the ranks")  # fmt: skip
        return Claim("SCALE", f"{r.scale:.2g}", one, words, "a factor was applied, or not")
    if r.block:
        return Claim("BLOCK-SCALE", "", one, f"one factor in each block of {r.block}",
                     BLOCK_CAUSE)  # fmt: skip
    if r.rank and abs(r.cosine) > NEAR:
        return Claim("LOW-RANK", "", one, f"the difference has rank {r.rank}",
                     "an adapter was merged, or merged twice")  # fmt: skip
    if abs(r.cosine) <= NEAR:
        return Claim("NOT-LOADED", "random", one, f"nothing of the expected content (cosine "
                     f"{r.cosine:.2f}, standard deviation {r.spread:.2g})",
                     "it kept the values that it was initialised with", is_lost=True)  # fmt: skip
    return None


def stale_ranks(origins: Origins, noisy: list[ShardPair]) -> set[Rank]:
    """Return the ranks most of whose contents are versions of the right ones: held, or owned."""
    wrong = set(origins.together(noisy))
    found: set[Rank] = set()
    for rank_of in (lambda place: place.rank, lambda place: _belongs_to(origins, place)):
        by_rank = defaultdict(list)
        for place in origins.places:
            if place.actual.pieces:
                by_rank[rank_of(place)].append(place in wrong)
        if origins.grid.is_sharded and len(by_rank) > 1:
            found |= {rank for rank, held in by_rank.items() if sum(held) >= MOST * len(held)}
    return found


def _belongs_to(origins: Origins, place: ShardPair) -> Rank:
    """Return the rank whose content a place holds, where layers of other stages lie there."""
    origin = origins.moved.get(origins.firsts[place.home])
    return place.rank if origin is None else replace(place.rank, pp=origin.rank.pp)


def _noise(origins: Origins, noisy: list[ShardPair]) -> Iterator[Claim]:
    """Versions of the right content: another save of the model, or replicas that drifted."""
    if _is_most(origins, noisy):
        for place in noisy:
            yield Claim(
                "STALE", "all", (place,), "nearly all tensors are near A's, none is the same",
                "another save of the model: it was trained on", is_info=True, is_lost=True,
            )  # fmt: skip
        return
    stale = stale_ranks(origins, noisy)
    alike = defaultdict(list)
    for place in origins.places:
        alike[place.name, place.share.rank].append(place)
    for place in noisy:
        twins = alike[place.name, place.share.rank]
        if place.rank in stale or _belongs_to(origins, place) in stale:
            yield Claim("STALE", "rank", (place,), "every tensor of the rank is near the right one",
                        "the file is of another save", is_lost=True)  # fmt: skip
        elif any(twin not in origins.wrong for twin in twins) or (
            place.is_copy and place in origins.instead
        ):
            yield Claim(
                "REPLICA", "", (place,), "replicas of one tensor differ between ranks",
                "replicated weights were updated apart from each other", is_lost=True,
            )  # fmt: skip
        else:
            yield Claim(
                "STALE", "tensors", (place,), "near the right content, but not the same",
                "it is of another save, or was changed afterwards", is_lost=True,
            )  # fmt: skip
