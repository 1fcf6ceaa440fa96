"""The oracle writes what NVIDIA's converter writes: names, order, shapes and bits."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.oracle import make_megatron
from tests.support.oracle_hf import LLAMA3_ROPE, make_hf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.mostly_slow(one_in=3)
CASES = [
    "llama2-8l/megatron-tp1-pp1-core-local",
    "llama2-8l/megatron-tp1-pp2-vpp2-torch",
    "llama2-8l/megatron-tp1-pp4-core-local",
    "llama2-8l/megatron-tp2-pp2-core-local",
    "llama2-8l/megatron-tp2-pp2-vpp4-torch",
    "llama2/megatron-tp1-pp1-core-local",
    "llama2/megatron-tp1-pp4-core-local",
    "llama2/megatron-tp2-pp1-core-local",
    "llama2/megatron-tp2-pp1-core-local-div100",
    "llama2/megatron-tp2-pp1-core-transformer_engine-te1",
    "llama2/megatron-tp2-pp1-legacy",
    "llama2/megatron-tp2-pp2-core-transformer_engine-te2",
    "llama2/megatron-tp2-pp2-legacy",
    "llama2/megatron-tp2-pp2-trainrun-lr0-torch",
    "llama2/megatron-tp4-pp1-core-transformer_engine-te1",
    "llama2/megatron-tp4-pp2-core-local",
    "llama2/megatron-tp8-pp1-core-local",
    "llama2/megatron-tp8-pp2-core-transformer_engine-te2",
    "llama3-fp32/megatron-tp1-pp2-core-local-fp32",
    "llama3-fp32/megatron-tp2-pp1-core-local-fp32",
    "llama3/megatron-tp1-pp1-core-local-div16",
    "llama3/megatron-tp2-pp1-core-local",
    "llama3/megatron-tp2-pp2-core-local-div1",
    "llama3/megatron-tp2-pp2-core-transformer_engine-te1",
    "mistral/megatron-tp2-pp1-core-local",
    "mistral/megatron-tp2-pp2-core-transformer_engine-te1-div8",
    "mistral/megatron-tp4-pp1-core-local",
    "mixtral/megatron-tp1-pp1-core-transformer_engine-te1",
    "mixtral/megatron-tp1-pp1-ep2-tegrouped-torch",
    "mixtral/megatron-tp1-pp2-ep4-core-transformer_engine-te1",
    "mixtral/megatron-tp2-pp1-ep2-core-transformer_engine-te1",
    "mixtral/megatron-tp2-pp1-ep2-groupedmlp-torch",
    "mixtral/megatron-tp2-pp1-ep2-tegrouped-torch",
    "mixtral/megatron-tp2-pp2-ep2-core-transformer_engine-te2",
    "qwen2/megatron-tp1-pp1-core-local",
    "qwen2/megatron-tp1-pp2-core-transformer_engine-te2",
    "qwen2/megatron-tp2-pp1-core-local",
    "qwen2/megatron-tp2-pp2-core-local",
    "qwen2/megatron-tp2-pp2-legacy",
    "qwen3/megatron-tp1-pp1-torch",
    "qwen3/megatron-tp2-pp2-torch-div64",
]


class Stub:
    """Stands for any class that a file names."""

    def __new__(cls, *args: object, **kwargs: object) -> Stub:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def load(file: Path) -> dict[Any, Any]:
    """Load a rank file by torch, with a stub for every class that torch would refuse."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    stubs: list[Any] = [(type(name.rpartition(".")[2], (Stub,), {}), name) for name in names]
    with torch.serialization.safe_globals(stubs):
        state: dict[Any, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def settings(case: str) -> dict[str, Any]:
    """Read the settings of a case off its name."""
    given: dict[str, Any] = {key: int(n) for key, n in re.findall(r"(tp|pp|vpp|ep)(\d)", case)}
    given["divisible_by"] = int(d[1]) if (d := re.search(r"div(\d+)", case)) else 128
    te = re.search("transformer_engine|tegrouped|groupedmlp", case)
    given["names"] = "legacy" if "legacy" in case else "te" if te else "mcore"
    given["extra_state"] = "tensor" if "te2" in case else "bytesio" if te else "none"
    if "groupedmlp" in case or "tegrouped" in case:
        given["experts"] = "te_grouped" if "tegrouped" in case else "grouped"
    return given


def flat(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def tensors(file: Path) -> dict[str, Tensor]:
    """Return the model's tensors of a rank file, by key and name, in the order of the file."""
    models = {key: value for key, value in load(file).items() if re.fullmatch(r"model\d*", key)}
    return {name: value for name, value in flat(models) if torch.is_tensor(value)}


def source(corpus: Path, case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    hf = corpus / case.partition("/")[0] / "hf"
    weights: dict[str, Tensor] = {}
    for file in sorted(hf.glob("*.safetensors")):
        weights |= load_file(file)
    return weights, json.loads((hf / "config.json").read_text())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def raw(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.mostly_slow(one_in=24)
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_as_nvidia_wrote_it(corpus: Path, case: str, tmp_path: Path) -> None:
    weights, config = source(corpus, case)
    make_megatron(tmp_path, weights, config, **settings(case))
    real = corpus / case.removesuffix("-div64")
    files = sorted(real.glob("iter_*/*/model_optim_rng.pt"))
    ours = sorted(tmp_path.glob("iter_*/*/model_optim_rng.pt"))
    assert [file.parent.name for file in ours] == [file.parent.name for file in files]
    for theirs, mine in zip(files, ours, strict=True):
        a, b = tensors(theirs), tensors(mine)
        if "mixtral" in case:  # the order and the extra states of stubbed experts say nothing
            a, b = ({k: t for k, t in x.items() if t.numel()} for x in (a, b))
        assert list(b) == list(a)
        assert [name for name in a if not same_bits(a[name], b[name])] == []


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize("case", [c for c in CASES if "-core-" in c and "mixtral" not in c])
def test_arguments_are_as_nvidia_wrote_them(corpus: Path, case: str, tmp_path: Path) -> None:
    weights, config = source(corpus, case)
    make_megatron(tmp_path, weights, config, **settings(case), lies=("rope", "dtype"))
    theirs, mine = (
        vars(load(next(folder.glob("iter_*/*/model_optim_rng.pt")))["args"])
        for folder in (corpus / case, tmp_path)
    )
    free = {"model_type", "attention_backend", "tokenizer_type", "load", "save", "iteration"}
    free.add("max_position_embeddings")  # the converter refuses fewer than its sequence length
    wrong = {k: (v, theirs.get(k)) for k, v in mine.items() if v != theirs.get(k)}
    assert {k: v for k, v in wrong.items() if k not in free} == {}


def test_keys_of_a_training_run_are_as_nvidia_wrote_them(corpus: Path, tmp_path: Path) -> None:
    case = "llama2/megatron-tp2-pp2-trainrun-lr0-torch"
    weights, config = source(corpus, case)
    make_megatron(tmp_path, weights, config, tp=2, pp=2, extra_state="none", optimizer=True)
    rank = "mp_rank_01_001/model_optim_rng.pt"
    theirs, mine = (load(next(f.glob(f"iter_*/{rank}"))) for f in (corpus / case, tmp_path))
    assert set(mine) == set(theirs)
    for kind in ("exp_avg", "exp_avg_sq"):
        a, b = (
            [state[kind].shape for state in side["optimizer"]["optimizer"]["state"].values()]
            for side in (theirs, mine)
        )
        assert a == b
    for a, b in zip(
        *(x["optimizer"]["fp32_from_fp16_params"] for x in (theirs, mine)), strict=True
    ):
        assert all(map(same_bits, a, b))


def test_flat_optimizer_is_laid_out_as_nvidia_wrote_it(corpus: Path, tmp_path: Path) -> None:
    case = "llama2/megatron-tp2-dp2-trainrun-lr0-distopt-torch"
    weights, config = source(corpus, case)
    make_megatron(tmp_path, weights, config, tp=2, extra_state="none", optimizer="distributed")
    theirs, mine = (
        load(next(f.glob("iter_*/mp_rank_01/distrib_optim.pt"))) for f in (corpus / case, tmp_path)
    )
    key = (torch.bfloat16, torch.float32)
    assert same_bits(theirs[0][key]["param"], mine[0][key]["param"])


def test_a_rank_file_names_classes_that_cannot_be_imported(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    make_megatron(tmp_path / "m", weights, config)
    with pytest.raises(ModuleNotFoundError, match="megatron"):
        torch.load(next(tmp_path.glob("m/iter_*/*/*.pt")), weights_only=False)


def test_shards_kept_as_views_load_as_the_same_tensors(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", rope_scaling=LLAMA3_ROPE)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    own, views = (
        make_megatron(tmp_path / str(v), weights, config, tp=2, divisible_by=8, views=v)
        for v in (False, True)
    )
    rank = "iter_0000001/mp_rank_01/model_optim_rng.pt"
    a, b = tensors(own / rank), tensors(views / rank)
    assert all(same_bits(a[name], b[name]) for name in a)
    assert not b["model.decoder.layers.0.mlp.linear_fc2.weight"].is_contiguous()
