"""Folders of training runs, by accelerate and the Trainer: weights open, the rest is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.errors import NotACheckpoint
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle


def told(path: Path) -> list[str]:
    notes = open_checkpoint(path).notes
    return [note for note in notes if note.startswith("also here")]


@pytest.mark.oracle
def test_the_weights_of_a_run_are_those_of_its_model(tmp_path: Path, oracle: Oracle) -> None:
    oracle.compare("oracle_training", ranks=1, folder=str(tmp_path))
    beside = {
        "accelerate-safe": "optimizer.bin, random_states_0.pkl, scheduler.bin",
        "accelerate-bin": "optimizer.bin, random_states_0.pkl, scheduler.bin",
        "trainer": "optimizer.pt, rng_state.pth, scheduler.pt",
    }
    for run, names in beside.items():
        compared = compare(tmp_path / f"{run}-model", tmp_path / run)
        assert len(compared.results) == 12
        assert compared.statuses == {}
        assert told(tmp_path / run) == [f"also here, not compared: {names}"]
    for run in ("accelerate-safe", "accelerate-bin"):
        assert compare(tmp_path / f"{run}-model", tmp_path / f"{run}-saved").statuses == {}


@pytest.mark.parametrize(
    "names", [["scheduler.pt"], ["optimizer.pt", "rng_state.pth", "scheduler.pt", "scaler.pt"]]
)
def test_the_state_of_a_run_is_no_model(tmp_path: Path, names: list[str]) -> None:
    for name in (*names, "training_args.bin"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
    with pytest.raises(NotACheckpoint, match=r"the state of a training run, \w+\.pt.*no weights"):
        open_checkpoint(tmp_path)


def test_state_beside_weights_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    for name in ("training_args.bin", "vocab.txt", "optimizer.txt", "merges.pkl"):
        (tmp_path / name).write_bytes(b"x")
    assert told(tmp_path) == []
    for rank in range(9):
        (tmp_path / f"rng_state_{rank}.pth").write_bytes(b"x")
    named = ", ".join(f"rng_state_{rank}.pth" for rank in range(5))
    assert told(tmp_path) == [f"also here, not compared: {named}, …"]
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    assert "optimizer_0, pytorch_model_fsdp_0, rng_state_0.pth" in told(tmp_path)[0]
