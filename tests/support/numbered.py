"""Models none of whose elements has the value of another, cut by the rules or by the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from hypothesis import strategies as st

from ckptdiff.arch.scatter import scatter
from ckptdiff.checkpoint import Checkpoint, Parallelism, Rank, Shard, TensorRef, contiguous
from ckptdiff.config.model import from_huggingface
from tests.support.oracle import Layout, mp_rank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.recipe import Assembled, Piece
    from ckptdiff.checkpoint import Box

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
Stored = dict[tuple[Path, str], "Tensor"]  # what lies where, by file and native name


@dataclass(frozen=True)
class Model:
    """A model none of whose elements has the value of another, and how it is to be cut."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    tp: int
    pp: int
    vpp: int
    divisible_by: int
    counts: Sequence[int]  # layers by (chunk, stage), chunk first

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    @property
    def padded_vocab(self) -> int:
        block = self.divisible_by * self.tp
        padded: int = -(-self.config["vocab_size"] // block) * block
        return padded


def numbered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of these shapes, each element with a number of its own from 1 on."""
    weights = {}
    first = 1
    for name, shape in shapes.items():
        count = prod(shape)
        weights[name] = torch.arange(first, first + count).reshape(shape)
        first += count
    return weights


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return what a Hugging Face folder of a family holds, written down by hand."""
    family, hidden, ffn = (config[k] for k in ("model_type", "hidden_size", "intermediate_size"))
    d, vocab = config["head_dim"], config["vocab_size"]
    heads = {"q": config["num_attention_heads"]}
    heads |= dict.fromkeys("kv", config["num_key_value_heads"])
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in (f"model.layers.{i}." for i in range(config["num_hidden_layers"])):
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        for x, count in heads.items():
            shapes[f"{layer}self_attn.{x}_proj.weight"] = (count * d, hidden)
            if family == "qwen2":
                shapes[f"{layer}self_attn.{x}_proj.bias"] = (count * d,)
            if family == "qwen3" and x != "v":
                shapes[f"{layer}self_attn.{x}_norm.weight"] = (d,)
        shapes[layer + "self_attn.o_proj.weight"] = (hidden, heads["q"] * d)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
        shapes[layer + "mlp.gate_proj.weight"] = (ffn, hidden)
        shapes[layer + "mlp.up_proj.weight"] = (ffn, hidden)
        shapes[layer + "mlp.down_proj.weight"] = (hidden, ffn)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


@st.composite
def models(draw: st.DrawFn, family: str) -> Model:
    def number(least: int, most: int) -> int:
        return draw(st.integers(least, most))

    tp = draw(st.sampled_from([1, 2, 4, 8]))
    pp, vpp = number(1, 3), number(1, 3)
    # Stages without layers are real: with only an embedding, or only a head.
    counts = draw(st.lists(st.integers(0, 2), min_size=pp * vpp, max_size=pp * vpp).filter(any))
    groups = tp * number(1, 2)
    config = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": number(1, 7),
        "intermediate_size": tp * number(1, 3),
        "num_attention_heads": groups * number(1, 3),
        "num_key_value_heads": groups,
        "head_dim": number(1, 4),
        "num_hidden_layers": sum(counts),
        "tie_word_embeddings": draw(st.booleans()),
        "vocab_size": number(1, 30),
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
    return Model(config, numbered(shapes_of(config)), tp, pp, vpp, number(1, 9), counts)


def oracle(model: Model, *, names: Literal["mcore", "te", "legacy"] = "mcore") -> Layout:
    return Layout(
        weights=model.weights,
        config=model.config,
        tp=model.tp,
        ep=1,
        names=names,
        experts="sequential",
        extra_state=None,
        pad="zeros",  # a number that no element has
        divisible_by=model.divisible_by,
        views=False,
    )


def take(tensor: Tensor, box: Box) -> Tensor:
    return tensor[tuple(slice(*bounds) for bounds in box)]


def put(tensor: Tensor, box: Box, part: Tensor) -> None:
    tensor[tuple(slice(*bounds) for bounds in box)] = part


def scattered(model: Model, family: Architecture) -> list[dict[str, Tensor]]:
    """Return each rank's tensors as the rules say; padding is -1, and what nothing fills -2."""
    sizes = replace(from_huggingface(model.config), padded_vocab_size=model.padded_vocab)
    ranks: list[dict[str, Tensor]] = [{} for _ in range(model.tp)]
    for share in scatter(family, sizes, model.shapes, model.tp):
        rank, name, pieces = share.rank, share.name, share.pieces
        shape = [max(of[d][1] for _, _, of in pieces) for d in range(len(pieces[0][2]))]
        shard = torch.full(shape, -2)
        for source, box, of in pieces:
            part = take(shard, of) * 0 - 1 if source is None else take(model.weights[source], box)
            assert bool((take(shard, of) == -2).all()), f"{name}: {of} is filled twice"
            put(shard, of, part)
        assert name not in ranks[rank]
        ranks[rank][name] = shard
    return ranks


def headers(
    model: Model, chunks: Mapping[tuple[int, int, int], Mapping[str, Tensor]], args: dict[str, Any]
) -> tuple[Checkpoint, Stored]:
    """Return a Megatron checkpoint of these (tp, pp, chunk) states, and what its files hold."""
    stored: Stored = {}
    shards = []
    for (t, p, chunk), tensors in chunks.items():
        file = Path(mp_rank(model.pp, 1)(t, p, 0)) / f"chunk{chunk}"
        refs = {}
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape)
            refs[name] = TensorRef(name, shape, "I64", file, 0, contiguous(shape))
            stored[file, name] = tensor
        shards.append(Shard(Rank(t, p), chunk, refs))
    sizes = Parallelism(tp=model.tp, pp=model.pp, vpp=model.vpp)
    return Checkpoint(Path(), "megatron", "megatron", args, sizes, tuple(shards), ()), stored


def whole(model: Model) -> Checkpoint:
    """Return the Hugging Face side's headers."""
    refs = {
        name: TensorRef(name, shape, "I64", Path("hf"), 0, contiguous(shape))
        for name, shape in model.shapes.items()
    }
    shard = Shard(Rank(), 0, refs)
    return Checkpoint(Path(), "hf", "hf", model.config, Parallelism(), (shard,), ())


def gathered(side: Assembled, stored: Stored) -> dict[str, Tensor]:
    """Return the whole tensors, filled piece by piece; every element once, from every copy."""
    found = {}
    for name, assembly in side.tensors.items():
        tensor = torch.full(assembly.shape, -2)
        for piece in assembly.pieces:
            assert bool((take(tensor, piece.box) == -2).all()), f"{name}: {piece.box} twice"
            put(tensor, piece.box, content(piece, stored))
        found[name] = tensor
    return found


def content(piece: Piece, stored: Stored) -> Tensor:
    """Return what a piece holds, having looked that its copies hold the same."""
    original = take(stored[piece.ref.file, piece.ref.name], piece.of)
    for copy in piece.copies:
        assert torch.equal(take(stored[copy.ref.file, copy.ref.name], piece.of), original)
    return original


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
