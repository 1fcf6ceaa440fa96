"""Files of torch.save as programs leave them: told by content, opened under whatever key."""

from __future__ import annotations

import json
import sys
import zipfile
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.errors import CorruptFile, MissingShard, NotACheckpoint, UnsupportedLayout
from ckptdiff.formats import open_checkpoint, read_entries
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4).bfloat16()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}


def held(path: Path) -> dict[str, Tensor]:
    """Return the tensors that are found, read at their offsets."""
    found = {}
    for name, ref in open_checkpoint(path).shards[0].tensors.items():
        raw = bytearray(ref.file.read_bytes()[ref.offset : ref.offset + ref.nbytes])
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[ref.dtype]
        found[name] = torch.frombuffer(raw, dtype=dtype).reshape(ref.shape)
    return found


def assert_holds(path: Path, weights: dict[str, Tensor]) -> None:
    found = held(path)
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "last.ckpt", "0af1c3", "x.bin", "w.th"])
def test_a_file_is_told_by_what_it_holds_not_by_its_name(tmp_path: Path, name: str) -> None:
    torch.save(WEIGHTS, tmp_path / name)
    assert_holds(tmp_path / name, WEIGHTS)


@pytest.mark.parametrize("name", ["model.bin", "0af1c3"])
def test_a_safetensors_file_under_another_name_is_one(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    save_file(WEIGHTS, tmp_path / name)
    assert_holds(tmp_path / name, WEIGHTS)


@pytest.mark.parametrize(
    ("tree", "beside"),
    [
        ({"state_dict": WEIGHTS, "epoch": 3}, ["epoch"]),
        ({"model": WEIGHTS, "optimizer": OPTIMIZER, "iter_num": 5}, ["optimizer", "iter_num"]),
        (
            {"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER},
            ["optimizer_state_dict"],
        ),
        ({"module": WEIGHTS, "dp_world_size": 8}, ["dp_world_size"]),
        ({"model": {"state_dict": WEIGHTS}, "step": 1}, ["step"]),
        ({**WEIGHTS, "epoch": 3, "name": "x"}, ["epoch", "name"]),
    ],
)
def test_the_weights_are_found_and_what_lies_beside_is_named(
    tmp_path: Path, tree: Any, beside: list[str]
) -> None:
    torch.save(tree, tmp_path / "model.pt")
    assert_holds(tmp_path / "model.pt", WEIGHTS)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert f"also in model.pt, not compared: {', '.join(beside)}" in checkpoint.notes
    entries = read_entries(checkpoint)
    assert {entry.name.partition(".")[0] for entry in entries} == set(beside)


def test_tensors_in_nested_dictionaries_have_dotted_names(tmp_path: Path) -> None:
    tree = {"b": WEIGHTS["b.bias"], "net": {"w": WEIGHTS["a.weight"]}, "ema": [WEIGHTS["b.bias"]]}
    torch.save(tree, tmp_path / "x.pt")
    expected = {"b": WEIGHTS["b.bias"], "net.w": WEIGHTS["a.weight"], "ema.0": WEIGHTS["b.bias"]}
    assert_holds(tmp_path / "x.pt", expected)


OTHER = {name: value + 1 for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("tree", "note"),
    [
        ({"state_dict": WEIGHTS, "epoch": 3}, "the weights under 'state_dict' in x.pt are read"),
        ({"net": WEIGHTS, "epoch": 3}, "the weights under 'net' in x.pt are read"),
        ({"net": WEIGHTS, "optimizer": OPTIMIZER}, "the weights under 'net' in x.pt are read"),
        (
            {"net": WEIGHTS, "rng": {"cpu": torch.ones(2)}},
            "the weights under 'net' in x.pt are read",
        ),
        ((WEIGHTS, 3), "the weights under '0' in x.pt are read"),
        (
            {"model": WEIGHTS, "ema": OTHER, "epoch": 3},
            "the weights under 'model' in x.pt are read; 'ema' has weights as well",
        ),
        (
            {"model": {"module": WEIGHTS, "swa": OTHER}, "ema": OTHER},
            "the weights under 'model.module' in x.pt are read; 'ema', 'swa' have weights as well",
        ),
    ],
)
def test_which_weights_were_taken_is_said(tmp_path: Path, tree: Any, note: str) -> None:
    torch.save(tree, tmp_path / "x.pt")
    assert_holds(tmp_path / "x.pt", WEIGHTS)
    assert note in open_checkpoint(tmp_path / "x.pt").notes


def test_of_several_state_dicts_all_are_read(tmp_path: Path) -> None:
    tree = {"generator": WEIGHTS, "critic": OTHER, "optimizer": OPTIMIZER, "epoch": 3}
    torch.save(tree, tmp_path / "x.pt")
    both = {"generator": WEIGHTS, "critic": OTHER}
    assert_holds(
        tmp_path / "x.pt", {f"{k}.{n}": v for k, state in both.items() for n, v in state.items()}
    )
    notes = open_checkpoint(tmp_path / "x.pt").notes
    assert "x.pt holds several state dicts, 'generator', 'critic': all are read" in notes[0]
    assert "also in x.pt, not compared: optimizer, epoch" in notes


def test_an_optimizer_by_itself_is_no_model(tmp_path: Path) -> None:
    torch.save(OPTIMIZER, tmp_path / "optimizer.pt")
    with pytest.raises(NotACheckpoint, match="holds the state of an optimizer"):
        open_checkpoint(tmp_path / "optimizer.pt")


def test_files_beside_that_hold_no_weights_are_named(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "model.pt")
    torch.save(OPTIMIZER, tmp_path / "optimizer.pt")
    torch.save({"cpu": torch.ones(2)}, tmp_path / "rng_state_0.pth")
    assert_holds(tmp_path, WEIGHTS)
    assert "not read: optimizer.pt, rng_state_0.pth" in open_checkpoint(tmp_path).notes


def test_numbered_files_are_one_model(tmp_path: Path) -> None:
    for number, name in enumerate(WEIGHTS, 1):
        torch.save({name: WEIGHTS[name]}, tmp_path / f"model-0000{number}-of-00002.pt")
    assert_holds(tmp_path, WEIGHTS)
    (tmp_path / "model-00001-of-00002.pt").unlink()
    with pytest.raises(MissingShard, match=r"found 1 of 2 files; missing are numbers 1"):
        open_checkpoint(tmp_path)


def test_metas_files_without_params_are_named(tmp_path: Path) -> None:
    for rank in (0, 1):
        torch.save(WEIGHTS, tmp_path / f"consolidated.0{rank}.pth")
    with pytest.raises(NotACheckpoint, match=r"2 of Meta's files.*no params\.json"):
        open_checkpoint(tmp_path)


def test_a_step_of_a_trainer_leads_to_its_models(tmp_path: Path) -> None:
    step = tmp_path / "global_step_30"
    make_hf(step / "actor", single=True)
    torch.save({"sampler": 3}, step / "data.pt")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("30")
    with pytest.raises(NotACheckpoint, match=r"holds some: actor\. Give one of them"):
        open_checkpoint(step)
    with pytest.raises(NotACheckpoint, match=r"global_step_30 is the latest.*in it: actor"):
        open_checkpoint(tmp_path)


def test_a_folder_with_one_such_file_is_opened(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True, kind="bin")
    (tmp_path / "pt").mkdir()
    state = torch.load(tmp_path / "hf" / "pytorch_model.bin", weights_only=True)
    torch.save({"model": state, "step": 3}, tmp_path / "pt" / "model.pt")
    config = (tmp_path / "hf" / "config.json").read_text()
    (tmp_path / "pt" / "config.json").write_text(config)
    assert compare(tmp_path / "hf", tmp_path / "pt").summary.verdict == "same"


def test_a_folder_with_several_asks_for_one(tmp_path: Path) -> None:
    for name in ("one.pt", "two.ckpt"):
        torch.save(WEIGHTS, tmp_path / name)
    with pytest.raises(NotACheckpoint, match=r"one\.pt, two\.ckpt\. Give one of them"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_another_program_appended_is_no_harm(
    tmp_path: Path, compression: int
) -> None:
    file = tmp_path / "model.pt"
    torch.save(WEIGHTS, file)
    with zipfile.ZipFile(file, "a", compression) as archive:
        archive.writestr("model/notes.json", json.dumps({"a": 1}) * 50)
    assert set(torch.load(file, weights_only=True)) == set(WEIGHTS)
    assert_holds(file, WEIGHTS)


def test_a_tensor_that_is_compressed_is_refused(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as stored,
        zipfile.ZipFile(tmp_path / "deflated.pt", "w") as deflated,
    ):
        for member in stored.infolist():
            kind = zipfile.ZIP_DEFLATED if "/data/" in member.filename else zipfile.ZIP_STORED
            deflated.writestr(member.filename, stored.read(member), kind)
    with pytest.raises(CorruptFile, match="data/0 is compressed"):
        open_checkpoint(tmp_path / "deflated.pt")


class Module(torch.nn.Linear):
    """A module that is pickled as a whole."""


class AffineQuantizedTensor(torch.Tensor):
    """A tensor of a class of its own, as quantising libraries make them."""

    @staticmethod
    def __new__(cls, codes: Tensor) -> AffineQuantizedTensor:
        make = torch.Tensor._make_wrapper_subclass
        made: AffineQuantizedTensor = make(cls, codes.shape, dtype=torch.bfloat16)
        made.codes = codes
        return made

    codes: Tensor

    @classmethod
    def __torch_dispatch__(cls, *_: object) -> Any:
        raise NotImplementedError


AffineQuantizedTensor.__module__ = "torchao.dtypes"


def test_a_quantised_tensor_is_named_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType("torchao.dtypes")
    module.AffineQuantizedTensor = AffineQuantizedTensor
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.dtypes", module)
    torch.save({"w": AffineQuantizedTensor(torch.ones(2, 2).to(torch.int8))}, tmp_path / "x.pt")
    with pytest.raises(UnsupportedLayout) as raised:
        open_checkpoint(tmp_path / "x.pt")
    assert str(raised.value) == (
        f"{tmp_path}/x.pt: 'w' is a torchao.dtypes.AffineQuantizedTensor tensor, which cannot be "
        "compared: save what its .dequantize() returns instead"
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Module(2, 2), r"holds a whole .*Module, not its weights; save model\.state_dict"),
        (lambda: {"epoch": 3}, "holds no dictionary of tensors"),
        (lambda: {"w": torch.ones(2, 2).to_sparse()}, "w"),
    ],
)
def test_what_is_no_state_dict_is_said(
    tmp_path: Path, make: Callable[[], object], said: str
) -> None:
    torch.save(make(), tmp_path / "model.pt")
    with pytest.raises((NotACheckpoint, UnsupportedLayout), match=said):
        open_checkpoint(tmp_path / "model.pt")
