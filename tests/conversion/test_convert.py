"""Conversions against an independent writer, torch and the safetensors library."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.errors import BadArgument, UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.assembly.test_quantisation import FP8, dequantise, quantise
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.oracle_meta import make_meta
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=3)
CUTS = [
    ({"family": "llama"}, {"tp": 1}),
    ({"family": "llama"}, {"tp": 2, "pp": 2, "names": "te"}),
    ({"family": "llama"}, {"tp": 2, "pp": 2, "names": "legacy"}),
    ({"family": "llama", "layers": 8}, {"pp": 2, "vpp": 2}),
    ({"family": "llama", "heads": 8, "groups": 8, "head_dim": 4}, {"tp": 8}),
    ({"family": "mistral", "dtype": torch.float16}, {"tp": 2}),
    ({"family": "qwen2"}, {"tp": 2, "pp": 2}),
    ({"family": "qwen2"}, {"tp": 2, "pp": 2, "names": "legacy"}),
    ({"family": "qwen2", "tied": False}, {"tp": 2, "names": "te"}),
    ({"family": "qwen3", "dtype": torch.float32}, {"tp": 2, "pp": 2, "names": "te"}),
    ({"family": "mixtral"}, {"tp": 2, "ep": 2}),
    ({"family": "mixtral"}, {"tp": 1, "pp": 2, "ep": 4, "names": "te"}),
    ({"family": "mixtral"}, {"tp": 2, "ep": 2, "names": "te", "experts": "te_grouped"}),
]


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize(("model", "cut"), CUTS)
def test_shards_are_those_of_an_independent_writer(
    tmp_path: Path, model: dict[str, Any], cut: dict[str, Any]
) -> None:
    weights = make_hf(tmp_path / "hf", **model)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    wanted = make_megatron(tmp_path / "wanted", weights, config, **cut, divisible_by=32)
    grouped = cut.pop("experts", None) == "te_grouped"
    converted(
        tmp_path / "hf", tmp_path / "out", "megatron", **cut,
        vocab_divisible_by=32, moe_grouped_gemm=grouped,
    )  # fmt: skip
    found = rank_tensors(tmp_path / "out")
    assert different(found, rank_tensors(wanted, trusted=True)) == []
    assert len(found) >= len(weights) // 2
    # And back, from what the other writer wrote.
    converted(wanted, tmp_path / "back", "hf")
    assert different(hf_tensors(tmp_path / "back"), weights) == []


@pytest.mark.parametrize(
    ("layers", "options", "held"),
    [
        (5, {"pp": 2}, [3, 2]),
        (5, {"pp": 3}, [2, 1, 2]),
        (7, {"pp": 3}, [3, 2, 2]),
        (5, {"pp": 3, "first_layers": 1, "last_layers": 2}, [1, 2, 2]),
        (5, {"pp": 2, "last_layers": 4}, [1, 4]),
    ],
)
def test_uneven_stages(
    tmp_path: Path, layers: int, options: dict[str, Any], held: list[int]
) -> None:
    weights = make_hf(tmp_path / "hf", layers=layers)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    if layers == 7:
        held = [2 + 1, 2, 2]
    wanted = make_megatron(
        tmp_path / "wanted", weights, config, pp=options["pp"], layers_per_stage=held
    )
    converted(tmp_path / "hf", tmp_path / "out", "megatron", **options)
    assert different(rank_tensors(tmp_path / "out"), rank_tensors(wanted, trusted=True)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tp": 3}, r"TP 3: 4 attention heads are not divisible by it.*; TP 1, 2 or 4 would do$"),
        ({"pp": 4}, r"PP 4: there are only 2 layers; PP 1 or 2 would do$"),
        ({"pp": 2, "vpp": 2}, r"VPP 2: 2 layers are not divisible by 2 stages of 2 chunks; VPP 1"),
        ({"pp": 2, "first_layers": 5}, r"with 5 layers on the first stage"),
        ({"moe_grouped_gemm": True}, r"choose the names te"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    make_hf(tmp_path / "hf")
    with pytest.raises((BadArgument, UnsupportedLayout), match=words):
        converted(tmp_path / "hf", tmp_path / "out", "megatron", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_round_trip_through_every_format(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", layers=4, heads=8, groups=4, head_dim=4)
    steps: list[tuple[Any, dict[str, Any]]] = [
        ("megatron", {"tp": 4, "pp": 2}),
        ("megatron", {"tp": 2, "pp": 4, "names": "te", "vocab_divisible_by": 7}),
        ("megatron", {"tp": 1, "pp": 2, "names": "legacy"}),
        ("hf", {}),
    ]
    source = tmp_path / "hf"
    for number, (to, options) in enumerate(steps):
        out = tmp_path / f"step-{number}"
        converted(source, out, to, **options)
        source = out
    assert different(hf_tensors(source), weights) == []


@pytest.mark.parametrize("mp", [1, 2])
def test_meta_becomes_hf_and_megatron(tmp_path: Path, mp: int) -> None:
    weights = make_hf(tmp_path / "hf", vocab=64)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    meta = make_meta(tmp_path / "meta", weights, config, mp=mp)
    converted(meta, tmp_path / "back", "hf")
    assert different(hf_tensors(tmp_path / "back"), weights) == []
    converted(meta, tmp_path / "out", "megatron", tp=2)
    wanted = make_megatron(tmp_path / "wanted", weights, config, tp=2)
    assert different(rank_tensors(tmp_path / "out"), rank_tensors(wanted, trusted=True)) == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_casts_are_torchs(tmp_path: Path, dtype: str, stored: torch.dtype) -> None:
    to = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    weights = make_hf(tmp_path / "hf", single=True, dtype=stored)
    name = "model.layers.1.mlp.down_proj.weight"
    edge = weights[name].flatten()
    edge[:4] = torch.tensor([60000.0, -3.0e38, 1e-30, -0.0], dtype=stored)
    save_file(weights, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    _, lost = converted(tmp_path / "hf", tmp_path / "out", "hf", dtype=dtype)
    found = hf_tensors(tmp_path / "out")
    wanted = {n: w.to(to) for n, w in weights.items()}
    assert different(found, wanted) == []
    for n, weight in weights.items():
        before, after = weight.double(), wanted[n].double()
        loss = lost[n].loss if n in lost else None
        counts = (
            int((before != after).sum()),
            int((before.isfinite() & ~after.isfinite()).sum()),
            int(((after == 0) & (before != 0)).sum()),
        )
        assert counts == ((loss.rounded, loss.overflowed, loss.flushed) if loss else (0, 0, 0))


def test_what_a_cast_loses_counts_once_however_many_ranks_hold_it(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", dtype=torch.float32, vocab=60)
    _, lost = converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=2, dtype="bf16")
    for name, weight in weights.items():
        changed = int((weight != weight.bfloat16().float()).sum())
        assert lost[name].loss.rounded == changed


def test_files_are_cut_and_indexed_as_asked(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    converted(tmp_path / "hf", tmp_path / "out", "hf", max_shard_size=9000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= 9000
        assert all(index["weight_map"][name] == file.name for name in held)
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in weights.values())
    assert different(hf_tensors(tmp_path / "out"), weights) == []


def test_a_tokenizer_comes_along(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    (tmp_path / "hf/modeling_own.py").write_text("raise SystemExit")
    converted(tmp_path / "hf", tmp_path / "mid", "megatron", tp=2)
    converted(tmp_path / "mid", tmp_path / "plain", "hf")
    assert not (tmp_path / "plain/tokenizer.json").exists()
    conversion, _ = converted(tmp_path / "mid", tmp_path / "out", "hf", like=tmp_path / "hf")
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out/modeling_own.py").exists()
    assert any("tokenizer.json" in note for note in conversion.notes)


def test_padding_stays_behind(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", vocab=61)
    conversion, _ = converted(tmp_path / "hf", tmp_path / "mid", "megatron", tp=2)
    assert any("256: 195 rows" in note for note in conversion.notes)
    embedding = rank_tensors(tmp_path / "mid")["mp_rank_01 model embedding.word_embeddings.weight"]
    assert torch.equal(embedding, weights["model.embed_tokens.weight"][-1:].expand(128, -1))
    converted(tmp_path / "mid", tmp_path / "out", "hf")
    assert len(hf_tensors(tmp_path / "out")["lm_head.weight"]) == 61


def test_what_no_rule_knows_is_refused_or_listed(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    odd = {"model.vision.patch.weight": torch.ones(3, 4)}
    save_file(weights | odd, tmp_path / "hf/model.safetensors")
    with pytest.raises(UnsupportedLayout, match=r"model\.vision\.patch\.weight"):
        converted(tmp_path / "hf", tmp_path / "out", "megatron")
    assert not (tmp_path / "out.partial").exists()
    conversion, _ = converted(tmp_path / "hf", tmp_path / "out", "megatron", allow_unmapped=True)
    assert conversion.left == ("model.vision.patch.weight",)
    # Within Hugging Face's own format, nothing has to be known.
    converted(tmp_path / "hf", tmp_path / "same", "hf")
    assert different(hf_tensors(tmp_path / "same"), weights | odd) == []


def test_a_drifted_replica_is_told_and_rank_0_is_taken(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    make_megatron(tmp_path / "mid", weights, config, tp=2)
    name = "decoder.layers.0.input_layernorm.weight"
    ref = next(
        shard.tensors[name]
        for shard in open_checkpoint(tmp_path / "mid").shards
        if shard.rank.tp == 1
    )
    with ref.file.open("r+b") as file:
        file.seek(ref.offset)
        file.write(b"\x12\x34")
    converted(tmp_path / "mid", tmp_path / "out", "hf")
    assert different(hf_tensors(tmp_path / "out"), weights) == []


def test_the_configs_agree(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=2)
    comparison = compare(tmp_path / "hf", tmp_path / "out")
    assert comparison.summary.conflicts == []
    assert comparison.summary.verdict == "same"


@pytest.mark.slow
def test_block_quantised_weights_become_numbers(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True, hidden=256, ffn=384, heads=8, head_dim=32)
    stored, wanted = {}, dict(weights)
    for name, weight in weights.items():
        stored[name] = weight
        if "_proj" in name:
            stored[name], factors = quantise(weight)
            stored[f"{name}_scale_inv"] = factors
            wanted[name] = dequantise(stored[name], factors).bfloat16()
    save_file(stored, tmp_path / "hf/model.safetensors")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps(config | {"quantization_config": FP8}))
    conversion, _ = converted(tmp_path / "hf", tmp_path / "plain", "hf")
    assert different(hf_tensors(tmp_path / "plain"), wanted) == []
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())
    assert any("quant" in note for note in conversion.notes)
    converted(tmp_path / "hf", tmp_path / "mid", "megatron", tp=2, pp=2)
    converted(tmp_path / "mid", tmp_path / "back", "hf")
    assert different(hf_tensors(tmp_path / "back"), wanted) == []


def test_another_plain_layout_of_the_same_tensors(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", kind="bin")
    converted(tmp_path / "hf", tmp_path / "out", "hf")
    assert different(hf_tensors(tmp_path / "out"), weights) == []
