"""More faults to plant: layers, stages, vocabulary, norms, experts, values and the config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests.support.faults import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    MLP_NORM,
    ROUTER,
    joined,
    noisy,
    parted,
    put_qkv,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from tests.support.native import Native

    Layers = Sequence[int]


# ── layers ───────────────────────────────────────────────────────────────────────────────────────


def layer_map(n: Native, moves: Mapping[int, int]) -> None:
    """Give each layer the content of another (of its own rank by tensor and expert parallelism)."""
    held = {
        (key[0], key[2], layer, inner): model[name].clone()
        for key, name, model, layer, inner in n.tensors()
        if layer is not None
    }
    for key, name, model, layer, inner in n.tensors():
        if layer is not None and layer in moves:
            model[name] = held[key[0], key[2], moves[layer], inner].clone()


def pp_offset_zero(n: Native) -> None:
    firsts = {pp: at for (pp, _), at in n.first_layer.items()}
    last = [*[firsts[p] for p in range(1, n.pp)], n.num_layers]
    layer_map(n, {x: x - firsts[p] for p in range(n.pp) for x in range(firsts[p], last[p])})


def layer_shift(n: Native, by: int = 1) -> None:
    layer_map(n, {x: (x + by) % n.num_layers for x in range(n.num_layers)})


def layer_swap(n: Native, one: int, other: int) -> None:
    layer_map(n, {one: other, other: one})


def layer_dup(n: Native, there: int, source: int) -> None:
    layer_map(n, {there: source})


def layer_lexsort(n: Native) -> None:
    layer_map(n, dict(enumerate(sorted(range(n.num_layers), key=str))))


def pp_swap(n: Native, one: int, other: int) -> None:
    firsts = {pp: at for (pp, _), at in n.first_layer.items()}
    size = n.num_layers // n.pp
    moves = {firsts[one] + i: firsts[other] + i for i in range(size)}
    layer_map(n, {**moves, **{b: a for a, b in moves.items()}})


def vpp_as_pp(n: Native) -> None:
    """Order a stage's layers as if its chunks followed each other in the model."""
    order = sorted(n.first_layer, key=lambda place: (place[0], place[1]))
    each = n.num_layers // len(order)
    sources = iter(range(n.num_layers))
    moves = {n.first_layer[place] + i: next(sources) for place in order for i in range(each)}
    layer_map(n, moves)


def delete(n: Native, layer: int | None, *endings: str) -> None:
    for model, name in n.held(layer, *endings).values():
        del model[name]


# ── vocabulary ───────────────────────────────────────────────────────────────────────────────────


def vocab_rows(n: Native, change: Callable[[Tensor, int], Tensor], *names: str) -> None:
    """Change the whole padded matrix; the number of tokens is given too."""
    for name in names or (EMBEDDING, HEAD):
        if n.held(None, name):
            full = change(torch.cat(n.whole(None, name)), int(n.args.vocab_size))
            n.put(None, list(full.chunk(n.tp)), name)


def vocab_shift(n: Native, by: int = 1, *names: str) -> None:
    vocab_rows(n, lambda full, _: full.roll(by, 0), *names)


def vocab_tail_lost(n: Native, count: int, *names: str, repeat: bool = False) -> None:
    def lose(full: Tensor, tokens: int) -> Tensor:
        full = full.clone()
        full[tokens - count :] = full[tokens - count - 1] if repeat else 0
        return full

    vocab_rows(n, lose, *names)


def vocab_pad_per_rank(n: Native, tokens: int, *names: str) -> None:
    """Cut the tokens over the ranks and pad each share, not the whole."""

    def pad(full: Tensor, _: int) -> Tensor:
        size = len(full) // n.tp
        shares = full[:tokens].tensor_split(n.tp)
        return torch.cat([torch.cat([s, s[-1:].repeat(size - len(s), 1)]) for s in shares])

    vocab_rows(n, pad, *names)


def odd_padding(n: Native, tokens: int) -> None:
    def pad(full: Tensor, _: int) -> Tensor:
        full = full.clone()
        full[tokens:] = noisy(torch.ones_like(full[tokens:]), 3.0)
        return full

    vocab_rows(n, pad)


def copied(n: Native, source: str, target: str) -> None:
    """Put one vocabulary matrix in the place of the other."""
    n.put(None, n.whole(None, source), target)


def embed_head_swap(n: Native) -> None:
    one, other = n.whole(None, EMBEDDING), n.whole(None, HEAD)
    n.put(None, other, EMBEDDING)
    n.put(None, one, HEAD)


