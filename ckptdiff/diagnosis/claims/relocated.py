"""Claims of content that belongs to another rank, layer, expert or name."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.diagnosis.finding import Claim
from ckptdiff.diagnosis.unruled import is_own_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.resharding.shard_pairs import ShardPair


def relocated(origins: Origins) -> Iterator[Claim]:
    """Yield a claim for each of rank, name, layer and expert that is wrong of a moved content."""
    ranks: dict[str, dict[int, int]] = defaultdict(dict)
    layers: dict[str, dict[int, int]] = defaultdict(dict)
    for p, q in origins.moved.items():
        if p.tp_rank != q.tp_rank:
            ranks[p.name][p.tp_rank] = q.tp_rank
        if p.template == q.template and p.layer != q.layer:
            assert p.layer is not None
            assert q.layer is not None
            layers[p.template][p.layer] = q.layer
    all_ranks, all_layers = origins.rank_map(), origins.layer_map()
    experts, all_experts = origins.expert_moves(), origins.expert_maps()
    for p, q in origins.moved.items():
        if p.tp_rank != q.tp_rank:
            yield _rank_claim(p, _whole_exchange(ranks[p.name], all_ranks))
        if p.template != q.template:
            yield _name_claim(origins, p, q)
        elif p.layer != q.layer:
            yield _layer_claim(origins, p, _whole_exchange(layers[p.template], all_layers))
        if p.template == q.template and p.expert != q.expert:
            part = experts[p.template, p.layer]
            yield _expert_claim(origins, p, _whole_exchange(part, all_experts[p.layer]))


def _whole_exchange(part: dict[int, int], whole: dict[int, int]) -> dict[int, int]:
    """Return `whole` if `part` agrees with it: equal tensors show only a part of an exchange."""
    agrees = all(whole.get(key) == origin for key, origin in part.items())
    return whole if agrees else part


def _rank_claim(p: ShardPair, moves: dict[int, int]) -> Claim:
    """Return the claim of ranks that hold other ranks' shards."""
    words = map_words(moves)
    if set(moves) == set(moves.values()):
        return Claim(
            "TP-ORDER", str(sorted(moves.items())), (p,), f"shards of TP ranks exchanged: {words}",
            "files were put in another order, by name for example", ranks=moves,
        )  # fmt: skip
    return Claim(
        "TP-DUP", str(sorted(moves.items())), (p,), f"TP ranks hold another rank's shard: {words}",
        "several ranks wrote, or were given, the same shard", is_lost=True,
    )  # fmt: skip


