"""DeepSpeed checkpoints that are incomplete, mixed, split otherwise, or hostile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.optimizer_states import read_states
from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MissingShard,
    MixedShards,
    NotACheckpoint,
    UnsupportedLayout,
)
from ckptdiff.formats import open_checkpoint
from ckptdiff.formats.ranks import deepspeed_flat
from ckptdiff.formats.ranks.deepspeed_flat import MOMENTS
from tests.support.deepspeed_runs import MODEL, OPTIMIZER, PART, STEP, unpack

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("deepspeed"))


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    def made(run: str) -> Path:
        return Path(shutil.copytree(runs / run, tmp_path / run))

    return made


def refusal(path: Path, kind: type[CkptDiffError]) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.name) in text or str(path.parent.name) in text
    return text


def optimizer(groups: list[Any], *, stage: int = 3, ranks: Any = 2, **rest: Any) -> dict[str, Any]:
    """Return what a rank's file of optimizer states holds."""
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    state = {"zero_stage": stage, "partition_count": ranks, key: groups, **rest}
    return {"optimizer_state_dict": state}


def model(shapes: dict[Any, Any], **rest: Any) -> dict[str, Any]:
    module = {name: torch.zeros(0) for name in shapes}
    return {"module": module, "param_shapes": [shapes], "dp_world_size": 2, **rest}


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        torch.save(content, folder / name)
    return folder


def zero3(folder: Path, **changed: Any) -> Path:
    """Write a checkpoint of ZeRO-3 with one parameter, with these files instead."""
    shapes = {"a.weight": torch.Size([3, 3])}
    return write(
        folder,
        {
            **{PART.format(rank): model(shapes) for rank in range(2)},
            **{OPTIMIZER.format(rank): optimizer([torch.ones(5)]) for rank in range(2)},
            **{name.replace("__", "."): content for name, content in changed.items()},
        },
    )


def zero3_with(folder: Path, name: str, content: Any) -> Path:
    return write(zero3(folder), {name: content})


def test_the_small_one_opens(tmp_path: Path) -> None:
    tensors = open_checkpoint(zero3(tmp_path / STEP)).shards[0].tensors
    assert {name: ref.shape for name, ref in tensors.items()} == {"a.weight": (3, 3)}


@pytest.mark.parametrize("run", ["zero3", "zero3-tied"])
@pytest.mark.parametrize("name", [OPTIMIZER.format(1), OPTIMIZER.format(0), PART.format(1)])
def test_a_missing_rank_of_zero3_is_named(copy: Callable[[str], Path], run: str, name: str) -> None:
    folder = copy(run) / STEP
    (folder / name).unlink()
    text = refusal(folder, MissingShard)
    assert "1 of 2 files" in text
    assert f"rank {name.partition('rank_')[2][0]}." in text


def test_zero3_without_its_optimizer_has_no_weights(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3") / STEP
    for rank in range(2):
        (folder / OPTIMIZER.format(rank)).unlink()
    assert "in which ZeRO-3 keeps the weights" in refusal(folder, MissingShard)


def test_without_zero3_the_optimizer_may_be_missing(copy: Callable[[str], Path]) -> None:
    folder = copy("zero2") / STEP
    (folder / OPTIMIZER.format(1)).unlink()
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.shards[0].tensors) == 13
    assert any("1 of 2 ranks' files" in note for note in checkpoint.notes)
    (folder / OPTIMIZER.format(0)).unlink()
    assert not any("ranks' files" in note for note in open_checkpoint(folder).notes)


def test_without_the_models_file_nothing_is_read(copy: Callable[[str], Path]) -> None:
    folder = copy("zero2") / STEP
    (folder / MODEL).unlink()
    assert "mp_rank_00_model_states.pt is missing" in refusal(folder, MissingShard)