def head_stale(n: Native) -> None:
    n.change(lambda x: noisy(x, 0.2), None, HEAD)


# ── norms ────────────────────────────────────────────────────────────────────────────────────────


def gamma(n: Native, layers: Sequence[int | None], by: float, *endings: str) -> None:
    for layer in layers:
        for names in (endings,) if endings else (INPUT_NORM, MLP_NORM):
            n.change(lambda x: x + by, layer, *names)


def exchange(n: Native, layer: int, one: tuple[str, ...], other: tuple[str, ...]) -> None:
    x, y = n.whole(layer, *one), n.whole(layer, *other)
    n.put(layer, y, *one)
    n.put(layer, x, *other)


def norm_swap(n: Native, layers: Layers) -> None:
    for layer in layers:
        exchange(n, layer, INPUT_NORM, MLP_NORM)


def qk_norm_swap(n: Native, layers: Layers) -> None:
    for layer in layers:
        exchange(n, layer, ("q_layernorm.weight",), ("k_layernorm.weight",))


# ── never loaded ─────────────────────────────────────────────────────────────────────────────────


def ones(n: Native, layer: int | None, *endings: str) -> None:
    n.change(torch.ones_like, layer, *endings)


def zeros(n: Native, layer: int | None, *endings: str) -> None:
    n.change(torch.zeros_like, layer, *endings)


def random_init(n: Native, layer: int | None, *endings: str) -> None:
    generator = torch.Generator().manual_seed(100)
    shards = n.whole(layer, *endings)
    new = [(0.02 * torch.randn(x.shape, generator=generator)).to(x.dtype) for x in shards]
    n.put(layer, new, *endings)


def expert_zero(n: Native, layer: int, expert: int) -> None:
    for places in n.experts(layer)[expert].values():
        for held in places.values():
            for model, name in held:
                model[name] = torch.zeros_like(model[name])


# ── experts ──────────────────────────────────────────────────────────────────────────────────────


def expert_map(n: Native, layers: Layers, moves: Mapping[int, int]) -> None:
    for layer in layers:
        found = n.experts(layer)
        held = {
            (expert, name, rank): places[0][0][places[0][1]].clone()
            for expert, tensors in found.items()
            for name, ranks in tensors.items()
            for rank, places in ranks.items()
        }
        for expert, tensors in found.items():
            for name, ranks in tensors.items():
                for rank, places in ranks.items():
                    for model, key in places:
                        model[key] = held[moves.get(expert, expert), name, rank].clone()


def expert_swap(n: Native, layers: Layers, one: int, other: int) -> None:
    expert_map(n, layers, {one: other, other: one})


