"""Assign each wrong shard to the fault, or the two faults, that explain it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.claims.relocated import map_words, relocated, router_map
from ckptdiff.diagnosis.claims.renumbered import renumbered
from ckptdiff.diagnosis.claims.values import value_claims
from ckptdiff.diagnosis.claims.vocabulary import tied, vocabulary_claims
from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.row_order import class_of_order, is_in_order, order_of
from ckptdiff.diagnosis.thresholds import MIN_REPEATED_ROWS, MIN_VERSION_COSINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.resharding.shard_pairs import ShardPair


def claims(origins: Origins) -> list[Claim]:
    """Return claims for every wrong shard, more than one if several faults composed.

    Known mistakes and moves come first, then orders of rows, then changed values.
    """
    found = list(_mistaken(origins))
    found += [
        _transpose_claim(p) for p in origins.wrong if origins.transposed.intersection(p.hf_names)
    ]
    unexplained = list(origins.unexplained)
    for find in (tied, vocabulary_claims, _router, renumbered, _transposed, _reordered):
        claimed = list(find(origins, unexplained))
        found += claimed
        done = {p for claim in claimed for p in claim.pairs if p not in origins.predicted}
        unexplained = [pair for pair in unexplained if pair not in done]
    found = [
        replace(claim, is_about_content=True)
        for claim in (*found, *value_claims(origins, unexplained))
    ]
    return _with_common_keys([*relocated(origins), *found])


def _mistaken(origins: Origins) -> Iterator[Claim]:
    """Yield claims of known mistakes; a bias and its weight with one mistake are one fault."""
    layouts = {
        (p.layer, mistake.key)
        for p, (mistake, _) in origins.mistaken.items()
        if mistake.kind == "QKV-LAYOUT"
    }
    for pair, (both, _) in origins.mistaken.items():
        if both.within is not None:
            inner = both.within
            yield Claim(inner.kind, inner.key, (pair,), inner.words, inner.cause, mistake=inner)
    for pair, (mistake, others) in origins.mistaken.items():
        kind = mistake.kind
        if kind == "QKV-BIAS" and (pair.layer, mistake.key) in layouts:
            kind = "QKV-LAYOUT"
        yield Claim(
            kind, mistake.key, (pair,), mistake.words, mistake.cause, others, mistake=mistake
        )


def _with_common_keys(found: list[Claim]) -> list[Claim]:
    """Give NOT-LOADED claims that touch the same layers one key: they are one fault."""
    layers: dict[str, set[int | None]] = defaultdict(set)
    for claim in found:
        if claim.kind == "NOT-LOADED":
            layers[claim.key] |= {p.layer for p in claim.pairs}
    common = {}
    for key, touched in layers.items():
        common[key] = next(k for k, other in layers.items() if other == touched)
    return [
        replace(claim, key=common[claim.key]) if claim.kind == "NOT-LOADED" else claim
        for claim in found
    ]


def _router(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of routers with permuted rows: no fault if the experts moved along."""
    for pair in unexplained:
        if pair.rule.role != "router":
            continue
        # A drifted replica has other values than the first one, in the same order of rows.
        first = origins.firsts[pair.home] if pair in origins.predicted else pair
        rows = router_map(origins, first)
        if rows is None:
            continue
        changed = {e: s for e, s in rows.items() if e != s}
        experts: dict[int, int] = {}
        for p, q in origins.moved.items():
            if p.layer == pair.layer and p.expert is not None and q.expert is not None:
                experts[p.expert] = q.expert
        yield Claim(
            "ROUTER-ORDER", str(sorted(changed.items())), (pair,),
            f"rows of the router exchanged: {map_words(changed)}",
            "the router's rows were put in another order than the experts",
            is_info=experts == changed, rows=sorted(rows, key=rows.__getitem__),
        )  # fmt: skip


