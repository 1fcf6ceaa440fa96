"""Plant faults in a Megatron checkpoint, each as the public record describes it: plain torch.

A fault takes the checkpoint and, where it is of some layers, those layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.native import Native

    Layers = Sequence[int]
    Parts = tuple[Tensor, Tensor, Tensor]

QKV, QKV_BIAS = "self_attention.linear_qkv.weight", "self_attention.linear_qkv.bias"
PROJ, FC1, FC2 = "self_attention.linear_proj.weight", "linear_fc1.weight", "linear_fc2.weight"
INPUT_NORM = ("input_layernorm.weight", "linear_qkv.layer_norm_weight")
MLP_NORM = ("pre_mlp_layernorm.weight", "linear_fc1.layer_norm_weight")
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
FINAL_NORM = "final_layernorm.weight"
ROUTER = "mlp.router.weight"


# ── attention ────────────────────────────────────────────────────────────────────────────────────


def parted(n: Native, layer: int, ending: str = QKV) -> Parts:
    """Return the whole q, k and v of a fused tensor."""
    full = torch.cat(n.whole(layer, ending))
    g, per = n.groups, n.heads // n.groups
    rest = full.shape[1:]
    d = full.shape[0] // (n.heads + 2 * g)
    grouped = full.view(g, per + 2, d, *rest)
    return (
        grouped[:, :per].reshape(n.heads * d, *rest),
        grouped[:, per].reshape(g * d, *rest),
        grouped[:, per + 1].reshape(g * d, *rest),
    )


def joined(q: Tensor, k: Tensor, v: Tensor, groups: int) -> Tensor:
    """Return rows group by group: query rows, key rows, value rows."""
    rest = q.shape[1:]
    return torch.cat([x.view(groups, -1, *rest) for x in (q, k, v)], 1).reshape(-1, *rest)


def put_qkv(n: Native, layer: int, full: Tensor, ending: str = QKV) -> None:
    n.put(layer, list(full.chunk(n.tp)), ending)


def qkv_flat(n: Native, layers: Layers, ending: str = QKV) -> None:
    for layer in layers:
        put_qkv(n, layer, torch.cat(parted(n, layer, ending)), ending)


def qkv_flat_per_rank(n: Native, layers: Layers) -> None:
    for layer in layers:
        q, k, v = (x.chunk(n.tp) for x in parted(n, layer))
        n.put(layer, [torch.cat(parts) for parts in zip(q, k, v, strict=True)], QKV)


def qkv_wrong_groups(n: Native, layers: Layers, groups: int) -> None:
    for layer in layers:
        put_qkv(n, layer, joined(*parted(n, layer), groups))


def qkv_v1_layout(n: Native, layers: Layers) -> None:
    for layer in layers:
        full = torch.cat(n.whole(layer, QKV))
        heads = n.heads // n.groups + 2
        d = full.shape[0] // n.groups // heads
        turned = full.view(n.groups, heads, d, -1).transpose(1, 2)
        put_qkv(n, layer, turned.reshape(full.shape))


def qkv_order(n: Native, layers: Layers, order: str, ending: str = QKV) -> None:
    for layer in layers:
        q, k, v = (x.view(n.groups, -1, *x.shape[1:]) for x in parted(n, layer, ending))
        named = {"q": q, "k": k, "v": v}
        full = torch.cat([named[x] for x in order], 1)
        put_qkv(n, layer, full.reshape(-1, *full.shape[2:]), ending)


def kv_swap(n: Native, layers: Layers) -> None:
    qkv_order(n, layers, "qvk")


def q_head_stride(n: Native, layers: Layers, *, back: bool = False) -> None:
    """Lay heads out with the group running fastest; or take a layout as if they had been."""
    for layer in layers:
        q, k, v = parted(n, layer)
        per = n.heads // n.groups
        sizes = (per, n.groups) if back else (n.groups, per)
        wrong = q.view(*sizes, -1, q.shape[1]).transpose(0, 1)
        put_qkv(n, layer, joined(wrong.reshape(q.shape), k, v, n.groups))


def proj_head_stride(n: Native, layers: Layers, *, back: bool = False) -> None:
    for layer in layers:
        full = torch.cat(n.whole(layer, PROJ), 1)
        per = n.heads // n.groups
        sizes = (per, n.groups) if back else (n.groups, per)
        heads = full.view(full.shape[0], *sizes, -1).transpose(1, 2)
        n.put(layer, list(heads.reshape(full.shape).chunk(n.tp, 1)), PROJ)


def kv_replicate(n: Native, layers: Layers, factor: int = 2) -> None:
    for layer in layers:
        q, k, v = parted(n, layer)
        index = torch.arange(n.groups) // factor * factor
        k, v = (x.view(n.groups, -1, x.shape[1])[index].reshape(x.shape) for x in (k, v))
        put_qkv(n, layer, joined(q, k, v, n.groups))


def qkv_bias_flat(n: Native, layers: Layers) -> None:
    qkv_flat(n, layers, QKV_BIAS)


def qkv_bias_zero(n: Native, layers: Layers) -> None:
    for layer in layers:
        n.change(torch.zeros_like, layer, QKV_BIAS)


def to_meta(x: Tensor, heads: int) -> Tensor:
    rest = x.shape[1:]
    return x.view(heads, 2, -1, *rest).transpose(1, 2).reshape(x.shape)


def to_hf(x: Tensor, heads: int) -> Tensor:
    rest = x.shape[1:]
    return x.view(heads, -1, 2, *rest).transpose(1, 2).reshape(x.shape)


def rope(
    n: Native,
    layers: Layers,
    way: Callable[[Tensor, int], Tensor] = to_meta,
    which: str = "qk",
    k_heads: int | None = None,
    ending: str = QKV,
) -> None:
    for layer in layers:
        q, k, v = parted(n, layer, ending)
        if "q" in which:
            q = way(q, n.heads)
        if "k" in which:
            k = way(k, k_heads or n.groups)
        put_qkv(n, layer, joined(q, k, v, n.groups), ending)


def rope_biased(n: Native, layers: Layers) -> None:
    rope(n, layers)
    rope(n, layers, ending=QKV_BIAS)


def rope_k_wrong_heads(n: Native, layers: Layers) -> None:
    rope(n, layers, which="k", k_heads=n.heads)


# ── gated MLP ────────────────────────────────────────────────────────────────────────────────────


def halves(n: Native, layer: int, ending: str = "mlp.linear_fc1.weight") -> tuple[Tensor, Tensor]:
    pairs = [shard.chunk(2) for shard in n.whole(layer, ending)]
    return torch.cat([gate for gate, _ in pairs]), torch.cat([up for _, up in pairs])


def swapped(shard: Tensor) -> Tensor:
    gate, up = shard.chunk(2)
    return torch.cat([up, gate])


def gate_up_swap(n: Native, layers: Layers, ending: str = "mlp.linear_fc1.weight") -> None:
    for layer in layers:
        n.change(swapped, layer, ending)


def shared_gate_up_swap(n: Native, layers: Layers) -> None:
    for layer in layers:
        for _, model, name in shared_ranks(n, layer):
            model[name] = swapped(model[name]).contiguous()


def shared_ranks(n: Native, layer: int) -> list[tuple[int, dict[str, Tensor], str]]:
    return [
        (key[0], model, name)
        for key, name, model, number, inner in n.tensors()
        if number == layer and inner.endswith("shared_experts.linear_fc1.weight")
    ]


def expert_gate_up_swap(n: Native, layers: Layers, experts: Sequence[int] | None = None) -> None:
    for layer in layers:
        for expert, tensors in n.experts(layer).items():
            if experts is None or expert in experts:
                for places in tensors["linear_fc1.weight"].values():
                    for model, name in places:
                        model[name] = swapped(model[name]).contiguous()


def fc1_global_chunk(n: Native, layers: Layers, ending: str = "mlp.linear_fc1.weight") -> None:
    for layer in layers:
        n.put(layer, list(torch.cat(halves(n, layer, ending)).chunk(n.tp)), ending)


def fc1_merge_no_glu(n: Native, layers: Layers, ranks: int) -> None:
    ending = "mlp.linear_fc1.weight"
    for layer in layers:
        pairs = zip(*(x.chunk(ranks) for x in halves(n, layer)), strict=True)
        gate, up = torch.cat([x for pair in pairs for x in pair]).chunk(2)
        shards = zip(gate.chunk(n.tp), up.chunk(n.tp), strict=True)
        n.put(layer, [torch.cat(pair) for pair in shards], ending)


def fc1_interleave(n: Native, layers: Layers, block: int = 1) -> None:
    def turn(shard: Tensor) -> Tensor:
        gate, up = (x.view(-1, block, x.shape[1]) for x in shard.chunk(2))
        return torch.stack([gate, up], 1).reshape(shard.shape)

    for layer in layers:
        n.change(turn, layer, "mlp.linear_fc1.weight")


# ── transposes, tensor-parallel assembly ─────────────────────────────────────────────────────────


def proj_transpose(n: Native, layers: Layers) -> None:
    for layer in layers:
        full = torch.cat(n.whole(layer, PROJ), 1)
        n.put(layer, list(full.t().chunk(n.tp, 1)), PROJ)


def tp_map(n: Native, moves: dict[int, int]) -> None:
    """Give ranks the sharded tensors of others.

    Where experts are cut less than the rest, a rank of another expert rank lends what is no expert.
    """
    models = {(key, chunk): model for key, chunk, model in n.models()}
    held = {(key, id(m), name): m[name] for key, name, m, _, _ in n.tensors()}
    for (t, p, e), chunk, model in n.models():
        source = moves.get(t, t)
        if source == t:
            continue
        same = (source, p, e) in n.states
        lender = (source, p, e) if same else next(k for k in n.states if k[:2] == (source, p))
        for name in model:
            place = (lender, id(models[lender, chunk]), name)
            if place in held and (same or ".experts." not in name):
                model[name] = held[place].clone()


def tp_swap(n: Native, one: int, other: int) -> None:
    tp_map(n, {one: other, other: one})


def tp_rotate(n: Native) -> None:
    tp_map(n, {t: (t + 1) % n.tp for t in range(n.tp)})


def tp_dup_rank0(n: Native) -> None:
    tp_map(n, dict.fromkeys(range(1, n.tp), 0))


def tp_swap_tensor(n: Native, layer: int, one: int, other: int, ending: str) -> None:
    shards = n.whole(layer, ending)
    shards[one], shards[other] = shards[other], shards[one]
    n.put(layer, shards, ending)


def fc2_reshape_axis(n: Native, layers: Layers, ending: str = "mlp.linear_fc2.weight") -> None:
    for layer in layers:
        full = torch.cat(n.whole(layer, ending), 1)
        shards = [part.reshape(full.shape[0], -1) for part in full.chunk(n.tp, 0)]
        n.put(layer, shards, ending)


def replica_drift(
    n: Native, layer: int | None, rank: int, *endings: str, scale: float = 1e-2
) -> None:
    for (t, _, _), (model, name) in n.held(layer, *endings).items():
        if t == rank:
            model[name] = noisy(model[name], scale)


def noisy(x: Tensor, scale: float = 1e-2, seed: int = 7) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return (x.float() + scale * x.float().abs().mean() * noise).to(x.dtype)


def stale_shard(n: Native, tp: int, pp: int, scale: float = 0.1) -> None:
    for seed, (key, name, model, _, _) in enumerate(n.tensors()):
        if key[:2] == (tp, pp):
            model[name] = noisy(model[name], scale, seed)


def scaled(n: Native, layers: Sequence[int | None], factor: float, *endings: str) -> None:
    for layer in layers:
        n.change(lambda x: (x.float() * factor).to(x.dtype), layer, *endings)


def replica_scaled(n: Native, layers: Layers, rank: int) -> None:
    for layer in layers:
        for (t, _, _), (model, name) in n.held(layer, *INPUT_NORM).items():
            if t == rank:
                model[name] = (model[name].float() * 1.02).to(model[name].dtype)


def fc1_axis(n: Native, layers: Layers) -> None:
    """Cut the first layer of an MLP without a gate along its columns, and reshape."""
    ending = "mlp.linear_fc1.weight"
    for layer in layers:
        full = torch.cat(n.whole(layer, ending))
        n.put(layer, [x.reshape(-1, full.shape[1]) for x in full.chunk(n.tp, 1)], ending)


def shared_chunk(n: Native, layers: Layers) -> None:
    """Cut gate and up of shared experts as one matrix."""
    for layer in layers:
        held = shared_ranks(n, layer)
        first = {t: model[name] for t, model, name in reversed(held)}
        pairs = [first[t].chunk(2) for t in range(n.tp)]
        whole = torch.cat([x for half in zip(*pairs, strict=True) for x in half])
        for t, model, name in held:
            model[name] = whole.chunk(n.tp)[t].clone()