def expert_stride(n: Native, layers: Layers) -> None:
    """Deal experts to the expert ranks in turn, not in blocks."""
    count, local = int(n.args.num_experts), int(n.args.num_experts) // n.ep
    expert_map(n, layers, {e: e % local * n.ep + e // local for e in range(count)})


def expert_local_index(n: Native, layers: Layers) -> None:
    count, local = int(n.args.num_experts), int(n.args.num_experts) // n.ep
    expert_map(n, layers, {e: e % local for e in range(count)})


def etp_shard_lost(n: Native, layers: Layers) -> None:
    """Give every expert tensor rank the shard of the first."""
    for layer in layers:
        for tensors in n.experts(layer).values():
            for ranks in tensors.values():
                first = ranks[0][0][0][ranks[0][0][1]]
                for held in ranks.values():
                    for model, name in held:
                        model[name] = first.clone()


def router_perm(n: Native, layers: Layers, moves: Mapping[int, int]) -> None:
    order = [moves.get(e, e) for e in range(int(n.args.num_experts))]
    for layer in layers:
        n.change(lambda x: x[order], layer, ROUTER)


def grouped_as_stack(n: Native, layers: Layers) -> None:
    """Fill the matrices of grouped experts as `cat(dim=0).T`, which mixes experts."""
    for key, name, model, layer, inner in n.tensors():
        local = int(n.args.num_experts) // n.ep
        if layer in layers and inner.endswith("experts.weight1"):
            w = model[name]
            stacked = w.view(local, w.shape[0], -1).transpose(1, 2).reshape(-1, w.shape[0])
            model[name] = stacked.t().contiguous()
        assert key in n.states


def grouped_transposed(n: Native, layers: Layers) -> None:
    """Fill the second matrices with [out, in] of each expert where [in, out] is read."""
    for _, name, model, layer, inner in n.tensors():
        local = int(n.args.num_experts) // n.ep
        if layer in layers and inner.endswith("experts.weight2"):
            w = model[name]
            model[name] = w.view(local, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)


def eh_proj_halves(n: Native) -> None:
    """Put the half for the hidden state before the half for the embedding."""
    for _, name, model, _, _ in n.tensors():
        if name.endswith("eh_proj.weight"):
            one, other = model[name].chunk(2, 1)
            model[name] = torch.cat([other, one], 1)


# ── values ───────────────────────────────────────────────────────────────────────────────────────


def everything(n: Native, change: Callable[[Tensor], Tensor]) -> None:
    for _, name, model, _, _ in n.tensors():
        model[name] = change(model[name])


def through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.to(dtype).to(x.dtype)


def overflow(n: Native, layer: int, ending: str) -> None:
    """Scale up a few numbers of the reference's own by a cast that cannot hold them."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1)[x.abs().view(-1).topk(5).indices] = float("inf")
        return x

    n.change(change, layer, ending)


def by_blocks(x: Tensor, block: int = 16, seed: int = 3) -> Tensor:
    """Multiply each square block by a factor of its own."""
    rows, columns = x.shape
    generator = torch.Generator().manual_seed(seed)
    factors = 0.25 + 3 * torch.rand(-(-rows // block), -(-columns // block), generator=generator)
    spread = factors.repeat_interleave(block, 0).repeat_interleave(block, 1)[:rows, :columns]
    return (x.float() * spread).to(x.dtype)


def fp8_codes(x: Tensor, block: int = 16) -> Tensor:
    """Quantise to float8 with a factor for each block, and leave the factors out."""
    rows, columns = x.shape
    amax = torch.nn.functional.max_pool2d(x.float().abs()[None], block, ceil_mode=True)[0]
    spread = (448 / amax).repeat_interleave(block, 0).repeat_interleave(block, 1)
    codes = (x.float() * spread[:rows, :columns]).to(torch.float8_e4m3fn)
    return codes.float().to(x.dtype)


def lora_of_q_and_v(n: Native, layers: Layers, rank: int = 8) -> None:
    """Add products of thin matrices to queries and values."""
    for layer in layers:
        q, k, v = parted(n, layer)
        generator = torch.Generator().manual_seed(layer)
        added = []
        for x in (q, v):
            a = torch.randn(len(x), rank, generator=generator)
            b = torch.randn(rank, x.shape[1], generator=generator)
            added.append((x.float() + 0.3 * a @ b * x.float().std() / rank**0.5).to(x.dtype))
        put_qkv(n, layer, joined(added[0], k, added[1], n.groups))


def to_power_of_two(x: Tensor, block: int = 16) -> Tensor:
    """Keep each block by a factor that was rounded to a power of two: up to 2 too large."""
    rows, columns = x.shape
    amax = torch.nn.functional.max_pool2d(x.float().abs()[None], block, ceil_mode=True)[0]
    scale = amax / 448
    ratio = torch.exp2(torch.ceil(torch.log2(scale))) / scale
    spread = ratio.repeat_interleave(block, 0).repeat_interleave(block, 1)[:rows, :columns]
    return (x.float() * spread).to(x.dtype)


def lora(n: Native, layers: Layers, ending: str, rank: int = 4, dim: int = 0) -> None:
    """Add a product of two thin matrices once more."""
    for layer in layers:
        full = torch.cat(n.whole(layer, ending), dim)
        generator = torch.Generator().manual_seed(layer)
        a = torch.randn(full.shape[0], rank, generator=generator)
        b = torch.randn(rank, full.shape[1], generator=generator)
        delta = a @ b * full.float().std() / rank**0.5
        n.put(layer, list((full.float() + delta).to(full.dtype).chunk(n.tp, dim)), ending)


def trained(n: Native) -> None:
    """Change everything a little, replicas alike, as some steps of training do."""
    seen: dict[Any, Tensor] = {}
    for seed, (key, name, model, layer, inner) in enumerate(n.tensors()):
        replicated = "norm" in inner or "router" in inner
        place = (layer, inner, None if replicated else key)
        if place not in seen:
            seen[place] = noisy(model[name], 0.05, 1000 + seed)
        model[name] = seen[place].clone()


def set_args(n: Native, **values: Any) -> None:
    for state in n.states.values():
        for name, value in values.items():
            setattr(state["args"], name, value)


__all__ = ["FINAL_NORM", "delete", "layer_map"]