def _transposed(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of square matrices that are exactly their transpose."""
    names = {n for p in unexplained if not p.rule.of_vocabulary for n in p.hf_names}
    transposed = origins.transposed_tensors(sorted(names - origins.transposed))
    yield from (
        _transpose_claim(p) for p in unexplained if any(n in transposed for n in p.hf_names)
    )


def _transpose_claim(pair: ShardPair) -> Claim:
    return Claim(
        "TRANSPOSE", "", (pair,), "rows and columns are exchanged",
        "a square matrix was stored as its transpose", is_lost=len(pair.hf_names) > 1,
    )  # fmt: skip


def _reordered(origins: Origins, unexplained: list[ShardPair]) -> Iterator[Claim]:
    """Yield claims of tensors whose elements, over all ranks, are right in an unknown order."""
    for group_key in (_by_name, _by_layer):
        groups: dict[object, list[ShardPair]] = defaultdict(list)
        for pair in unexplained:
            key = group_key(pair)
            if not pair.is_copy and key is not None and pair not in origins.predicted:
                groups[key].append(pair)
        for key, found in groups.items():
            # A matrix near the right content has its rows in place. Vectors cost little to try.
            if all(
                abs(origins.residual[p].cosine) > MIN_VERSION_COSINE and len(p.actual.shape) > 1
                for p in found
            ):
                continue
            kind = _order_class(found[0])
            group = [p for p in origins.firsts.values() if group_key(p) == key]
            expected, actual = [p.expected for p in group], [p.actual for p in group]
            if kind and origins.ask.have_same_elements(expected, actual):
                unexplained = [p for p in unexplained if p not in found]
                yield _order_claim(origins, tuple(found), kind)
            elif kind == "QKV-LAYOUT" and _repeats_rows(origins, group):
                yield Claim(
                    "KV-REPL", "rows", tuple(found),
                    "some heads are there twice, others not at all",
                    "key and value heads were replicated for more ranks than there are groups",
                    is_lost=True,
                )  # fmt: skip


def _order_claim(origins: Origins, found: tuple[ShardPair, ...], kind: FaultClass) -> Claim:
    """Return the claim of an unknown order; its class depends on which rows moved together."""
    pair = found[0]
    order_class = None
    if pair.rule.role == "qkv" or (pair.rule.role == "proj" and not pair.rule.is_bias):
        # Elements of a bias may be equal: the weight's rows show the order.
        weights = (
            p for p in origins.firsts.values()
            if (p.module, p.rule.role) == (pair.module, pair.rule.role) and not p.rule.is_bias
        )  # fmt: skip
        weight = next(weights, pair)
        rows = order_of(origins, weight)
        if rows is not None and (weight.name == pair.name or is_in_order(origins, pair, rows)):
            order_class = class_of_order(rows, origins.grid.config)
    if order_class == "QKV-HEADMAP":
        return Claim(
            order_class, "order", found, "heads are in an unknown order",
            "heads were numbered, or dealt to the groups, in another way", is_lost=True,
        )  # fmt: skip
    if order_class == "ROPE-PERM":
        return Claim(
            order_class, "order", found, "rows are in an unknown order inside of every head",
            "rotary rows were reordered for another convention", is_lost=True,
        )  # fmt: skip
    return Claim(
        kind, "order", found, "the right numbers in an unknown order",
        "the tensor was cut, joined or reshaped in another way", is_lost=True,
    )  # fmt: skip


def _by_name(pair: ShardPair) -> object:
    return pair.name


def _by_layer(pair: ShardPair) -> object:
    """Group the experts of a layer; None for anything but experts."""
    return (pair.template, pair.layer) if pair.expert is not None else None


def _order_class(pair: ShardPair) -> FaultClass | None:
    """Return the class of a permutation of a rule's tensor; None if the rule does not split it."""
    rule = pair.rule
    if rule.dim is None or rule.of_vocabulary:
        return None
    if pair.expert is not None:
        return "EXPERT-LAYOUT"
    if rule.role == "eh_proj":
        return "MTP-LAYOUT"
    if rule.role == "qkv":
        return "QKV-BIAS" if rule.is_bias else "QKV-LAYOUT"
    if rule.block_rows is not None:
        return "FC1-TPLAYOUT" if rule.role == "fc1" else "QKV-LAYOUT"
    return "TP-AXIS"


def _repeats_rows(origins: Origins, group: list[ShardPair]) -> bool:
    """Return whether nearly all rows are rows of the reference, and some occur twice."""
    names = group[0].hf_names
    matched: list[tuple[str, int]] = []
    for name in names:
        one = origins.grid.a.tensors[name]
        for other in names:
            match = origins.ask.match_rows(one, origins.grid.b.tensors[other])
            matched += [(name, row) for row in match if row >= 0]
    rows = sum(origins.grid.a.tensors[n].shape[0] for n in names)
    return len(matched) > MIN_REPEATED_ROWS * rows > len(set(matched))
