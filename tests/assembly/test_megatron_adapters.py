"""Megatron's adapters are joined into PEFT's matrices.

Most are our own imitation, after the code of Megatron-Bridge: `linear_in` is split by the rank and
`linear_out` by rows where a layer is split by rows, `linear_in` by columns and `linear_out` by rows
where it is split by columns. The last test has shards of its own class.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.config.compare import why_not_compared
from ckptdiff.errors import CkptDiffError
from tests.assembly.test_wrapped_names import stored
from tests.support.conversions import converted
from tests.support.corpus import REPOSITORY
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.pairs import (
    compare,
    compare_and_diagnose,
    edit_rank,
    noise,
    open_pair,
    rank_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Tensors = dict[str, Tensor]

RANK, ALPHA, TP = 4, 6, 2
MODULES = {
    "self_attn.q_proj": "qkv", "self_attn.k_proj": "qkv", "self_attn.v_proj": "qkv",
    "self_attn.o_proj": "proj", "mlp.gate_proj": "fc1", "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
}  # fmt: skip


def peft_adapter(folder: Path, base: Path, *, shared: bool) -> Tensors:
    """Write an adapter of all layers; `shared`: fused layers have one `lora_A`."""
    tensors: Tensors = {}
    for name, weight in stored(base).items():
        module = name.removesuffix(".weight")
        layer, _, rest = module.removeprefix("model.layers.").partition(".")
        if rest not in MODULES:
            continue
        seed = int(layer) * 10 + (list(MODULES.values()) if shared else list(MODULES)).index(
            MODULES[rest] if shared else rest
        )
        rows, columns = weight.shape
        tensors[f"{module}.lora_A.weight"] = noise(RANK, columns, seed=seed) * 0.1
        tensors[f"{module}.lora_B.weight"] = noise(rows, RANK, seed=len(tensors) + 100) * 0.1
    folder.mkdir()
    front = "base_model.model."
    save_file({front + n: t for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return tensors


def shards(tensors: Tensors, layer: int, rank: int, config: dict[str, Any], kind: str) -> Tensors:
    """Return one rank's part of the adapter of a layer, as Megatron-Bridge names and splits it."""
    front = f"model.layers.{layer}."

    def of(module: str, end: str) -> Tensor:
        return tensors[f"{front}{module}.lora_{end}.weight"]

    def part(tensor: Tensor, dim: int = 0) -> Tensor:
        return tensor.chunk(TP, dim)[rank].clone()

    groups = config["num_key_value_heads"]
    q, k, v = (of(f"self_attn.{x}_proj", "B") for x in "qkv")
    qkv = torch.cat([x.reshape(groups, -1, RANK) for x in (q, k, v)], 1).reshape(-1, RANK)
    gate, up = of("mlp.gate_proj", "B"), of("mlp.up_proj", "B")
    own = f"decoder.layers.{layer}."
    attention, mlp = f"{own}self_attention.", f"{own}mlp."
    found = {
        f"{attention}linear_proj.adapter.linear_in.weight": part(of("self_attn.o_proj", "A"), 1),
        f"{attention}linear_proj.adapter.linear_out.weight": part(of("self_attn.o_proj", "B")),
        f"{mlp}linear_fc2.adapter.linear_in.weight": part(of("mlp.down_proj", "A"), 1),
        f"{mlp}linear_fc2.adapter.linear_out.weight": part(of("mlp.down_proj", "B")),
    }
    if kind == "canonical":
        for letter in "qkv":
            name = f"{attention}linear_qkv.adapter.adapter_{letter}."
            found[f"{name}linear_in.weight"] = part(of(f"self_attn.{letter}_proj", "A"))
            found[f"{name}linear_out.weight"] = part(of(f"self_attn.{letter}_proj", "B"))
        for word in ("gate", "up"):
            name = f"{mlp}linear_fc1.adapter.adapter_{word}."
            found[f"{name}linear_in.weight"] = part(of(f"mlp.{word}_proj", "A"))
            found[f"{name}linear_out.weight"] = part(of(f"mlp.{word}_proj", "B"))
        return found
    return found | {
        f"{attention}linear_qkv.adapter.linear_in.weight": part(of("self_attn.q_proj", "A")),
        f"{attention}linear_qkv.adapter.linear_out.weight": part(qkv),
        f"{mlp}linear_fc1.adapter.linear_in.weight": part(of("mlp.gate_proj", "A")),
        f"{mlp}linear_fc1.adapter.linear_out.weight": torch.cat([part(gate), part(up)]),
    }


def megatron_adapter(folder: Path, base: Path, tensors: Tensors, *, kind: str, alone: bool) -> Path:
    """Write the adapter as Megatron's, beside its base or alone."""
    config = json.loads((base / "config.json").read_text())
    make_megatron(folder, stored(base), config, tp=TP, pp=1)
    for rank in range(TP):

        def change(state: dict[str, Any], rank: int = rank) -> None:
            model = {} if alone else dict(state["model"])
            for layer in range(config["num_hidden_layers"]):
                model |= shards(tensors, layer, rank, config, kind)
            adapted = {n.partition(".adapter.")[0] for n in model if ".adapter." in n}
            for name in list(model):
                module, _, last = name.rpartition(".")
                if module in adapted:
                    model[f"{module}.to_wrap.{last}"] = model.pop(name)
            state["model"] = model
            state["args"].lora_rank, state["args"].lora_alpha = RANK, ALPHA

        edit_rank(rank_file(folder, f"{rank:02}"), change)
    return folder


