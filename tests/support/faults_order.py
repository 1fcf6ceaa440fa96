"""Orders that leave a model as it is, where all that must agree on them does; and half of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.support.faults import PROJ, QKV, QKV_BIAS, joined, parted, put_qkv

if TYPE_CHECKING:
    from torch import Tensor

    from tests.support.faults import Layers
    from tests.support.native import Native

FC1, FC1_BIAS, FC2 = "mlp.linear_fc1.weight", "mlp.linear_fc1.bias", "mlp.linear_fc2.weight"


def shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def neurons(n: Native, layers: Layers, *, down: bool = True) -> None:
    """Put the MLP's neurons into another order: rows of gate and up, columns of down."""
    blocks = 2 if n.gated else 1
    for layer in layers:
        columns = torch.cat(n.whole(layer, FC2), 1)
        order = shuffled(columns.shape[1], layer)
        for ending in (FC1, FC1_BIAS):
            if n.held(layer, ending):
                shards = [shard.chunk(blocks) for shard in n.whole(layer, ending)]
                wholes = [torch.cat(parts)[order] for parts in zip(*shards, strict=True)]
                pieces = zip(*(whole.chunk(n.tp) for whole in wholes), strict=True)
                n.put(layer, [torch.cat(parts) for parts in pieces], ending)
        if down:
            n.put(layer, list(columns[:, order].chunk(n.tp, 1)), FC2)


def neurons_of_expert(n: Native, layer: int, expert: int) -> None:
    """Put one expert's neurons into another order, its shards joined and cut again."""
    tensors = n.experts(layer)[expert]
    first = {
        name: [held[0][0][held[0][1]] for _, held in sorted(ranks.items())]
        for name, ranks in tensors.items()
    }
    down = torch.cat(first["linear_fc2.weight"], 1)
    order = shuffled(down.shape[1], 5)
    halves = [shard.chunk(2) for shard in first["linear_fc1.weight"]]
    gate, up = (torch.cat(x)[order].chunk(n.etp) for x in zip(*halves, strict=True))
    new = {
        "linear_fc1.weight": [torch.cat(x) for x in zip(gate, up, strict=True)],
        "linear_fc2.weight": down[:, order].chunk(n.etp, 1),
    }
    for name, shards in new.items():
        for rank, held in tensors[name].items():
            for model, key in held:
                model[key] = shards[rank].contiguous().clone()


def heads(n: Native, layers: Layers, *, keys: bool = True, out: bool = True) -> None:
    """Put groups of heads into another order, and the query heads inside of each."""
    per = n.heads // n.groups
    for layer in layers:
        groups = shuffled(n.groups, layer + 1)
        queries = torch.cat([g * per + shuffled(per, layer + 9) for g in groups])
        for ending in (QKV, QKV_BIAS):
            if n.held(layer, ending):
                q, k, v = parted(n, layer, ending)
                q = q.view(n.heads, -1, *q.shape[1:])[queries].reshape(q.shape)
                if keys:
                    k, v = (
                        x.view(n.groups, -1, *x.shape[1:])[groups].reshape(x.shape) for x in (k, v)
                    )
                put_qkv(n, layer, joined(q, k, v, n.groups), ending)
        if out:
            columns = torch.cat(n.whole(layer, PROJ), 1)
            moved = columns.view(len(columns), n.heads, -1)[:, queries].reshape(columns.shape)
            n.put(layer, list(moved.chunk(n.tp, 1)), PROJ)


def values(n: Native, layers: Layers) -> None:
    """Put the rows of each value head into another order, and the columns that they meet."""
    per = n.heads // n.groups
    for layer in layers:
        q, k, v = parted(n, layer)
        d = len(v) // n.groups
        order = torch.cat([g * d + shuffled(d, g) for g in range(n.groups)])
        put_qkv(n, layer, joined(q, k, v[order], n.groups))
        columns = torch.cat(n.whole(layer, PROJ), 1)
        grouped = columns.view(len(columns), n.groups, per, d)
        inside = (order.view(n.groups, 1, d) % d).expand(len(columns), n.groups, per, d)
        moved = grouped.gather(3, inside).reshape(columns.shape)
        n.put(layer, list(moved.chunk(n.tp, 1)), PROJ)
