"""Compare two checkpoints in one call, write plain ones, and change a file of a Megatron one."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ckptdiff.assemble import assemble_pair
from ckptdiff.diff import diff
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.verdict import CAST, Summary, Tolerance, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.assemble import Assembled
    from ckptdiff.results import Numbers, TensorDiff


@dataclass(frozen=True)
class Comparison:
    """Both sides, every result by name, and what they come to."""

    a: Assembled
    b: Assembled
    results: dict[str, TensorDiff]
    summary: Summary

    def __getitem__(self, name: str) -> TensorDiff:
        return self.results[name]

    def numbers(self, name: str) -> Numbers:
        found = self.results[name].numbers
        assert found is not None, self.results[name]
        return found

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each tensor that is not the same."""
        return {name: r.status for name, r in self.results.items() if r.status != "same"}


def open_pair(a: Path, b: Path) -> tuple[Assembled, Assembled]:
    return assemble_pair(open_checkpoint(a), open_checkpoint(b))


def compare(
    a: Path, b: Path, executor: Executor | None = None, *, tolerance: Tolerance = CAST
) -> Comparison:
    """Compare two checkpoints, in this process unless an executor is given."""
    left, right = open_pair(a, b)
    found = list(diff(left, right, executor or InlineExecutor(), tolerance=tolerance))
    results = {result.name: result for result in found}
    assert len(results) == len(found), "a tensor was reported twice"
    return Comparison(left, right, results, summarise(found, left, right))


def write_plain(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors of any name as a Hugging Face folder without a config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def bits(tensor: Tensor) -> Tensor:
    """Return the same memory as integers."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(sizes[tensor.element_size()])


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def rank_file(folder: Path, rank: str) -> Path:
    """Return the file of `mp_rank_<rank>`, whatever the iteration."""
    (file,) = folder.glob(f"*/mp_rank_{rank}/model_optim_rng.pt")
    return file


class _Stub:
    """Stands for a class of Megatron's, which is not installed."""

    def __new__(cls, *args: object) -> _Stub:
        return object.__new__(cls)


def load_rank(file: Path) -> dict[str, Any]:
    """Load a rank file by torch; of its arguments, those that are plain values."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    stubs: list[Any] = [
        (Namespace if name == "argparse.Namespace" else _Stub, name) for name in names
    ]
    with torch.serialization.safe_globals(stubs):
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    kept = {k: v for k, v in vars(state["args"]).items() if not isinstance(v, _Stub)}
    return {**state, "args": Namespace(**kept)}


def edit_rank(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a rank file anew after a change to its `args`, `model`, `model0`, ….

    Optimizer and rerun state are left out; everything is written by torch.
    """
    state = load_rank(file)
    kept = {
        key: value
        for key, value in state.items()
        if key.startswith("model") or key in ("args", "checkpoint_version", "iteration")
    }
    change(kept)
    torch.save(kept, file)
