"""Distributed checkpoints that ckptdiff writes, as torch and megatron-core read them."""

from __future__ import annotations

import io
import json
import pickletools
import re
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from ckptdiff.arch.qwen3_next import QWEN3_NEXT
from ckptdiff.assembly.recipe import Assembly, Piece
from ckptdiff.checkpoint import Rank, TensorRef, contiguous
from ckptdiff.config import megatron_args as restate
from ckptdiff.config.model import from_huggingface
from ckptdiff.conversion import torch_dist_files as distributed
from ckptdiff.errors import BadArgument
from ckptdiff.formats.dcp import read_metadata
from tests.support.conversions import converted, different, hf_tensors, torch_loads
from tests.support.corpus import CORPUS, from_corpus
from tests.support.numbered import numbered
from tests.support.oracle import Layout
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.config.restating import Restated
    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.mostly_slow(one_in=3)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "tied": {"family": "llama", "tied": True},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3", "dtype": torch.float32},
    "mistral": {"family": "mistral", "dtype": torch.float16},
    "mixtral": {"family": "mixtral"},
}
ITERATION = "iter_0000001"


def torch_reads(folder: Path) -> dict[str, Any]:
    """Return everything in a distributed checkpoint, as PyTorch itself puts it together."""
    whole = folder.parent / f"{folder.name}-whole.pt"
    dcp_to_torch_save(folder / ITERATION, whole)
    return torch_loads(whole)


