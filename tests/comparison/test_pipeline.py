"""The steps of a comparison in order, as the command line and the screen walk them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.comparison.pipeline import (
    CheckpointPair,
    compare_checkpoints,
    compare_pair,
    pair_checkpoints,
)
from ckptdiff.comparison.verdict import DiffSummary
from ckptdiff.errors import BadArgument, CkptDiffError, NotACheckpoint
from ckptdiff.executor import InlineExecutor, WorkerPool
from ckptdiff.formats import open_checkpoint
from ckptdiff.results import TensorDiff
from tests.support.pairs import noise, open_pair, pair, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor
    from pathlib import Path

    Make = Callable[..., Path]
    Event = CheckpointPair | TensorDiff | DiffSummary

TENSORS = {"x": noise(8, 4), "y": noise(6, 4), "z": noise(5)}


def nobody() -> Executor:
    raise AssertionError("there is no work")


def kinds(events: Iterable[Event]) -> str:
    letters = {CheckpointPair: "P", TensorDiff: "t", DiffSummary: "S"}
    return "".join(letters[type(event)] for event in events)


def nameless(folder: Path) -> tuple[Path, Path]:
    """Return weights under the names of no family, and the same in a rank under others."""
    hf = write_plain(folder / "hf", TENSORS)
    (hf / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    file = folder / "megatron" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    model = {f"backbone.of_{name}": tensor for name, tensor in TENSORS.items()}
    torch.save({"model": model, "iteration": 1}, file)
    return hf, folder / "megatron"


def test_the_pair_comes_first_and_the_summary_last(tmp_path: Path) -> None:
    a, b = pair(tmp_path, TENSORS, {**TENSORS, "y": noise(6, 4, seed=1)})
    events = list(compare_checkpoints(a, b, InlineExecutor))
    assert kinds(events) == "PtttS"
    assert isinstance(events[0], CheckpointPair)
    assert events[0].names == ("x", "y", "z")
    assert isinstance(events[-1], DiffSummary)
    assert (events[-1].verdict, events[-1].counts["differ"]) == ("differ", 1)


def test_what_names_pair_comes_before_what_content_pairs(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    events = list(
        compare_checkpoints(
            *nameless(tmp_path), InlineExecutor, matching=lambda *counts: told.append(counts)
        )
    )
    assert kinds(events) == "PPtttS"
    by_name, by_content = (event for event in events if isinstance(event, CheckpointPair))
    assert not by_name.is_complete
    assert len(by_name.names) == 6
    assert by_content.is_complete
    assert sorted(by_content.names) == sorted(TENSORS)
    assert told[0] == (0, 6)
    assert told[-1] == (6, 6)


def test_the_filter_chooses_what_is_compared_and_judged(tmp_path: Path) -> None:
    a, b = pair(tmp_path, TENSORS, {**TENSORS, "y": noise(6, 4, seed=1)})
    *_, result, summary = compare_checkpoints(a, b, InlineExecutor, pattern="re:^x$")
    assert isinstance(result, TensorDiff)
    assert isinstance(summary, DiffSummary)
    assert (result.name, summary.weights, sum(summary.counts.values())) == ("x", "same", 1)
    with pytest.raises(BadArgument, match="no tensor of either side matches"):
        list(compare_checkpoints(a, b, nobody, pattern="none of them"))


def test_a_bad_filter_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="not a regular expression"):
        list(compare_checkpoints(tmp_path / "no", tmp_path / "no", nobody, pattern="re:("))
    with pytest.raises(NotACheckpoint):
        list(compare_checkpoints(tmp_path / "no", tmp_path / "no", nobody, pattern="re:x"))


def test_what_is_known_is_judged_and_not_compared_again(tmp_path: Path) -> None:
    both = CheckpointPair(*open_pair(*pair(tmp_path, TENSORS, TENSORS)), ("x", "y", "z"))
    known = {name: TensorDiff(name, "differ", dtype_a="F32", dtype_b="F32") for name in "xz"}
    result, summary = compare_pair(both, InlineExecutor, known=known)
    assert isinstance(result, TensorDiff)
    assert isinstance(summary, DiffSummary)
    assert result.name == "y"
    assert (summary.counts["differ"], summary.counts["same"]) == (2, 1)


def test_where_everything_is_known_no_worker_is_asked_for(tmp_path: Path) -> None:
    both = CheckpointPair(*open_pair(*pair(tmp_path, TENSORS, TENSORS)), ("x", "y", "z"))
    known = {name: TensorDiff(name, "same") for name in both.names}
    assert kinds(compare_pair(both, nobody, known=known)) == "S"


def test_there_is_no_summary_where_the_workers_were_shut_down(tmp_path: Path) -> None:
    both = CheckpointPair(*open_pair(*pair(tmp_path, TENSORS, TENSORS)), ("x", "y", "z"))
    pool = WorkerPool(1)
    pool.shutdown()
    assert kinds(compare_pair(both, lambda: pool)) == ""


def test_a_missing_optimizer_state_is_told_or_raised(tiny_hf: Make) -> None:
    a, b = open_checkpoint(tiny_hf()), open_checkpoint(tiny_hf(seed=1))
    with pytest.raises(BadArgument, match="optimizer state"):
        list(pair_checkpoints(a, b, nobody, optimizer=True))
    told: list[CkptDiffError] = []
    (found,) = pair_checkpoints(a, b, nobody, optimizer=True, refused=told.append)
    assert "optimizer state" in str(told[0])
    assert found.names
    assert not any(name.startswith("optimizer.") for name in found.names)


def test_the_optimizer_state_stands_beside_the_weights(tiny_megatron: Make) -> None:
    trained = open_checkpoint(tiny_megatron(optimizer=True))
    (plain,) = pair_checkpoints(trained, trained, nobody)
    (whole,) = pair_checkpoints(trained, trained, nobody, optimizer=True)
    assert set(plain.names) < set(whole.names)
    assert any(name.startswith("optimizer.fp32_param.") for name in whole.names)