def test_latest_may_name_a_folder_that_is_not_there(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3")
    (folder / "latest").write_text("global_step9")
    text = refusal(folder, MissingShard)
    assert "`latest` names global_step9, which is not there" in text
    assert STEP in text


@pytest.mark.parametrize("tag", ["../zero3", "/etc", "", "a\0b", "x" * 300])
def test_latest_leads_nowhere_else(copy: Callable[[str], Path], tag: str) -> None:
    folder = copy("zero3")
    (folder / "latest").write_text(tag)
    assert f"holds some: {STEP}" in refusal(folder, NotACheckpoint)


def test_accelerate_calls_the_folder_otherwise(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3")
    (folder / STEP).rename(folder / "pytorch_model")
    (folder / "latest").write_text("pytorch_model")
    for name in ("random_states_0.pkl", "scheduler.bin"):
        (folder / name).write_bytes(b"x")
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.format, checkpoint.iteration) == ("deepspeed", 2)


def test_a_part_of_one_rank_is_not_opened_alone(runs: Path) -> None:
    for run, name in (
        ("zero3", OPTIMIZER.format(0)),
        ("zero3", PART.format(0)),
        ("moe", "layer_0_expert_1_mp_rank_00_model_states.pt"),
    ):
        assert "Give the folder it is in" in refusal(runs / run / STEP / name, NotACheckpoint)


def test_the_models_file_stands_for_its_folder(runs: Path) -> None:
    file = runs / "moe" / STEP / MODEL
    assert len(open_checkpoint(file).shards[0].tensors) == 10


def test_a_missing_expert_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("moe") / STEP
    (folder / "layer_0_expert_3_mp_rank_00_model_states.pt").unlink()
    assert "3 of the 4 files layer_0_expert_…" in refusal(folder, MissingShard)


def test_a_missing_weight_of_a_universal_one_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3-universal") / STEP
    shutil.rmtree(folder / "zero" / "model.norm.weight")
    text = refusal(folder, MissingShard)
    assert "1 of 8 weights are missing: 'model.norm.weight'" in text


def test_universal_without_the_models_file_has_no_shapes(copy: Callable[[str], Path]) -> None:
    folder = copy("zero3-universal") / STEP
    for rank in range(2):
        (folder / PART.format(rank)).unlink()
    assert "is stored flat" in refusal(folder, MissingShard)


def test_what_tensor_ranks_share_beside_universal_weights_is_named(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("zero1-universal") / STEP
    held = torch.load(folder / MODEL)
    torch.save({**held, "mp_world_size": 2}, folder / MODEL)
    assert len(open_checkpoint(folder).shards[0].tensors) == 13
    shutil.rmtree(folder / "zero" / "model.steps_seen")
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.shards[0].tensors) == 12
    assert any("not read" in note and "steps_seen" in note for note in checkpoint.notes)


@pytest.mark.parametrize("run", ["zero1", "zero3"])
def test_old_names_of_the_optimizers_files_are_known(copy: Callable[[str], Path], run: str) -> None:
    folder = copy(run) / STEP
    for rank in range(2):
        file = folder / OPTIMIZER.format(rank)
        file.rename(folder / file.name.removeprefix("bf16_").replace("_optim", "optim"))
    assert set(read_states(open_checkpoint(folder)).kinds) == {"fp32_param", *MOMENTS}


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        (OPTIMIZER.format(2), optimizer([torch.ones(5)]), MixedShards, "of rank 2 too"),
        (OPTIMIZER.format(1), optimizer([torch.ones(4)]), CorruptFile, "have 4 elements"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5)], ranks=4), MixedShards, "of 4 ranks"),
        (OPTIMIZER.format(1), optimizer([torch.ones(2)] * 2), MixedShards, "in 2 groups"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5)], stage=2), MixedShards, "ZeRO-2"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5).bfloat16()]), MixedShards, "different"),
        (OPTIMIZER.format(1)[5:], optimizer([torch.ones(5)]), MixedShards, "are both of rank 1"),
        (PART.format(2), model({}), MixedShards, "rank 2 too"),
        (MODEL, model({}), MixedShards, "a save without ZeRO-3"),
        (OPTIMIZER.format(1), {"a": 1}, CorruptFile, "no optimizer_state_dict"),
        (OPTIMIZER.format(1), [1], CorruptFile, "no optimizer_state_dict"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5, 1)]), CorruptFile, "no list of flat"),
        (OPTIMIZER.format(1), optimizer([torch.ones(10)[::2]]), CorruptFile, "no list of flat"),
        (OPTIMIZER.format(1), optimizer([3]), CorruptFile, "no list of flat"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5)], ranks=-1), CorruptFile, "partition_count"),
        (OPTIMIZER.format(1), optimizer([torch.ones(5)], ranks="2"), CorruptFile, "partition_cou"),
        (OPTIMIZER.format(1), optimizer([], ranks=[2, 1]), UnsupportedLayout, "those of experts"),
        (
            OPTIMIZER.format(1),
            optimizer([torch.ones(5)], ds_zero_partition_groups=[{"sub_group": 0}]),
            UnsupportedLayout,
            "ds_to_universal",
        ),
        (
            OPTIMIZER.format(1),
            optimizer([torch.ones(5)], param_alignment_paddings=[[-1]]),
            CorruptFile,
            "param_alignment_paddings",
        ),
        (PART.format(0), [1], CorruptFile, "no entry `module`"),
        (PART.format(0), {"module": 3}, CorruptFile, "no state dict"),
        (PART.format(0), model({"a.weight": (1 << 62, 3)}), CorruptFile, "has the shape"),
        (PART.format(0), model({"a.weight": (-3, -3)}), CorruptFile, "has the shape"),
        (PART.format(0), model({"a.weight": (1,) * 65}), CorruptFile, "has the shape"),
        (PART.format(0), model({"a.weight": 9}), CorruptFile, "has the shape"),
        (PART.format(0), model({3: (3, 3)}), CorruptFile, "has the name 3"),
        (PART.format(0), model({"a" * 20_000: (3, 3)}), CorruptFile, "20000 characters"),
        (PART.format(0), model({"a.weight": (1 << 40, 1 << 40)}), CorruptFile, "the parameters"),
        (PART.format(0), model({"a.weight": (3, 4)}), CorruptFile, "have 5 elements"),
        (
            PART.format(0),
            {**model({}), "param_shapes": [{"a": (3,)}, {"a": (3,)}]},
            CorruptFile,
            "or has it twice",
        ),
        (PART.format(0), {**model({}), "param_shapes": 3}, CorruptFile, "param_shapes is 3"),
        (
            PART.format(0),
            model({"a.weight": (3, 3)}, frozen_param_shapes={"b": (4,)}),
            MixedShards,
            "or with other parameters",
        ),
        (
            PART.format(0),
            model({"a.weight": (3, 3)}, ds_autoep_layers=[{"moe_layer_id": 0}]),
            UnsupportedLayout,
            "ds_to_universal",
        ),
        (
            PART.format(0),
            model({"a.weight": (3, 3)}, mp_world_size=2),
            UnsupportedLayout,
            "2 model-parallel ranks",
        ),
        (
            PART.format(0).replace("rank_00", "rank_01"),
            model({"a.weight": (3, 3)}),
            UnsupportedLayout,
            "ds_to_universal",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, content: Any, kind: type[CkptDiffError], said: str
) -> None:
    assert said in refusal(zero3_with(tmp_path / STEP, name, content), kind)


