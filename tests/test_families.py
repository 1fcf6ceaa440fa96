"""Every family: what transformers' own classes hold is in the rules, each element exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import MODELS
from numbered import numbered, put, take

from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.arch.base import split_name
from ckptdiff.arch.scatter import scatter
from ckptdiff.assemble import Assembled, assemble
from ckptdiff.tensors import Checkpoint, Parallelism, Rank, Shard, TensorRef, contiguous

HERE = Path(__file__).resolve().parent
Stored = dict[tuple[Path, str], torch.Tensor]  # flat, by file and native name

# How each family's rules were checked. "files": read off files that NVIDIA's code wrote.
# "logits": a model scattered by the rules gives the same logits in megatron-core.
# "names and shapes": nothing in transformers' model is left out or used twice, no more than that.
VERIFIED = {
    "llama": "files",
    "mistral": "files",
    "qwen2": "files",
    "qwen3": "files",
    "mixtral": "files",
    "qwen2_moe": "files",
    "qwen3_moe": "files",
    "deepseek": "files",
    "gpt2": "files",
    "nemotron": "files",
    "gemma": "names and shapes",
    "gemma2": "names and shapes",
    "gemma3": "names and shapes",
    "gpt_oss": "names and shapes",
    "glm4_moe": "names and shapes",
    "olmo2": "names and shapes",
    "olmoe": "names and shapes",
    "phi3": "names and shapes",
    "qwen3_next": "names and shapes",
    "qwen3_5": "names and shapes",
    "qwen3_5_moe": "names and shapes",
    "qwen3_vl_moe": "names and shapes",
    "gpt_neox": "names and shapes",
    "nemotron_h": "names and shapes",
}


def test_it_is_said_of_every_family_how_it_was_checked() -> None:
    assert set(VERIFIED) == {family.name for family in ARCHITECTURES}


@pytest.fixture(scope="session")
def described(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return every model's config and shapes, as transformers says."""
    python = request.config.getoption("--oracle") or sys.executable
    done = subprocess.run(
        [python, str(HERE / "families.py")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.oracle
@pytest.mark.parametrize(("model", "ep"), [(m, ep) for m in MODELS for ep in (1, 2)])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_parameter_is_scattered_and_gathered_once(
    model: str, tp: int, ep: int, described: dict[str, Any]
) -> None:
    config, shapes = described[model]["config"], described[model]["shapes"]
    family = find_architecture(config)
    assert family is not None
    assert family.name == MODELS[model][0]
    stored: Stored = {}
    checkpoint = on_disk(config, {name: tuple(shape) for name, shape in shapes.items()}, stored)
    whole = assemble(checkpoint)
    assert whole.errors == {}
    assert [n for n in whole.tensors if family.order_of(split_name(n)[0]) is None] == []
    weights = gathered(whole, stored)
    elements = torch.cat([weight.reshape(-1) for weight in weights.values()])
    assert len(elements) == len(set(elements.tolist())) == sum(len(flat) for flat in stored.values())
    side = assemble(scattered(whole, weights, tp, ep, stored), like=whole)
    assert side.unmapped == ()
    assert side.errors == {}
    found = gathered(side, stored)
    assert set(found) == set(weights)
    assert [name for name in weights if not torch.equal(found[name], weights[name])] == []


def on_disk(
    config: dict[str, Any], shapes: dict[str, tuple[int, ...]], stored: Stored
) -> Checkpoint:
    """Return a Hugging Face folder none of whose elements has the value of another."""
    refs = {}
    for name, tensor in numbered(shapes).items():
        refs[name] = TensorRef(name, shapes[name], "I64", Path("hf"), 0, contiguous(shapes[name]))
        stored[Path("hf"), name] = tensor.reshape(-1)
    return Checkpoint(Path(), "hf", config, Parallelism(), (Shard(Rank(), 0, refs),), ())


def scattered(
    whole: Assembled, weights: dict[str, torch.Tensor], tp: int, ep: int, stored: Stored
) -> Checkpoint:
    """Return a Megatron checkpoint of one stage, cut as the rules say."""
    assert whole.architecture is not None
    assert whole.config is not None
    vocabulary = whole.config.vocab_size or 0
    sizes = replace(whole.config, padded_vocab_size=-(-vocabulary // (24 * tp)) * 24 * tp)
    states: dict[Rank, dict[str, torch.Tensor]] = defaultdict(dict)
    each = max(1, sizes.num_experts // ep)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    transposed = whole.architecture.stores_transposed
    upright = {n: w.T if transposed(split_name(n)[0]) else w for n, w in weights.items()}
    for t, name, pieces in scatter(whole.architecture, sizes, shapes, tp):
        shape = [max(of[d][1] for _, _, of in pieces) for d in range(len(pieces[0][2]))]
        shard = torch.full(shape, -2)
        for source, box, of in pieces:
            assert bool((take(shard, of) == -2).all()), f"{name}: {of} is filled twice"
            put(
                shard, of, take(shard, of) * 0 - 1 if source is None else take(upright[source], box)
            )
        assert not bool((shard == -2).any()), f"{name}: not all is filled"
        front, local, rest = name.partition(".local_experts.")
        expert, _, tail = rest.partition(".")
        for e in range(ep):
            if not local:
                assert name not in states[Rank(t, 0, e)]
                states[Rank(t, 0, e)][name] = shard
            elif int(expert) // each == e:
                native = f"{front}{local}{int(expert) % each}.{tail}"
                states[Rank(t, 0, e)][native] = shard
    shards = []
    for rank, state in sorted(states.items()):
        file = Path(f"tp{rank.tp}-ep{rank.ep}")
        refs = {
            n: TensorRef(n, tuple(x.shape), "I64", file, 0, contiguous(tuple(x.shape)))
            for n, x in state.items()
        }
        stored |= {(file, n): x.reshape(-1) for n, x in state.items()}
        shards.append(Shard(rank, 0, refs))
    parallelism = Parallelism(tp=tp, ep=ep, etp=tp)
    return Checkpoint(Path(), "megatron", None, parallelism, tuple(shards), ())


def gathered(side: Assembled, stored: Stored) -> dict[str, torch.Tensor]:
    """Return the whole tensors, each element filled once, and alike in every copy."""
    found = {}
    for name, assembly in side.tensors.items():
        tensor = torch.full(assembly.shape, -2)
        for piece in assembly.pieces:
            assert bool((take(tensor, piece.box) == -2).all()), f"{name}: {piece.box} twice"
            part = take(content(piece.ref, stored), piece.of)
            for copy in piece.copies:
                assert torch.equal(take(content(copy.ref, stored), piece.of), part)
            put(tensor, piece.box, part)
        assert not bool((tensor == -2).any()), f"{name}: not all is filled"
        found[name] = tensor
    return found


def content(ref: TensorRef, stored: Stored) -> torch.Tensor:
    flat = stored[ref.file, ref.name]
    return flat.as_strided(ref.shape, ref.stride, ref.offset // 8)
