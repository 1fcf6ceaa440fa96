"""Claims of changed values: a factor, an offset, a cast, another save, never loaded."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.by_tensor import rank_words
from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.thresholds import (
    MAX_CHANCE,
    MAX_FACTOR_DIFFERENCE,
    MAX_TRAINED_CHANGE,
    MAX_UNLIKE_COSINE,
    MIN_BLOCK_FACTORS,
    MIN_TOUCHED_SHARDS,
    MIN_VERSION_COSINE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.checkpoint import Rank
    from ckptdiff.diagnosis.by_tensor import ByTensor
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardPair

# What is said of copies that differ: on several ranks, and under two names of one checkpoint.
_DRIFT = (
    "replicas of one tensor differ between ranks",
    "replicated weights were updated apart from each other",
)
_UNTIED = (
    "two names of one tensor hold different values",
    "one of the two was changed, or written, without the other",
)
BLOCK_CAUSE = "block factors of quantised weights were not applied, or wrongly"


def value_claims(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of unexplained pairs, by their residuals and those of the other pairs.

    None is made of a pair whose content is neither near the expected one nor without likeness to
    it: it differs, and nothing is known of the cause.
    """
    found = list(_value_claims(origins, unexplained))
    low_rank = [p for claim in found if claim.kind == "LOW-RANK" for p in claim.pairs]
    words = rank_words(origins.by_tensor[p] for p in low_rank if p in origins.by_tensor)
    for claim in found:
        is_low = claim.kind == "LOW-RANK"
        yield replace(claim, words=f"the difference has {words}") if is_low else claim


