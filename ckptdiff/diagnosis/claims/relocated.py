"""Claims of content that belongs elsewhere: to another rank, layer, expert or name."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.finding import Claim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair


def relocated(origins: Origins) -> Iterator[Claim]:
    """Yield a claim for each thing that was mistaken about a content's place."""
    ranks: dict[str, dict[int, int]] = defaultdict(dict)
    layers: dict[str, dict[int, int]] = defaultdict(dict)
    for p, q in origins.moved.items():
        if p.share.rank != q.share.rank:
            ranks[p.name][p.share.rank] = q.share.rank
        if p.template == q.template and p.layer != q.layer:
            assert p.layer is not None
            assert q.layer is not None
            layers[p.template][p.layer] = q.layer
    all_ranks, all_layers = origins.rank_map(), origins.layer_map()
    experts, all_experts = origins.expert_moves(), origins.expert_maps()
    for p, q in origins.moved.items():
        if p.share.rank != q.share.rank:
            yield _rank_claim(p, _whole(ranks[p.name], all_ranks))
        if p.template != q.template:
            yield _name_claim(origins, p, q)
        elif p.layer != q.layer:
            yield _layer_claim(origins, p, _whole(layers[p.template], all_layers))
        if p.template == q.template and p.expert != q.expert:
            part = experts[p.template, p.layer]
            yield _expert_claim(origins, p, _whole(part, all_experts[p.layer]))


def _whole(part: dict[int, int], whole: dict[int, int]) -> dict[int, int]:
    """Return the larger exchange that one is a part of: what is alike elsewhere shows less."""
    agrees = all(whole.get(there) == here for there, here in part.items())
    return whole if agrees else part


def _rank_claim(p: ShardPair, moves: dict[int, int]) -> Claim:
    words = map_words(moves)
    if set(moves) == set(moves.values()):
        return Claim(
            "TP-ORDER", str(sorted(moves.items())), (p,), f"shards of TP ranks exchanged: {words}",
            "files were put in another order, by name for example", ranks=moves,
        )  # fmt: skip
    return Claim(
        "TP-DUP", str(sorted(moves.items())), (p,), f"TP ranks hold another rank's shard: {words}",
        "every rank wrote, or was given, the same shard", is_lost=True,
    )  # fmt: skip


def _layer_claim(origins: Origins, p: ShardPair, moves: dict[int, int]) -> Claim:
    words = map_words(moves)
    key = str(sorted(moves.items()))
    permuted = set(moves) == set(moves.values())
    by_stage = _is_local_numbers(origins, moves)
    shifted = _is_shift(moves, len({x.layer for x in origins.firsts.values()} - {None}))
    if by_stage or shifted:
        return Claim(
            "LAYER-OFFSET", key, (p,), f"layers hold those of another offset: {words}",
            "the layers before a pipeline stage were not counted" if by_stage
            else "layers were numbered from another start",
            is_lost=not permuted, layers=moves,
        )  # fmt: skip
    if permuted:
        return Claim(
            "LAYER-ORDER", key, (p,), f"layers exchanged: {words}",
            "pipeline stages, virtual chunks or layer names were put in another order",
            layers=moves,
        )  # fmt: skip
    return Claim(
        "LAYER-DUP", key, (p,), f"layers are there twice: {words}",
        "a layer was written in the place of another", is_lost=True,
    )  # fmt: skip


def _is_shift(moves: dict[int, int], layers: int) -> bool:
    """Ask whether layers hold those of one other offset, all around or cut off at an end."""
    if set(moves) == set(moves.values()):
        steps = {(here - there) % layers for there, here in moves.items()}
        return len(moves) == layers > 2 and len(steps) == 1 and 2 * steps.pop() != layers
    found = [here - there for there, here in moves.items()]
    common = max(set(found), key=found.count)
    odd = len(found) - found.count(common)
    return len(moves) >= 2 and odd <= (len(moves) >= 3)


def _is_local_numbers(origins: Origins, moves: dict[int, int]) -> bool:
    """Ask whether every displaced layer holds the layer of its number inside its stage."""
    stages: dict[int, set[int]] = defaultdict(set)
    for place in origins.places:
        if place.layer is not None and place.rule.of_layers:
            stages[place.rank.pp].add(place.layer)
    if len(stages) < 2:
        return False
    wanted = {
        layer: number
        for stage, layers in stages.items()
        for number, layer in enumerate(sorted(layers))
        if stage and number != layer
    }
    whole = (
        {layer: wanted[layer] for layer in layers if layer in wanted}
        for layers in stages.values()
        if any(layer in moves for layer in layers)
    )
    of_stages = {layer: number for found in whole for layer, number in found.items()}
    return moves == wanted or (len(moves) > 1 and moves == of_stages)


def _name_claim(origins: Origins, p: ShardPair, q: ShardPair) -> Claim:
    back = any(x.template == q.template and y.template == p.template
               for x, y in origins.moved.items())  # fmt: skip
    what = (
        f"{p.template.rpartition('.')[0].rpartition('.')[2]} holds "
        f"{q.template.rpartition('.')[0].rpartition('.')[2]}"
    )
    if p.rule.of_vocabulary and q.rule.of_vocabulary:
        if back:
            return Claim("EMBED-HEAD", "", (p,), "embedding and output layer are exchanged",
                         "two matrices of one shape were taken for each other",
                         names={p.template: q.template})  # fmt: skip
        return Claim("TIED", "", (p,), f"{what}, though they are two tensors here",
                     "the model was taken for one with tied embeddings", is_lost=True)  # fmt: skip
    if p.rule.of_predictions or q.rule.of_predictions:
        return Claim("MTP-LAYOUT", "", (p,), what, "names of the prediction layer were mixed up",
                     is_lost=not back, names={p.template: q.template})  # fmt: skip
    if len(p.actual.shape) == 1 and p.rule.role == "norm":
        return Claim("NORM-SWAP", "", (p,), "norms are mapped to each other's names",
                     "two norms of one size were taken for each other", is_lost=not back,
                     names={p.template: q.template})  # fmt: skip
    return Claim("NOT-LOADED", what, (p,), what, "its name was mapped to another tensor",
                 is_lost=not back, names={p.template: q.template})  # fmt: skip


def _expert_claim(origins: Origins, p: ShardPair, moves: dict[int, int]) -> Claim:
    words = map_words(moves)
    key = str(sorted(moves.items()))
    if set(moves) != set(moves.values()):
        return Claim(
            "EXPERT-DUP", key, (p,), f"experts hold another's content: {words}",
            "a rank's local number of an expert was taken for the global one", is_lost=True,
        )  # fmt: skip
    routers = (
        router_map(origins, place)
        for place in origins.wrong
        if place.layer == p.layer and place.rule.role == "router" and not place.rule.is_bias
    )
    router = next(routers, None)
    info = router is not None and all(router.get(e, e) == s for e, s in moves.items())
    return Claim(
        "EXPERT-ORDER", key, (p,), f"experts exchanged: {words}",
        "experts were put in another order than the router's rows", experts=moves, is_info=info,
    )  # fmt: skip


def router_map(origins: Origins, place: ShardPair) -> dict[int, int] | None:
    """Return which expert's row each row of a router holds; None if it is no permutation."""
    match = origins.ask.match(place.expected, place.actual)
    return dict(enumerate(match)) if sorted(match) == list(range(len(match))) else None


def map_words(moves: dict[int, int]) -> str:
    shown = [f"{there} holds {here}" for there, here in sorted(moves.items())]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