def stacked(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Return what Megatron's distributed checkpoints hold of a model with layers of one kind."""
    layout = Layout(weights, config, 1, 1, "te", "sequential", None, "repeat", 32, False)
    layers = range(config["num_hidden_layers"])
    members: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in layout.model(0, 0, layers, first=True, last=True).items():
        plain = re.sub(r"layers\.\d+\.", "layers.", name)
        members[re.sub(r"local_experts\.\d+", "experts", plain)].append(tensor)
    found = {}
    for name, tensors in members.items():
        whole = torch.stack(tensors)
        if ".experts." in name:
            whole = whole.reshape(len(layers), -1, *tensors[0].shape)
        found[name] = whole if name.startswith("decoder.layers.") else tensors[0]
    return found


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("model", MODELS)
def test_torch_reads_what_an_independent_writer_stacks(tmp_path: Path, model: str) -> None:
    weights = make_hf(tmp_path / "hf", **MODELS[model])
    config = json.loads((tmp_path / "hf/config.json").read_text())
    converted(tmp_path / "hf", tmp_path / "out", "torch_dist", vocab_divisible_by=32)
    found = torch_reads(tmp_path / "out")
    states = {name: found.pop(name) for name in list(found) if "._extra_state/shard_" in name}
    assert different(found, stacked(weights, config)) == []
    assert "decoder.layers.self_attention.linear_qkv._extra_state/shard_1_2" in states
    assert ("output_layer.weight" in found) == (not config["tie_word_embeddings"])
    converted(tmp_path / "out", tmp_path / "back", "hf", like=tmp_path / "hf")
    assert different(hf_tensors(tmp_path / "back"), weights) == []


def test_states_hold_nothing_and_are_there_for_each_layer_and_expert(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", "mixtral")
    converted(tmp_path / "hf", tmp_path / "out", "torch_dist")
    metadata = FileSystemReader(tmp_path / "out" / ITERATION).read_metadata()
    states = {
        name
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, BytesStorageMetadata)
    }
    layer = "decoder.layers."
    modules = ("self_attention.linear_qkv", "self_attention.linear_proj", "pre_mlp_layernorm",
               "self_attention.core_attention")  # fmt: skip
    wanted = {f"{layer}{m}._extra_state/shard_{i}_2" for m in modules for i in range(2)}
    wanted |= {
        f"{layer}mlp.experts.experts.linear_fc{n}._extra_state/shard_{i}.{e}_2.4"
        for n in (1, 2)
        for i in range(2)
        for e in range(4)
    }
    assert states == wanted | {"decoder.final_layernorm._extra_state/shard_0_1"}
    for index, info in metadata.storage_data.items():
        if index.fqn in states:
            content = (tmp_path / "out" / ITERATION / info.relative_path).read_bytes()
            blob = content[info.offset : info.offset + info.length]
            assert torch.load(io.BytesIO(blob), weights_only=True) == [None]


def test_metadata_names_no_class_but_torchs(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", "torch_dist")
    (content,) = (text for name, text in plan.texts if name.endswith(".metadata"))
    named = {str(arg) for code, arg, _ in pickletools.genops(content) if code.name == "GLOBAL"}
    assert {name.partition(" ")[0].partition(".")[0] for name in named} == {"torch"}
    assert str(tmp_path).encode() not in content


def test_what_makes_it_a_checkpoint_is_written_last(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    plan, _ = converted(tmp_path / "hf", tmp_path / "out", "torch_dist")
    names = [name.rpartition("/")[2] for name, _ in plan.texts]
    assert names == ["common.pt", "metadata.json", ".metadata", "latest_checkpointed_iteration.txt"]
    common = torch_loads(tmp_path / "out" / ITERATION / "common.pt")
    assert (common["iteration"], common["checkpoint_version"]) == (1, 3.0)
    assert common["content_metadata"] == {"singleton_local_shards": False}
    # A load would ask for an optimizer, and for states of random numbers.
    assert common["args"].no_save_optim
    assert common["args"].no_save_rng


def test_large_tensors_are_cut_into_chunks_and_chunks_laid_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    monkeypatch.setattr(distributed, "MAX_CHUNK", 1000)
    converted(
        tmp_path / "hf", tmp_path / "out", "torch_dist",
        vocab_divisible_by=32, max_shard_size=20_000,
    )  # fmt: skip
    files = sorted((tmp_path / "out" / ITERATION).glob("*.distcp"))
    assert len(files) > 3
    assert all(file.stat().st_size < 20_000 + 1000 for file in files)
    described, _ = read_metadata(tmp_path / "out" / ITERATION)
    assert all(r.length < 3000 for tensor in described for r in tensor.records)
    found = {n: v for n, v in torch_reads(tmp_path / "out").items() if "_extra_state" not in n}
    assert different(found, stacked(weights, config)) == []


def test_layers_that_args_tell_apart_are_not_stacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_hf(tmp_path / "hf", "mixtral")
    real = restate.megatron_args

    def told(*arguments: Any, **rest: Any) -> Restated[Namespace]:
        restated = real(*arguments, **rest)
        restated.settings.moe_layer_freq = [1, 1]
        return restated

    monkeypatch.setattr("ckptdiff.conversion.plan_megatron.megatron_args", told)
    converted(tmp_path / "hf", tmp_path / "out", "torch_dist")
    found = torch_reads(tmp_path / "out")
    fc1 = found["decoder.layers.1.mlp.experts.experts.linear_fc1.weight"]
    expert = "model.layers.1.block_sparse_moe.experts.3."
    wanted = torch.cat([weights[f"{expert}w1.weight"], weights[f"{expert}w3.weight"]])
    assert torch.equal(fc1[3], wanted)
    state = "decoder.layers.1.mlp.experts.experts.linear_fc1._extra_state/shard_3_4"
    assert state in found
    assert "decoder.layers.0.pre_mlp_layernorm._extra_state/shard_0_1" in found


def test_the_local_spec_fuses_every_norms_name(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", "mixtral")
    converted(tmp_path / "hf", tmp_path / "out", "torch_dist", names="mcore")
    described, _ = read_metadata(tmp_path / "out" / ITERATION)
    names = {tensor.name for tensor in described}
    assert "decoder.layers.mlp.linear_fc1.layer_norm_weight" in names
    assert "decoder.layers.pre_mlp_layernorm.weight" not in names
    assert compare(tmp_path / "hf", tmp_path / "out").summary.weights == "same"


def test_the_legacy_model_is_refused(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    with pytest.raises(BadArgument, match="legacy model"):
        converted(tmp_path / "hf", tmp_path / "out", "torch_dist", names="legacy")


def test_mambas_parts_have_names_of_their_own_and_layers_are_never_stacked(tmp_path: Path) -> None:
    sizes = {"mamba_num_heads": 4, "mamba_head_dim": 3, "n_groups": 2, "ssm_state_size": 5}
    config = {"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"],
              "hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 2, "num_hidden_layers": 2, "vocab_size": 4,
              "tie_word_embeddings": False, **sizes}  # fmt: skip
    inner, state = 12, 10
    shapes: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (4, 4)}
    for layer in ("backbone.layers.0.", "backbone.layers.1."):
        shapes[f"{layer}norm.weight"] = (4,)
        layer += "mixer."
        shapes[f"{layer}in_proj.weight"] = (2 * inner + 2 * state + 4, 4)
        shapes |= {f"{layer}conv1d.weight": (inner + 2 * state, 1, 3),
                   f"{layer}conv1d.bias": (inner + 2 * state,)}  # fmt: skip
        shapes |= {f"{layer}{name}": (4,) for name in ("A_log", "D", "dt_bias")}
        shapes |= {f"{layer}norm.weight": (inner,), f"{layer}out_proj.weight": (4, inner)}
    shapes |= {"backbone.norm_f.weight": (4,), "lm_head.weight": (4, 4)}
    weights = {name: tensor.float() for name, tensor in numbered(shapes).items()}
    (tmp_path / "hf").mkdir()
    save_file(weights, tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    converted(tmp_path / "hf", tmp_path / "out", "torch_dist")
    found = torch_reads(tmp_path / "out")
    for number in range(2):
        mixer, of = f"backbone.layers.{number}.mixer.", f"decoder.layers.{number}.mixer."
        runs = torch.split(weights[f"{mixer}in_proj.weight"], [inner, inner, state, state, 4])
        for part, run in zip(("z", "x", "B", "C", "dt"), runs, strict=True):
            assert torch.equal(found[f"{of}in_proj.weight.{part}"], run)
        for kind in ("weight", "bias"):
            runs = torch.split(weights[f"{mixer}conv1d.{kind}"], [inner, state, state])
            for part, run in zip("xBC", runs, strict=True):
                assert torch.equal(found[f"{of}conv1d.{kind}.{part}"], run)
        norm = weights[f"backbone.layers.{number}.norm.weight"]
        assert torch.equal(found[f"{of}in_proj.layer_norm_weight"], norm)
        assert f"{of}in_proj._extra_state/shard_0_1" in found
    assert "decoder.final_norm.weight" in found
    assert "output_layer._extra_state/shard_0_1" in found  # a GPTModel asks for none
    converted(tmp_path / "out", tmp_path / "back", "hf", like=tmp_path / "hf")
    assert different(hf_tensors(tmp_path / "back"), weights) == []


def test_gated_delta_nets_parts_have_names_of_their_own() -> None:
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 3,
             "linear_value_head_dim": 5}  # fmt: skip
    plain = {"hidden_size": 4, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = from_huggingface({"model_type": "qwen3_next", **plain, **sizes})
    name = "decoder.layers.0.self_attention.in_proj.weight"
    ref = TensorRef(name, (60, 4), "F32", Path("file"), 0, contiguous((60, 4)))
    box = ((0, 60), (0, 4))
    whole = Assembly(name, (60, 4), "F32", (Piece(ref, Rank(), box, box),))
    (file,), texts = distributed.distributed_files(
        {name: whole}, QWEN3_NEXT, config, Namespace(linear_attention_freq=4),
        iteration=1, names="te", max_size=10**9,
    )  # fmt: skip
    rows = {tensor.pieces[0].of[0] for tensor in file.tensors}
    assert rows == {(0, 6), (6, 12), (12, 32), (32, 52), (52, 56), (56, 60)}
    content = dict(texts)[f"{ITERATION}/.metadata"]
    for part in ("query", "key", "value", "z", "beta", "alpha"):
        assert f"{name}.{part}".encode() in content


# What NVIDIA's code wrote.


def sources() -> list[str]:
    return sorted(folder.parent.name for folder in CORPUS.glob("*/hf"))


def beside(source: str) -> list[Path]:
    """Return the distributed checkpoints of a model, but for those of another layout."""
    found = sorted((CORPUS / source).glob("megatron-*torch_dist*"))
    return [folder for folder in found if "singleton" not in folder.name]


@pytest.mark.mostly_slow(one_in=18)
@pytest.mark.parametrize("source", from_corpus(sources()))
def test_there_and_back_is_the_same(source: str, tmp_path: Path) -> None:
    hf = CORPUS / source / "hf"
    converted(hf, tmp_path / "out", "torch_dist", tp=2, pp=1, vocab_divisible_by=8)
    there = compare(hf, tmp_path / "out")
    assert there.statuses == {}
    assert there.summary.weights == "same"
    assert not there.b.unmapped
    converted(tmp_path / "out", tmp_path / "back", "hf", like=hf)
    back = compare(hf, tmp_path / "back")
    assert back.statuses == {}
    assert different(hf_tensors(tmp_path / "back"), hf_tensors(hf)) == []


@pytest.mark.sampled(one_in=2)
@pytest.mark.mostly_slow(one_in=27)
@pytest.mark.parametrize(
    ("source", "other"),
    from_corpus(
        ((source, folder.name) for source in sources() for folder in beside(source)), values=2
    ),
)
def test_what_nvidia_wrote_has_the_same_entries(source: str, other: str, tmp_path: Path) -> None:
    (root,) = (CORPUS / source / other).glob("iter_*")
    wanted, states = read_metadata(root)
    shapes = {t.name: (t.shape, t.dtype) for t in wanted if "optimizer." not in t.name}
    rows = shapes["embedding.word_embeddings.weight"][0][0]
    hf = CORPUS / source / "hf"
    converted(hf, tmp_path / "out", "torch_dist", vocab_divisible_by=rows)
    found, more = read_metadata(tmp_path / "out" / ITERATION)
    assert {t.name: (t.shape, t.dtype) for t in found} == shapes
    assert {s for s in states if "_extra_state" in s} <= set(more)
    if "trained" not in other:
        there = compare(CORPUS / source / other, tmp_path / "out")
        # Rows of no token hold what the writer left in them.
        assert set(there.statuses) <= {"model.embed_tokens.weight", "lm_head.weight"}
        assert compare(hf, tmp_path / "out").statuses == {}


# The real megatron-core.

LLAMAS: dict[str, Any] = {"hidden": 64, "heads": 8, "groups": 4, "ffn": 96,
                          "dtype": torch.float32, "transformers": 5}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "tp"), [("llama", 1), ("llama", 2), ("qwen2", 2), ("qwen3", 2)])
def test_megatron_loads_llamas_kin(family: Any, tp: int, oracle: Oracle, tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", family, **LLAMAS)
    check_loaded(oracle, family, tmp_path, tp, 1)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("model", "tp", "ep"),
    [
        *((model, 2, 1) for model in (
            "gpt2", "phi3", "mixtral", "qwen2_moe", "gpt_oss", "glm4_moe",
        )),
        *((model, 1, 2) for model in ("mixtral", "glm4_moe")),
        ("olmo2", 1, 1),
    ],
)  # fmt: skip
def test_megatron_loads_it_and_saves_the_same(
    model: str, tp: int, ep: int, oracle: Oracle, tmp_path: Path
) -> None:
    oracle.compare("oracle_families", ranks=tp * ep, model=model, tp=tp, ep=ep, fault=False,
                   folder=str(tmp_path))  # fmt: skip
    check_loaded(oracle, model, tmp_path, tp, ep)
    wanted, states = read_metadata(tmp_path / "megatron" / ITERATION)
    found, more = read_metadata(tmp_path / "out" / ITERATION)
    assert {t.name: (t.shape, t.dtype) for t in found} == {
        t.name: (t.shape, t.dtype) for t in wanted
    }
    assert set(states) <= set(more)


def check_loaded(oracle: Oracle, model: str, folder: Path, tp: int, ep: int) -> None:
    """Convert `folder/hf`, and hold what megatron-core computes with it against transformers."""
    converted(
        folder / "hf", folder / "out", "torch_dist", names="mcore", vocab_divisible_by=24 * tp
    )
    result = oracle.compare(
        "oracle_torch_dist", ranks=tp * ep, model=model, hf=str(folder / "hf"),
        iteration=str(folder / "out" / ITERATION), tp=tp, ep=ep,
    )  # fmt: skip
    assert result["max_abs"] < 1e-5
    assert result["spread"] > 0.1
    assert result["not there"] == []
    assert result["not asked for"] == []
    assert result["not loaded"] == []