def test_frozen_parameters_need_every_ranks_part(tmp_path: Path) -> None:
    shapes = {"a.weight": torch.Size([3, 3])}
    frozen = {"frozen_param_shapes": {"b": torch.Size([3])}}
    parts = [{"b": torch.ones(2)}, {"b": torch.ones(1)}]
    files = {
        PART.format(rank): model(shapes, **frozen, frozen_param_fragments=parts[rank])
        for rank in range(2)
    }
    folder = write(zero3(tmp_path / STEP), files)
    assert "not of one size" in refusal(folder, CorruptFile)
    write(folder, {PART.format(1): model(shapes, **frozen, frozen_param_fragments={})})
    assert "no part of the frozen 'b'" in refusal(folder, CorruptFile)


@pytest.mark.parametrize("run", ["zero3", "zero3-tied"])  # with frozen parameters, and without
def test_a_ranks_file_of_another_step_is_told(copy: Callable[[str], Path], run: str) -> None:
    folder = copy(run) / "global_step2"
    restep(folder / PART.format(1), 2, 9)
    assert "of step 9, and that of step 2" in refusal(folder, MixedShards)
    restep(folder / PART.format(0), 2, 9)
    assert "its model is of step 9, by the file, and not of 2" in open_checkpoint(folder).notes