@pytest.mark.parametrize("kind", ["fused", "canonical"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside its base"])
def test_the_layouts_of_both_are_one_adapter(
    kind: str, alone: bool, tiny_hf: Make, tmp_path: Path
) -> None:
    base, peft = tiny_hf(), tmp_path / "peft"
    tensors = peft_adapter(peft, base, shared=kind == "fused")
    megatron = megatron_adapter(tmp_path / "mg", base, tensors, kind=kind, alone=alone)
    for a, b in ((peft, megatron), (megatron, peft)):
        compared = compare(a, b)
        same = [r.name for r in compared.results.values() if r.status == "same"]
        assert sorted(same) == sorted(tensors)
        if alone:
            assert compared.statuses == {}
            assert compared.summary.verdict == "same"
            assert compare_and_diagnose(a, b)[1] == []
    # The rows of one head are those of another head.
    tensors["model.layers.1.self_attn.k_proj.lora_B.weight"][:1] += 1
    wrong = megatron_adapter(tmp_path / "wrong", base, tensors, kind=kind, alone=alone)
    (name,) = (n for n, s in compare(peft, wrong).statuses.items() if s == "differ")
    assert name == "model.layers.1.self_attn.k_proj.lora_B.weight"


@pytest.mark.parametrize("kind", ["fused", "canonical"])
def test_base_and_megatron_adapter_are_the_merged_model(
    kind: str, tiny_hf: Make, tmp_path: Path
) -> None:
    base, peft = tiny_hf(), tmp_path / "peft"
    tensors = peft_adapter(peft, base, shared=kind == "fused")
    megatron = megatron_adapter(tmp_path / "mg", base, tensors, kind=kind, alone=False)
    merged = tmp_path / "merged"
    converted(base, merged, "hf", adapter=peft)
    assert len(compare(base, merged).statuses) == 2 * len(MODULES)
    for adapter in (peft, megatron):
        assert compare_and_diagnose(base, merged, adapter=adapter)[0].statuses == {}
    # An unmerged checkpoint merged with its own adapter.
    assert compare_and_diagnose(megatron, merged, adapter=megatron)[0].statuses == {}
    out = tmp_path / "out"
    converted(megatron, out, "hf", like=base, adapter=megatron)
    assert compare(merged, out).statuses == {}


@pytest.mark.parametrize("lost", ["linear_qkv.adapter.linear_in", "linear_qkv.adapter", "alpha"])
def test_what_a_rank_does_not_hold_is_said(lost: str, tiny_hf: Make, tmp_path: Path) -> None:
    base, peft = tiny_hf(), tmp_path / "peft"
    tensors = peft_adapter(peft, base, shared=True)
    megatron = megatron_adapter(tmp_path / "mg", base, tensors, kind="fused", alone=True)

    def change(state: dict[str, Any]) -> None:
        held = state["model"]
        state["model"] = {
            name: held[name] for name in held if f"1.self_attention.{lost}" not in name
        }
        if lost == "alpha":
            del state["args"].lora_alpha

    for rank in range(TP):
        if rank or lost == "alpha":
            edit_rank(rank_file(megatron, f"{rank:02}"), change)
    with pytest.raises(CkptDiffError) as caught:
        compare_and_diagnose(base, base, adapter=megatron)
    if lost != "alpha":
        assert "cannot be joined to one matrix" in str(caught.value)
        return
    assert "states no rank and alpha" in str(caught.value)
    a, b = open_pair(peft, megatron)
    assert why_not_compared(a, b, []) == (
        "what the adapters are multiplied by was not compared: B states no rank and alpha"
    )


def test_what_megatron_bridge_computes_is_what_is_merged(tmp_path: Path) -> None:
    """The file holds what ParallelLinearAdapter of Megatron-Bridge (August 2026) had and computed.

    On two CPU ranks of gloo, with megatron-core 0.16.1: its shards, an input of each layer, and the
    layer's output on each rank. The base is all zeros, so what is merged is the adapter alone.
    """
    held = load_file(REPOSITORY / "tests/data/bridge-lora-tp2.safetensors")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    sizes: dict[str, Any] = {"hidden": 64, "heads": 4, "groups": 2, "head_dim": 16, "ffn": 96}
    weights = make_hf(base, layers=1, dtype=torch.float32, single=True, **sizes)
    config = json.loads((base / "config.json").read_text())
    weights = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    make_megatron(adapter, weights, config, tp=TP, pp=1)
    for rank in range(TP):
        front = f"rank {rank}/"
        own = {n.removeprefix(front): t for n, t in held.items() if n.startswith(front)}

        def change(state: dict[str, Any], own: Tensors = own) -> None:
            state["model"] = own
            state["args"].lora_rank, state["args"].lora_alpha = RANK, ALPHA

        edit_rank(rank_file(adapter, f"{rank:02}"), change)
    out = tmp_path / "merged"
    converted(base, out, "megatron", tp=TP, adapter=adapter)
    files = [rank_file(out, f"{rank:02}") for rank in range(TP)]
    models = [torch.load(file, weights_only=False)["model"] for file in files]
    layers = [name.partition("/")[2] for name in held if name.startswith("input/")]
    assert len(layers) == 4
    for layer in layers:
        shard = [model[f"decoder.layers.0.{layer}.weight"] for model in models]
        for rank in range(TP):
            is_row = layer.endswith(("linear_proj", "linear_fc2"))
            product = torch.cat(shard, 1) if is_row else shard[rank]
            expected = held[f"output {rank}/{layer}"]
            found = held[f"input/{layer}"] @ product.T
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert expected.abs().max() > 0.1
