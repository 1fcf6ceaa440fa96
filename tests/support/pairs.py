"""Compare two checkpoints in one call, write plain ones, and change a file of a Megatron one."""

from __future__ import annotations

import json
import struct
from argparse import Namespace
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison import parts as planning
from ckptdiff.comparison import run as engine
from ckptdiff.comparison.pipeline import CheckpointPair, compare_checkpoints
from ckptdiff.comparison.verdict import CAST, DiffSummary, Tolerance, summarise
from ckptdiff.diagnosis.run import diagnose
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import Finding, Numbers, TensorDiff


@dataclass(frozen=True)
class Comparison:
    """Both sides, every result by name, and what they come to."""

    a: Assembled
    b: Assembled
    results: dict[str, TensorDiff]
    summary: DiffSummary

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
    found = list(engine.diff(left, right, executor or InlineExecutor(), tolerance=tolerance))
    results = {result.name: result for result in found}
    assert len(results) == len(found), "a tensor was reported twice"
    return Comparison(left, right, results, summarise(found, left, right))


def compare_and_diagnose(
    a: Path, b: Path, *, adapter: Path | None = None
) -> tuple[Comparison, list[Finding]]:
    """Compare two checkpoints as `ckptdiff diff` does, content that is looked for included."""
    executor = InlineExecutor()
    sides, found, summary = None, {}, None
    for event in compare_checkpoints(a, b, lambda: executor, adapter=adapter):
        if isinstance(event, CheckpointPair):
            sides = event
        elif isinstance(event, DiffSummary):
            summary = event
        else:
            found[event.name] = event
    assert sides is not None
    assert summary is not None
    findings = list(diagnose(sides.a, sides.b, list(found.values()), summary.config, executor))
    return Comparison(sides.a, sides.b, found, summary), findings


def write_plain(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors of any name as a Hugging Face folder without a config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def bits(tensor: Tensor) -> Tensor:
    """Return the same memory as integers."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(sizes[tensor.element_size()])


def sparse(folder: Path, shapes: dict[str, tuple[int, int]], dtype: str = "F32") -> Path:
    """Write tensors of zeros that take no room on the disk."""
    header: dict[str, object] = {}
    at = 0
    for name, (rows, columns) in shapes.items():
        end = at + rows * columns * ITEMSIZE[dtype]
        header[name] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return folder


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

    def __setstate__(self, state: object) -> None:
        """Forget what it stands for."""


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


def with_config(folder: Path, **settings: Any) -> Path:
    """Change entries of a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def with_args(folder: Path, **settings: Any) -> Path:
    """Change args in each file of a Megatron checkpoint."""
    for file in folder.rglob("model_optim_rng.pt"):
        edit_rank(file, lambda state: vars(state["args"]).update(settings))
    return folder


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def pair(tmp_path: Path, a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[Path, Path]:
    return write_plain(tmp_path / "a", a), write_plain(tmp_path / "b", b)


def odd_models(tmp_path: Path) -> tuple[Path, Path]:
    """Return a pair with all kinds of tensors, dtypes and differences."""
    base = {
        "matrix": noise(70, 33, dtype=torch.bfloat16),
        "vector": noise(999, seed=1),
        "block": noise(4, 9, 11, seed=2, dtype=torch.float16),
        "integers": torch.arange(600).reshape(30, 20),
        "double": noise(13, 17, seed=3, dtype=torch.float64),
        "nan": noise(40, 8, seed=4),
        "ties": torch.zeros(64, 64),
        "one": noise(90, 40, seed=5),
        "cast": noise(50, 20, seed=6),
        "equal": noise(100, 10, seed=7),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(1.0),
    }
    other = {name: t.clone() for name, t in base.items()}
    for name in ("matrix", "vector", "block", "double"):
        other[name] += noise(*base[name].shape, seed=8, dtype=base[name].dtype) / 64
    other["integers"][7:9] += 3
    other["nan"][5, 5], base["nan"][6, 6], other["nan"][30, 2] = (float("nan"),) * 2 + (9.0,)
    other["nan"][39, 7] = float("inf")
    other["ties"][[3, 40, 63], [60, 2, 63]] = 0.25  # the same maximum, three times
    other["one"][89, 39] += 1
    other["cast"] = base["cast"].bfloat16()
    other["scalar"] += 1
    return pair(tmp_path, base, other)


def assert_alike(found: Comparison, wanted: Comparison) -> None:
    """Counts, maxima and pictures are equal, sums within one millionth."""
    assert set(found.results) == set(wanted.results)
    for name, result in wanted.results.items():
        assert replace(found[name], numbers=None) == replace(result, numbers=None)
        if result.numbers is None:
            continue
        for field in fields(result.numbers):
            one, other = (getattr(c.numbers(name), field.name) for c in (found, wanted))
            if isinstance(one, float) and isinstance(other, float) and field.name != "max_abs":
                assert one == pytest.approx(other, rel=1e-6, nan_ok=True), (name, field.name)
            else:
                assert one == other, (name, field.name)


def set_sizes(monkeypatch: pytest.MonkeyPatch, part_bytes: int, batch_parts: int) -> None:
    """Set the bytes of a part and the parts of a batch, in which a comparison is cut."""
    for module in (planning, engine):
        monkeypatch.setattr(module, "PART_BYTES", part_bytes)
        monkeypatch.setattr(module, "BATCH_PARTS", batch_parts)