def restep(file: Path, old: int, new: int) -> None:
    """Change the step that a file of a model's states has, in its pickle."""
    raw = file.read_bytes()
    found = re.sub(rb"(global_steps(?:q.|r....)K)%c" % old, rb"\g<1>%c" % new, raw)
    assert found != raw
    file.write_bytes(found)


@pytest.mark.parametrize(
    "name", ["mp_rank_01_model_states.pt", "layer_00-model_00-model_states.pt"]
)
def test_other_splits_are_refused_with_the_way_round(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = copy("zero2") / STEP
    shutil.copy(folder / MODEL, folder / name)
    text = refusal(folder, UnsupportedLayout)
    assert "give that folder" in text or "give the folder that it writes" in text


def test_a_pipelines_file_holds_no_weights(tmp_path: Path) -> None:
    content = {"module": None, "checkpoint_parallel_dimensions": {"pp_degree": 2, "tp_degree": 1}}
    folder = write(tmp_path / STEP, {MODEL: content})
    assert "2 model-parallel ranks" in refusal(folder, UnsupportedLayout)
    content["checkpoint_parallel_dimensions"] = {}
    write(folder, {MODEL: content})
    assert "holds no tensor" in refusal(folder, CorruptFile)


def test_tensors_are_not_cut_into_more_parts_than_files_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many flat tensors can share one storage, so a small file can claim a part for each."""
    shape = (3, 1) * 6
    flat = torch.ones(-(-(3**6) // 2))
    files = {PART.format(rank): model({f"w{n}": shape for n in range(99)}) for rank in range(2)}
    files |= {OPTIMIZER.format(rank): optimizer([flat] * 99) for rank in range(2)}
    folder = write(tmp_path / STEP, files)
    assert len(open_checkpoint(folder).shards[0].tensors) == 99
    monkeypatch.setattr(deepspeed_flat, "PARTS", 200)
    assert "more parts than can be right" in refusal(folder, CorruptFile)


def test_experts_may_be_promised_oddly(copy: Callable[[str], Path]) -> None:
    file = copy("moe") / STEP / MODEL
    held = torch.load(file)
    odd = ({"num_experts": 3}, {"num_experts": ["4"]}, {"ds_autoep_layers": 5})
    for changed in (*odd, {"ds_autoep_layers": [{"moe_layer_id": [], "num_experts": 9}, 3]}):
        torch.save({**held, **changed}, file)
        assert len(open_checkpoint(file.parent).shards[0].tensors) == 10
    torch.save({**held, "ds_autoep_layers": [{"moe_layer_id": 0, "num_experts": 5}]}, file)
    assert "4 of the 5 files" in refusal(file.parent, MissingShard)


def test_weights_of_transformers_beside_are_read_and_deepspeeds_folder_is_named(
    copy: Callable[[str], Path], runs: Path
) -> None:
    folder = copy("zero3")
    weights = load_file(runs / "zero3.trained.safetensors")
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name in ("rng_state_0.pth", "scheduler.pt", "training_args.bin"):
        torch.save({"state": torch.ones(2)}, folder / name)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "hf"
    assert f"also here, not read: the DeepSpeed checkpoint {STEP}" in checkpoint.notes
    (folder / "model.safetensors").unlink()
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "deepspeed"
    assert checkpoint.config == {"model_type": "llama"}
