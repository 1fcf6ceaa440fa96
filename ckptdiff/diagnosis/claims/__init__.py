"""Name what was found: each wrong place is claimed by one class of faults, or by two composed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.claims.relocated import map_words, relocated, router_map
from ckptdiff.diagnosis.claims.renumbered import renumbered
from ckptdiff.diagnosis.claims.values import value_claims
from ckptdiff.diagnosis.claims.vocabulary import tied, vocabulary_claims
from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.origins import NEAR
from ckptdiff.diagnosis.row_order import class_of_order, is_in_order, order_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.resharding.shard_pairs import ShardPair


def claims(origins: Origins) -> list[Claim]:
    """Return a claim for each wrong place and each of the faults that made it so."""
    found = list(_mistaken(origins))
    found += [_transpose(p) for p in origins.wrong if origins.transposed.intersection(p.share.hf)]
    left = list(origins.left)
    for find in (tied, vocabulary_claims, _router, renumbered, _transposed, _reordered):
        claimed = list(find(origins, left))
        found += claimed
        done = {p for claim in claimed for p in claim.places if p not in origins.instead}
        left = [place for place in left if place not in done]
    found = [replace(claim, at_home=True) for claim in (*found, *value_claims(origins, left))]
    return _as_one([*relocated(origins), *found])


def _mistaken(origins: Origins) -> Iterator[Claim]:
    """Known mistakes; that of a bias is one with that of its weight."""
    layouts = {
        (p.layer, mistake.key)
        for p, (mistake, _) in origins.mistaken.items()
        if mistake.found == "QKV-LAYOUT"
    }
    for place, (both, _) in origins.mistaken.items():
        if both.within is not None:
            inner = both.within
            yield Claim(inner.found, inner.key, (place,), inner.words, inner.cause, mistake=inner)
    for place, (mistake, others) in origins.mistaken.items():
        kind = mistake.found
        if kind == "QKV-BIAS" and (place.layer, mistake.key) in layouts:
            kind = "QKV-LAYOUT"
        yield Claim(
            kind, mistake.key, (place,), mistake.words, mistake.cause, others, mistake=mistake
        )


def _as_one(found: list[Claim]) -> list[Claim]:
    """Give claims of one cause one key: all that was never loaded in the same layers."""
    layers: dict[str, set[int | None]] = defaultdict(set)
    for claim in found:
        if claim.kind == "NOT-LOADED":
            layers[claim.key] |= {p.layer for p in claim.places}
    first = {}
    for key, touched in layers.items():
        first[key] = next(k for k, other in layers.items() if other == touched)
    return [
        replace(claim, key=first[claim.key]) if claim.kind == "NOT-LOADED" else claim
        for claim in found
    ]


def _router(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """Rows of a router, and what goes with them, in another order."""
    for place in left:
        if place.rule.role != "router":
            continue
        # A replica that drifted has the first one's order.
        first = origins.firsts[place.home] if place in origins.instead else place
        rows = router_map(origins, first)
        if rows is None:
            continue
        changed = {e: s for e, s in rows.items() if e != s}
        experts: dict[int, int] = {}
        for p, q in origins.moved.items():
            if p.layer == place.layer and p.expert is not None and q.expert is not None:
                experts[p.expert] = q.expert
        yield Claim(
            "ROUTER-ORDER", str(sorted(changed.items())), (place,),
            f"rows of the router exchanged: {map_words(changed)}",
            "the router's rows were put in another order than the experts",
            is_info=experts == changed, rows=sorted(rows, key=rows.__getitem__),
        )  # fmt: skip


def _transposed(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    names = {n for p in left if not p.rule.of_vocabulary for n in p.share.hf}
    transposed = origins.transposed_tensors(sorted(names - origins.transposed))
    yield from (_transpose(p) for p in left if any(n in transposed for n in p.share.hf))


def _transpose(place: ShardPair) -> Claim:
    return Claim(
        "TRANSPOSE", "", (place,), "rows and columns are exchanged",
        "a square matrix was stored as its transpose", is_lost=len(place.share.hf) > 1,
    )  # fmt: skip


def _reordered(origins: Origins, left: list[ShardPair]) -> Iterator[Claim]:
    """The right numbers of a tensor, over all its ranks, in an order that no mistake gives."""
    for by in (_by_name, _by_layer):
        groups: dict[object, list[ShardPair]] = defaultdict(list)
        for place in left:
            key = by(place)
            if not place.is_copy and key is not None and place not in origins.instead:
                groups[key].append(place)
        for key, found in groups.items():
            # What is near the right content has its rows in place; a vector is soon looked up.
            if all(
                abs(origins.residual[p].cosine) > NEAR and len(p.actual.shape) > 1 for p in found
            ):
                continue
            kind = _order_class(found[0])
            group = [p for p in origins.firsts.values() if by(p) == key]
            expected, actual = [p.expected for p in group], [p.actual for p in group]
            if kind and origins.ask.same_numbers(expected, actual):
                left = [p for p in left if p not in found]
                yield _order_claim(origins, tuple(found), kind)
            elif kind == "QKV-LAYOUT" and _repeats_rows(origins, group):
                yield Claim(
                    "KV-REPL", "rows", tuple(found),
                    "some heads are there twice, others not at all",
                    "key and value heads were replicated for more ranks than there are groups",
                    is_lost=True,
                )  # fmt: skip


def _order_claim(origins: Origins, found: tuple[ShardPair, ...], kind: FaultClass) -> Claim:
    """Return what is known of an order that no mistake gives: its class, by what was moved."""
    place = found[0]
    named = None
    if place.rule.role == "qkv" or (place.rule.role == "proj" and not place.rule.is_bias):
        # Numbers of a bias repeat: its rows are told apart by those of the weight.
        weights = (
            p for p in origins.firsts.values()
            if (p.module, p.rule.role) == (place.module, place.rule.role) and not p.rule.is_bias
        )  # fmt: skip
        other = next(weights, place)
        rows = order_of(origins, other)
        if rows is not None and (other.name == place.name or is_in_order(origins, place, rows)):
            named = class_of_order(rows, origins.grid.config)
    if named == "QKV-HEADMAP":
        return Claim(
            named, "order", found, "heads are in an unknown order",
            "heads were numbered, or dealt to the groups, in another way", is_lost=True,
        )  # fmt: skip
    if named == "ROPE-PERM":
        return Claim(
            named, "order", found, "rows are in an unknown order inside of every head",
            "rotary rows were reordered for another convention", is_lost=True,
        )  # fmt: skip
    return Claim(
        kind, "order", found, "the right numbers in an unknown order",
        "the tensor was cut, joined or reshaped in another way", is_lost=True,
    )  # fmt: skip


def _by_name(place: ShardPair) -> object:
    return place.name


def _by_layer(place: ShardPair) -> object:
    """Take the experts of a layer together."""
    return (place.template, place.layer) if place.expert is not None else None


def _order_class(place: ShardPair) -> FaultClass | None:
    """Return the class of a permutation of one tensor, by what its rule puts into it."""
    rule = place.rule
    if rule.dim is None or rule.of_vocabulary:
        return None
    if place.expert is not None:
        return "EXPERT-LAYOUT"
    if rule.role == "eh_proj":
        return "MTP-LAYOUT"
    if rule.role == "qkv":
        return "QKV-BIAS" if rule.is_bias else "QKV-LAYOUT"
    if rule.block_rows is not None:
        return "FC1-TPLAYOUT" if rule.role == "fc1" else "QKV-LAYOUT"
    return "TP-AXIS"


def _repeats_rows(origins: Origins, group: list[ShardPair]) -> bool:
    """Ask whether every row is one of the tensor's, and some are there twice."""
    names = group[0].share.hf
    seen: list[tuple[str, int]] = []
    for name in names:
        one = origins.grid.a.tensors[name]
        for other in names:
            match = origins.ask.match(one, origins.grid.b.tensors[other])
            seen += [(name, row) for row in match if row >= 0]
    rows = sum(origins.grid.a.tensors[n].shape[0] for n in names)
    return len(seen) > 0.99 * rows > len(set(seen))
