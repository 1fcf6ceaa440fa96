"""What is said of a path that cannot be opened: what it is, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptdiff.errors import CkptDiffError, NotACheckpoint
from ckptdiff.formats import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
UNFINISHED = r"holds \.distcp files and no \.metadata: the save was never finished"


def save(folder: Path, *, dies: bool = False) -> Path:
    save_distributed({"w": torch.ones(3)}, checkpoint_id=str(folder), no_dist=True)
    if dies:
        (folder / ".metadata").unlink()
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(CkptDiffError) as raised:
        open_checkpoint(path)
    return str(raised.value)


def test_a_distributed_save_that_died_is_told_and_the_complete_ones_are_named(
    tmp_path: Path,
) -> None:
    for step in (9, 100):
        save(tmp_path / f"step_{step}")
    save(tmp_path / "step_200", dies=True)
    (tmp_path / "latest").symlink_to("step_200")
    for path in (tmp_path / "step_200", tmp_path / "latest"):
        with pytest.raises(NotACheckpoint, match=UNFINISHED) as raised:
            open_checkpoint(path)
        assert "step_9, step_100 beside it are complete" in str(raised.value)


def test_a_save_that_died_alone_is_told_as_well(tmp_path: Path) -> None:
    assert "give a checkpoint of another step" in refusal(save(tmp_path / "step_1", dies=True))


@pytest.mark.parametrize("backend", [True, False])
def test_a_megatron_save_that_died_is_told_through_its_tracker(
    tmp_path: Path, backend: bool
) -> None:
    save(tmp_path / "iter_0000100")
    died = save(tmp_path / "iter_0000200", dies=True)
    if backend:
        (died / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("200")
    for path in (tmp_path, died):
        said = refusal(path)
        assert "no .metadata: the save was never finished" in said
        assert "iter_0000100 beside it is complete" in said


def test_one_file_of_a_distributed_checkpoint_leads_to_its_folder(tmp_path: Path) -> None:
    (file,) = save(tmp_path / "step_1").glob("*.distcp")
    assert "Give the folder it is in" in refusal(file)


def test_one_rank_s_file_of_distributed_tensors_is_told(tmp_path: Path) -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    meeting = f"file://{tmp_path}/meeting"
    init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        torch.save({"w": distribute_tensor(torch.ones(4), mesh, [Shard(0)])}, tmp_path / "r.pt")
    finally:
        destroy_process_group()
    assert "holds one rank's part of every tensor (DTensor)" in refusal(tmp_path / "r.pt")


def test_anything_else_is_told_what_checkpoints_look_like(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    said = refusal(tmp_path)
    for word in ("safetensors", "torch.save", "consolidated", "mp_rank_00", ".metadata"):
        assert word in said


def test_a_file_that_names_the_newest_step_is_followed(tmp_path: Path) -> None:
    save(tmp_path / "step_100")
    (tmp_path / "latest").write_text("step_100\n")
    assert refusal(tmp_path / "latest").endswith(f"names {tmp_path / 'step_100'}. Give that")
    save(tmp_path / "step_200", dies=True)
    (tmp_path / "latest").write_text("step_200\n")
    said = refusal(tmp_path / "latest")
    assert "names a folder. " in said
    assert said.endswith("the save was never finished; step_100 beside it is complete")
    assert refusal(tmp_path).endswith(
        "holds some: step_100; step_200: never finished. Give one of them"
    )


@pytest.mark.parametrize("text", ["nowhere", "../secret", "", "\0", "x" * 300, "\x80"])
def test_a_file_that_names_no_folder_beside_it_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "latest").write_text(text, encoding="latin-1")
    assert "is no checkpoint" in refusal(tmp_path / "in" / "latest")