def _layer_claim(origins: Origins, p: ShardPair, moves: dict[int, int]) -> Claim:
    """Return the claim of layers that hold other layers' content."""
    words = map_words(moves)
    key = str(sorted(moves.items()))
    permuted = set(moves) == set(moves.values())
    by_stage = _is_local_numbers(origins, moves)
    shifted = _is_shift(moves, len({x.layer for x in origins.firsts.values()} - {None}))
    if by_stage or shifted:
        return Claim(
            "LAYER-OFFSET", key, (p,), f"layers are shifted: {words}",
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
    """Return whether all moved layers have one offset, cyclically or up to an end of the model."""
    if set(moves) == set(moves.values()):
        offsets = {(origin - layer) % layers for layer, origin in moves.items()}
        # An offset of half the layers is an exchange of two halves, such as pipeline stages.
        return len(moves) == layers > 2 and len(offsets) == 1 and 2 * offsets.pop() != layers
    steps = [origin - layer for layer, origin in moves.items()]
    common = max(set(steps), key=steps.count)
    others = len(steps) - steps.count(common)
    return len(moves) >= 2 and others <= (len(moves) >= 3)


def _is_local_numbers(origins: Origins, moves: dict[int, int]) -> bool:
    """Return whether each moved layer holds the layer with its local number in its stage."""
    stages: dict[int, set[int]] = defaultdict(set)
    for pair in origins.pairs:
        if pair.layer is not None and pair.rule.of_layers:
            stages[pair.rank.pp].add(pair.layer)
    if len(stages) < 2:
        return False
    local_numbers = {
        layer: number
        for stage, layers in stages.items()
        for number, layer in enumerate(sorted(layers))
        if stage and number != layer
    }
    touched_stages = (
        {layer: local_numbers[layer] for layer in layers if layer in local_numbers}
        for layers in stages.values()
        if any(layer in moves for layer in layers)
    )
    of_stages = {layer: number for stage in touched_stages for layer, number in stage.items()}
    return moves == local_numbers or (len(moves) > 1 and moves == of_stages)


def _name_claim(origins: Origins, p: ShardPair, q: ShardPair) -> Claim:
    """Return the claim that `p` holds the content of `q`, which has another name."""
    # A head that is tied by the args alone is a copy of the embedding: no other name has its place.
    is_exchange = not p.is_copy and any(
        (held.template, origin.template) == (q.template, p.template) and not held.is_copy
        for held, origin in origins.moved.items()
    )
    what = (
        f"{p.template.rpartition('.')[0].rpartition('.')[2]} holds "
        f"{q.template.rpartition('.')[0].rpartition('.')[2]}"
    )
    if p.rule.of_vocabulary and q.rule.of_vocabulary:
        if is_exchange:
            return Claim("EMBED-HEAD", "", (p,), "embedding and output layer are exchanged",
                         "two matrices of one shape were taken for each other",
                         names={p.template: q.template})  # fmt: skip
        if _is_own_though_tied(origins):
            return Claim("TIED", "own head", (p,),
                         "the head is a matrix of its own, though the config of B ties it",
                         "the config does not say what the files hold", is_lost=True)  # fmt: skip
        return Claim("TIED", "", (p,), f"{what}, though they are two tensors here",
                     "the model was taken for one with tied embeddings", is_lost=True)  # fmt: skip
    if p.rule.of_predictions or q.rule.of_predictions:
        return Claim("MTP-LAYOUT", "", (p,), what, "names of the prediction layer were mixed up",
                     is_lost=not is_exchange, names={p.template: q.template})  # fmt: skip
    if len(p.actual.shape) == 1 and p.rule.role == "norm":
        return Claim("NORM-SWAP", "", (p,), "norms are mapped to each other's names",
                     "two norms of one size were taken for each other", is_lost=not is_exchange,
                     names={p.template: q.template})  # fmt: skip
    if is_own_rule(p.rule):
        return Claim("NAMES", str(sorted((p.template, q.template))), (p,), what,
                     "a name was mapped to another tensor", is_lost=True)  # fmt: skip
    return Claim("NOT-LOADED", what, (p,), what, "its name was mapped to another tensor",
                 is_lost=not is_exchange, names={p.template: q.template})  # fmt: skip


def _is_own_though_tied(origins: Origins) -> bool:
    """Return whether B's copy of the embedding, as its config has it, is the reference's head."""
    return origins.grid.config.tied_embeddings and any(
        held.is_copy and (held.rule.role, origin.rule.role) == ("embedding", "head")
        for held, origin in origins.moved.items()
    )


def _expert_claim(origins: Origins, p: ShardPair, moves: dict[int, int]) -> Claim:
    """Return the claim of permuted experts: no fault if the router's rows moved along."""
    words = map_words(moves)
    key = str(sorted(moves.items()))
    if set(moves) != set(moves.values()):
        return Claim(
            "EXPERT-DUP", key, (p,), f"experts hold another's content: {words}",
            "a rank's local number of an expert was taken for the global one", is_lost=True,
        )  # fmt: skip
    routers = (
        router_map(origins, pair)
        for pair in origins.wrong
        if pair.layer == p.layer and pair.rule.role == "router" and not pair.rule.is_bias
    )
    router = next(routers, None)
    is_info = router is not None and all(router.get(e, e) == s for e, s in moves.items())
    return Claim(
        "EXPERT-ORDER", key, (p,), f"experts exchanged: {words}",
        "experts were put in another order than the router's rows", experts=moves, is_info=is_info,
    )  # fmt: skip


def router_map(origins: Origins, pair: ShardPair) -> dict[int, int] | None:
    """Return the expert whose row each row of a router is; None if it is no permutation."""
    match = origins.ask.match_rows(pair.expected, pair.actual)
    return dict(enumerate(match)) if sorted(match) == list(range(len(match))) else None


def map_words(moves: dict[int, int]) -> str:
    """Return the first six moves in words."""
    shown = [f"{there} holds {here}" for there, here in sorted(moves.items())]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
