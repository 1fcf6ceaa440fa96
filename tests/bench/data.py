"""The files that the benchmarks read: llama-shaped pairs, a Megatron twin, sparse giants."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a llama."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def shapes(self) -> dict[str, Shape]:
        """Return every tensor of the Hugging Face checkpoint, in its order."""
        kv = self.groups * self.head_dim
        shapes: dict[str, Shape] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            shapes |= {
                at + "input_layernorm.weight": (self.hidden,),
                at + "self_attn.q_proj.weight": (self.hidden, self.hidden),
                at + "self_attn.k_proj.weight": (kv, self.hidden),
                at + "self_attn.v_proj.weight": (kv, self.hidden),
                at + "self_attn.o_proj.weight": (self.hidden, self.hidden),
                at + "post_attention_layernorm.weight": (self.hidden,),
                at + "mlp.gate_proj.weight": (self.ffn, self.hidden),
                at + "mlp.up_proj.weight": (self.ffn, self.hidden),
                at + "mlp.down_proj.weight": (self.hidden, self.ffn),
            }
        shapes["model.norm.weight"] = (self.hidden,)
        shapes["lm_head.weight"] = (self.vocab, self.hidden)
        return shapes

    def stored(self) -> dict[str, tuple[str, Shape]]:
        return {name: ("BF16", shape) for name, shape in self.shapes().items()}

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        }


SMALL = Size(layers=16, hidden=1024, ffn=2816, heads=16, groups=8, vocab=32000)  # 0.5 GB
LARGE = Size(layers=25, hidden=2048, ffn=5632, heads=32, groups=8, vocab=32000)  # 2.5 GB
ONE_BILLION = Size(layers=16, hidden=2048, ffn=6144, heads=16, groups=16, vocab=32000)
SMOL = Size(layers=30, hidden=576, ffn=1536, heads=9, groups=3, vocab=49152)  # SmolLM2-135M, untied
# A fifth of SmolLM2-135M's layers, and a vocabulary whose head has the same share of the weights.
SMALL_SMOL = Size(layers=6, hidden=576, ffn=1536, heads=9, groups=3, vocab=9216)
HUGE = Size(layers=80, hidden=8192, ffn=28672, heads=64, groups=8, vocab=128256)  # 141 GB


class _Noise:
    """Normal numbers from a pool, cut at random places: drawing them all takes too long."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.standard_normal(1 << 24, dtype=np.float32)

    def draw(self, count: int) -> NDArray[np.float32]:
        pieces = []
        while count:
            start = int(self._rng.integers(len(self._pool) // 2))
            pieces.append(self._pool[start : start + count])
            count -= len(pieces[-1])
        return np.concatenate(pieces)


CHANGES: dict[str, Callable[[NDArray[np.float32], _Noise], NDArray[np.float32]]] = {
    "base": lambda x, _: x,
    "same": lambda x, _: x,
    "scaled": lambda x, noise: x * (1 + 1e-3 * noise.draw(len(x))),
    "added": lambda x, noise: x + np.float32(1e-4) * noise.draw(len(x)),
}


def bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_hf(
    folder: Path, size: Size, change: str, *, shard_bytes: float = float("inf"), seed: int = 1
) -> Path:
    """Write a checkpoint whose weights are those of `base` with a change applied."""
    weights, noise = _Noise(seed), _Noise(seed + 1)

    def chunks(name: str, shape: Shape) -> Iterator[bytes]:
        for start in range(0, prod(shape), 1 << 22):
            count = min(1 << 22, prod(shape) - start)
            x = weights.draw(count)
            x = 1 + 0.1 * x if "norm" in name else 0.02 * x
            yield bfloat16(CHANGES[change](x, noise)).tobytes()

    write_shards(folder, size.config(), size.stored(), shard_bytes, chunks)
    return folder


def write_sparse_hf(folder: Path, size: Size) -> Path:
    """Write a checkpoint of zeros that take no room on the disk."""
    write_shards(folder, size.config(), size.stored(), 5e9, None)
    return folder


def write_shards(
    folder: Path,
    config: Mapping[str, object],
    stored: Mapping[str, tuple[str, Shape]],
    shard_bytes: float,
    chunks: Callable[[str, Shape], Iterator[bytes]] | None,
) -> None:
    """Write tensors of these dtypes and shapes in files of about this size, sparse if no data."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, int]] = [{}]  # bytes by name
    for name, (dtype, shape) in stored.items():
        if sum(shards[-1].values()) > shard_bytes:
            shards.append({})
        shards[-1][name] = prod(shape) * ITEMSIZE[dtype]
    index = {}
    for number, sizes in enumerate(shards, 1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, nbytes in sizes.items():
            dtype, shape = stored[name]
            offsets = [offset, offset + nbytes]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            offset += nbytes
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            if chunks is None:
                f.truncate(8 + len(text) + offset)
            else:
                for name in sizes:
                    for chunk in chunks(name, stored[name][1]):
                        f.write(chunk)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def write_megatron(folder: Path, size: Size, tp: int, hf: Path | None) -> Path:
    """Write Megatron's `torch` format by plain formulas; without `hf` it holds zeros."""
    import torch
    from safetensors.torch import load_file

    source = load_file(hf / "model.safetensors") if hf is not None else None

    def take(name: str) -> torch.Tensor:
        return (
            source[name] if source is not None else torch.empty(size.shapes()[name], device="meta")
        )

    args = argparse.Namespace(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=1,
        virtual_pipeline_model_parallel_size=None,
        expert_model_parallel_size=1,
        context_parallel_size=1,
        num_layers=size.layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn,
        num_attention_heads=size.heads,
        group_query_attention=True,
        num_query_groups=size.groups,
        kv_channels=size.head_dim,
        vocab_size=size.vocab,
        padded_vocab_size=size.vocab,
        make_vocab_size_divisible_by=128,
        max_position_embeddings=8192,
        seq_length=8192,
        add_qkv_bias=False,
        add_bias_linear=False,
        untie_embeddings_and_output_weights=True,
        normalization="RMSNorm",
        norm_epsilon=1e-05,
        apply_layernorm_1p=False,
        swiglu=True,
        num_experts=None,
        position_embedding_type="rope",
        rotary_base=500000,
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=False,
        transformer_impl="transformer_engine",
        use_legacy_models=False,
        ckpt_format="torch",
        params_dtype=torch.bfloat16,
        bf16=True,
        fp16=False,
    )
    for rank in range(tp):
        model: dict[str, torch.Tensor] = {}

        def put(name: str, tensor: torch.Tensor, model: dict[str, torch.Tensor] = model) -> None:
            # A view would save its whole storage; nothing of a meta tensor is written.
            if source is None:
                model[name] = torch.empty(tensor.shape, dtype=torch.bfloat16)
            else:
                model[name] = tensor.clone()

        def part(tensor: torch.Tensor, dim: int, rank: int = rank) -> torch.Tensor:
            return tensor.chunk(tp, dim)[rank]

        put("embedding.word_embeddings.weight", part(take("model.embed_tokens.weight"), 0))
        for layer in range(size.layers):
            hf_at, at = f"model.layers.{layer}.", f"decoder.layers.{layer}."
            q, k, v = (take(f"{hf_at}self_attn.{x}_proj.weight") for x in "qkv")
            groups = []
            for group in range(rank * size.groups // tp, (rank + 1) * size.groups // tp):
                wide = size.heads // size.groups * size.head_dim
                groups += [
                    q[group * wide : (group + 1) * wide],
                    k[group * size.head_dim : (group + 1) * size.head_dim],
                    v[group * size.head_dim : (group + 1) * size.head_dim],
                ]
            attention, mlp = at + "self_attention.linear_", at + "mlp.linear_"
            put(attention + "qkv.layer_norm_weight", take(hf_at + "input_layernorm.weight"))
            put(attention + "qkv.weight", torch.cat(groups))
            put(attention + "proj.weight", part(take(hf_at + "self_attn.o_proj.weight"), 1))
            put(mlp + "fc1.layer_norm_weight", take(hf_at + "post_attention_layernorm.weight"))
            gate, up = (part(take(f"{hf_at}mlp.{x}_proj.weight"), 0) for x in ("gate", "up"))
            put(mlp + "fc1.weight", torch.cat([gate, up]))
            put(mlp + "fc2.weight", part(take(hf_at + "mlp.down_proj.weight"), 1))
        put("decoder.final_layernorm.weight", take("model.norm.weight"))
        put("output_layer.weight", part(take("lm_head.weight"), 0))
        state = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": model}
        file = folder / "iter_0000001" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        if source is None:
            with torch.serialization.skip_data():
                torch.save(state, file)
        else:
            torch.save(state, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


class Data:
    """Makes what a row asks for, once; keeps it where a folder was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hf(self, size: Size, change: str) -> Path:
        names = {SMALL: "small", LARGE: "large", ONE_BILLION: "billion", SMOL: "smol"}
        name = {**names, SMALL_SMOL: "small-smol"}[size]
        return self._once(f"{name}-{change}", lambda folder: write_hf(folder, size, change))

    def megatron(self, size: Size, tp: int = 2) -> Path:
        base = self.hf(size, "base")
        return self._once(
            f"{base.name}-tp{tp}", lambda folder: write_megatron(folder, size, tp, base)
        )

    def faulty(self, size: Size, spoil: Callable[[Path], None]) -> Path:
        """Return the Megatron twin with a fault planted in it."""

        def make(folder: Path) -> Path:
            shutil.copytree(self.megatron(size), folder)
            spoil(folder)
            return folder

        return self._once(f"{self.megatron(size).name}-{spoil.__name__.strip('_')}", make)

    def sparse(self, kind: str) -> Path:
        if kind == "megatron":
            return self._once("huge-tp8", lambda folder: write_megatron(folder, HUGE, 8, None))
        if kind == "linked":
            return self._once("huge-linked", self._link_sparse)
        return self._once("huge-hf", lambda folder: write_sparse_hf(folder, HUGE))

    def giant(self, kind: str) -> Path:
        from . import deepseek

        make = deepseek.write_megatron if kind == "megatron" else deepseek.write_hf
        return self._once(f"giant-{kind}", make)

    def _link_sparse(self, folder: Path) -> Path:
        """Give the same files other names: two sets of zeros would crowd the page cache."""
        folder.mkdir()
        for file in self.sparse("hf").iterdir():
            (folder / file.name).hardlink_to(file)
        return folder

    def _once(self, name: str, make: Callable[[Path], Path]) -> Path:
        folder = self.folder / name
        if not folder.exists():
            partial = self.folder / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            os.sync()
            partial.rename(folder)
        return folder


def files(*folders: Path) -> list[Path]:
    """Return the files with weights of checkpoints, in order."""
    return sorted(
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix in (".safetensors", ".pt")
    )