def _value_claims(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    right_homes = {p.home for p in origins.pairs if p.actual.pieces and p not in origins.wrong}
    noisy, slight, scaled = [], [], []
    blocks = {p.name for p in unexplained if origins.residual[p].block}
    for pair in unexplained:
        residual = origins.residual[pair]
        claim = _value_claim(pair, residual, origins.by_tensor.get(pair, {}))
        is_near = residual.cosine > MIN_VERSION_COSINE
        # If another replica is right, this one has drifted, whatever its values suggest.
        if pair.home in right_homes and (is_near or claim is None):
            noisy.append(pair)
        elif claim is None:
            noisy += [pair] if is_near else []
        elif claim.kind == "SCALE" and pair.name in blocks:
            yield replace(claim, kind="BLOCK-SCALE", key="", cause=BLOCK_CAUSE)
        elif claim.kind in ("LOW-RANK", "SCALE") and residual.relative < MAX_TRAINED_CHANGE:
            slight.append(claim)
        elif claim.kind in ("BIAS-SCALE", "SCALE"):
            scaled.append(claim)
        else:
            yield claim
    # Small shards have too few rows to show that a change has a low rank: the others' claim holds.
    low_rank = {p.name: claim for claim in slight if claim.kind == "LOW-RANK" for p in claim.pairs}
    slight += [replace(low_rank[p.name], pairs=(p,)) for p in noisy if p.name in low_rank]
    noisy = [p for p in noisy if p.name not in low_rank]
    # If nearly everything changed a little, a small factor or low rank is chance: it was training.
    by_chance = [pair for claim in slight for pair in claim.pairs]
    if _is_most(origins, [*noisy, *by_chance]) and len(noisy) > len(by_chance):
        noisy += by_chance
    else:
        scaled += [claim for claim in slight if claim.kind == "SCALE"]
        yield from (claim for claim in slight if claim.kind != "SCALE")
    yield from _factor_claims(origins, scaled)
    yield from _version_claims(origins, noisy)


def _factor_claims(origins: Origins, found: list[Claim]) -> Iterator[Claim]:
    """Yield claims of factors with keys: equal factors are one fault, many factors block scales."""
    keyed = []
    factors: dict[str, list[float]] = defaultdict(list)  # by class, ascending
    for claim in sorted(found, key=lambda claim: origins.residual[claim.pairs[0]].scale or 0.0):
        factor, known = origins.residual[claim.pairs[0]].scale or 0.0, factors[claim.kind]
        if not known or abs(factor - known[-1]) > MAX_FACTOR_DIFFERENCE * abs(factor):
            known.append(factor)
        keyed.append(replace(claim, key=f"factor {len(known)}"))
    for claim in keyed:
        if claim.kind == "SCALE" and len(factors["SCALE"]) >= MIN_BLOCK_FACTORS:
            words = "one factor in each tensor"
            claim = replace(claim, kind="BLOCK-SCALE", key="", words=words, cause=BLOCK_CAUSE)
        yield claim


def _is_most(origins: Origins, found: list[ShardPair]) -> bool:
    """Return whether these pairs, with their replicas, are most of what every rank holds."""
    wrong = set(origins.with_replicas(found))
    held: dict[Rank, list[bool]] = defaultdict(list)
    for pair in origins.pairs:
        if pair.actual.pieces:
            held[pair.rank].append(pair in wrong)
    return len(wrong) > 1 and all(sum(x) >= MIN_TOUCHED_SHARDS * len(x) for x in held.values())


def _value_claim(pair: ShardPair, r: Residual, by_tensor: ByTensor) -> Claim | None:
    """Return the claim that residuals alone support; None for content without any relation.

    `r` is that of the whole shard, `by_tensor` those of the Hugging Face tensors in it.
    """
    one = (pair,)
    role, is_bias = pair.rule.role, pair.rule.is_bias
    is_norm = role == "norm" and len(pair.actual.shape) == 1
    if r.constant is not None:
        words = f"all elements are {r.constant:g}"
        if is_bias and role == "qkv":
            return Claim("QKV-BIAS", words, one, words, "the bias was never written", is_lost=True)
        return Claim("NOT-LOADED", words, one, words, "it was never loaded", is_lost=True)
    if r.cast is not None or (r.lost and (r.cosine > MIN_VERSION_COSINE or not r.spread)):
        words = (
            f"the values went through {r.cast}" if r.cast else "values are not finite here alone"
        )
        return Claim("DTYPE", f"{r.cast} {bool(r.lost)}", one, words, "a cast on the way",
                     is_info=not r.lost, is_lost=True)  # fmt: skip
    if r.offset is not None and is_norm:
        sign = "-1" if r.offset < 0 else "+1"
        words = f"every element is {abs(r.offset):.3g} too {'large' if r.offset > 0 else 'small'}"
        cause = "zero-centred norms (layernorm_1p) were taken for plain ones, or the reverse"
        return Claim("GAMMA-OFFSET", sign, one, words, cause)
    if r.scale is not None and r.scale != 1:
        words = f"every element is {r.scale:.4g} times what it should be"
        if is_bias and role in ("proj", "fc2"):
            return Claim("BIAS-SCALE", f"{r.scale:.2g}", one, words,
                         "the bias of a row-parallel layer was summed over the ranks")  # fmt: skip
        return Claim("SCALE", f"{r.scale:.2g}", one, words, "a factor was applied, or not")
    if r.block:
        return Claim("BLOCK-SCALE", "", one, f"one factor in each block of {r.block}",
                     BLOCK_CAUSE)  # fmt: skip
    ranks = [part.rank for part in by_tensor.values()]
    if any(ranks) and 0 not in ranks:
        return Claim("LOW-RANK", "", one, "", "an adapter (LoRA) was merged on one side alone, "
                     "or twice")  # fmt: skip
    if math.isinf(r.relative):
        words = "all elements are 0 in A and not in B: it is A that lacks these values"
        return Claim("NOT-LOADED", "A is 0", one, words, "they were lost in A, or never written",
                     is_lost=True)  # fmt: skip
    by_chance = min(MIN_VERSION_COSINE, MAX_CHANCE / math.sqrt(max(1, r.count)))
    if abs(r.cosine) <= max(MAX_UNLIKE_COSINE, by_chance) and not any(ranks):
        return Claim("NOT-LOADED", "random", one,
                     f"nothing like A's content, but a standard deviation of {r.spread:.2g}",
                     "it kept the values that it was initialised with", is_lost=True)  # fmt: skip
    return None


def stale_ranks(origins: Origins, noisy: list[ShardPair]) -> set[Rank]:
    """Return the ranks whose content is mostly a version of the right one, whole files that is.

    By the rank whose file holds it, and by the rank that it belongs to.
    """
    wrong = set(origins.with_replicas(noisy))
    found: set[Rank] = set()
    for rank_of in (lambda pair: pair.rank, lambda pair: _rank_of_origin(origins, pair)):
        by_rank = defaultdict(list)
        for pair in origins.pairs:
            if pair.actual.pieces:
                by_rank[rank_of(pair)].append(pair in wrong)
        if origins.grid.is_sharded and len(by_rank) > 1:
            found |= {
                rank
                for rank, held in by_rank.items()
                if sum(held) >= MIN_TOUCHED_SHARDS * len(held)
            }
    return found


def _rank_of_origin(origins: Origins, pair: ShardPair) -> Rank:
    """Return the rank whose content a pair holds, if its layer is of another pipeline stage."""
    origin = origins.moved.get(origins.firsts[pair.home])
    return pair.rank if origin is None else replace(pair.rank, pp=origin.rank.pp)


def _is_untied(origins: Origins, pair: ShardPair) -> bool:
    """Return whether the copies of a pair have other names, not the same on other ranks."""
    pieces = (piece for name in pair.hf_names for piece in origins.grid.b.tensors[name].pieces)
    names = ({piece.ref.name, *(c.ref.name for c in piece.copies)} for piece in pieces)
    return any(len(found) > 1 for found in names)


def _version_claims(origins: Origins, noisy: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of versions of the right content: another save, or drifted replicas."""
    if _is_most(origins, noisy):
        for pair in noisy:
            yield Claim(
                "STALE", "all", (pair,), "nearly all tensors are near A's, but none is equal",
                "another save of the model: it was trained on", is_info=True, is_lost=True,
            )  # fmt: skip
        return
    stale = stale_ranks(origins, noisy)
    replicas = defaultdict(list)
    for pair in origins.pairs:
        replicas[pair.home].append(pair)
    for pair in noisy:
        if pair.rank in stale or _rank_of_origin(origins, pair) in stale:
            words = "every tensor of the rank is near A's, but none is equal"
            cause = "the file is of another save"
            yield Claim("STALE", "rank", (pair,), words, cause, is_lost=True)
        elif any(replica not in origins.wrong for replica in replicas[pair.home]) or (
            pair.is_copy and pair in origins.predicted
        ):
            words, cause = _UNTIED if _is_untied(origins, pair) else _DRIFT
            yield Claim("REPLICA", "", (pair,), words, cause, is_lost=True)
        else:
            yield Claim(
                "STALE", "tensors", (pair,), "near A's content, but not equal",
                "it is of another save, or was changed afterwards", is_lost=True,
            )  # fmt: skip
