"""Scores of real files on both sides: whatever format and layout they have, of NVIDIA's as well."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.scores import run
from ckptdiff.scores.results import ScoreDiff, ScoreProgress
from ckptdiff.scores.run import ScoreComparison, compare_scores
from ckptdiff.scores.tasks import ModelFacts, TaskSpec
from tests.support.conversions import converted
from tests.support.corpus import CORPUS, from_corpus
from tests.support.mended import conflicts, mended
from tests.support.oracle_meta import make_meta
from tests.support.score_stand_ins import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.checkpoint import Checkpoint

    Make = Callable[..., Path]

SPEC = TaskSpec(("one",))
UP = "model.layers.1.mlp.up_proj.weight"
FOLDERS = [
    folder
    for hf in sorted(CORPUS.glob("*/hf"))
    for folder in sorted(hf.parent.glob("megatron*"))
    if "trained" not in folder.name
]


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Worker:
    """Return what asks a few questions of small token ids; they are computed in earnest."""
    found = Worker({"one": 5})
    found.install(monkeypatch, computes=False)
    monkeypatch.setattr(run, "model_facts", lambda a, b: (ModelFacts(tmp_path), ()))
    return found


def compared(a: Checkpoint, b: Checkpoint, **options: Any) -> ScoreDiff:
    *_, found = ScoreComparison(
        *assemble_pair(a, b), SPEC, InlineExecutor(), device="cpu", **options
    ).results()
    assert isinstance(found, ScoreDiff)
    return found


def weights_apart(found: ScoreDiff) -> float:
    return max(one.weights_apart for item in found.items for one in item.answers)


@pytest.mark.parametrize(
    "arguments",
    [{"tp": 1}, {"tp": 2}, {"tp": 2, "pp": 2}],
    ids=lambda a: ",".join(f"{k}{v}" for k, v in a.items()),
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_right_conversion_is_the_same_on_either_side(
    tiny_hf: Make, tiny_megatron: Make, arguments: dict[str, int], dtype: str
) -> None:
    a, b = open_checkpoint(tiny_hf()), open_checkpoint(tiny_megatron(**arguments))
    for pair in ((a, b), (b, a)):
        found = compared(*pair, dtype=dtype)
        assert found.verdict == "arithmetic", found.sentence
        assert weights_apart(found) == 0
        assert len(found.items) == 5


@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_experts_over_ranks(tiny_hf: Make, tiny_megatron: Make, dtype: str, ep: int) -> None:
    model = {"family": "mixtral"}
    a = open_checkpoint(tiny_hf(**model))
    b = open_checkpoint(tiny_megatron(model=model, tp=2, ep=ep))
    for pair in ((a, b), (b, a)):
        found = compared(*pair, dtype=dtype)
        assert found.verdict == "arithmetic", found.sentence
        assert weights_apart(found) == 0


def test_experts_that_are_cut_otherwise_are_added_up_otherwise(
    tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    model = {"family": "mixtral"}
    converted(tiny_hf(**model), tmp_path / "whole", "megatron", tp=2, etp=1, verify=False)
    cut, whole = open_checkpoint(tiny_megatron(model, tp=2)), open_checkpoint(tmp_path / "whole")
    for pair in ((cut, whole), (whole, cut)):
        found = compared(*pair, dtype="fp16")
        assert found.verdict == "arithmetic", found.sentence
        assert weights_apart(found) == 0
        assert max(one.floor_apart for item in found.items for one in item.answers) > 0


def test_a_row_of_an_expert_is_a_fault_where_experts_are_over_ranks(
    tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    rows = [
        f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(4)
    ]  # whichever a question chooses

    def change(weights: dict[str, Tensor]) -> None:
        for name in rows:
            weights[name][5] *= 8

    a = changed(tiny_hf(family="mixtral", single=True), tmp_path / "a", change)
    b = open_checkpoint(tiny_megatron(model={"family": "mixtral"}, tp=2))
    for pair in ((a, b), (b, a)):
        found = compared(*pair, dtype="bf16")
        assert found.verdict == "weights-or-config", found.sentence
        assert found.step is not None
        assert (found.step.layer, found.step.name) == (1, "mlp_out")
        assert set(found.step.reads) >= {rows[0]}


def test_a_fault_is_found_in_both_directions(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(tiny_hf(single=True))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].flip(0)
    save_file(weights, folder / "model.safetensors")
    a, b = open_checkpoint(folder), open_checkpoint(tiny_megatron(model={"single": True}, tp=2))
    for pair in ((a, b), (b, a)):
        found = compared(*pair)
        assert found.verdict == "weights-or-config"
        assert found.step is not None
        assert (found.step.layer, found.step.name) == (0, "act")
        assert name in found.step.reads
        assert found.shown_by is not None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_fault_is_found_where_both_sides_are_of_one_program(
    tiny_hf: Make, tmp_path: Path, dtype: str
) -> None:
    # So small that in bf16 no answer gives it away; behind the first sum of a layer.
    def change(weights: dict[str, Tensor]) -> None:
        weights[UP][3, 3] *= 1.02

    b = changed(tiny_hf(single=True), tmp_path / "b", change)
    found = compared(open_checkpoint(tiny_hf(single=True)), b, dtype=dtype)
    assert found.verdict == ("weights-or-config" if dtype == "fp32" else "undecided")
    assert found.step is not None
    assert (found.step.layer, found.step.name) == (1, "act")
    assert UP in found.step.reads


def changed(source: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Checkpoint:
    """Return a copy of a folder of one file with other weights."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_bit_in_the_embedding_is_a_fault_however_small(
    tiny_hf: Make, tmp_path: Path, dtype: str
) -> None:
    # The last bit of a small number: far below 50 epsilon of fp32 over a row.
    def flip(weights: dict[str, Tensor]) -> None:
        rows = weights["model.embed_tokens.weight"]
        rows[:, 0] = 2.0**-40
        rows.view(torch.int16)[:, 0] ^= 1

    def level(weights: dict[str, Tensor]) -> None:
        weights["model.embed_tokens.weight"][:, 0] = 2.0**-40

    a = changed(tiny_hf(single=True), tmp_path / "a", level)
    b = changed(tiny_hf(single=True), tmp_path / "b", flip)
    for pair in ((a, b), (b, a)):
        found = compared(*pair, dtype=dtype)
        assert found.verdict == "weights-or-config", found.sentence
        assert found.step is not None
        assert found.step.name == "embed"
        assert found.step.rel < 1e-7
        assert "model.embed_tokens.weight differs." in found.sentence


@pytest.mark.parametrize(("narrow", "stored"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_a_cast_is_said_to_be_one(
    tiny_hf: Make, tmp_path: Path, narrow: torch.dtype, stored: str
) -> None:
    def cast(weights: dict[str, Tensor]) -> None:
        for name in weights:
            weights[name] = weights[name].to(narrow)

    def cast_but_one(weights: dict[str, Tensor]) -> None:
        weights[UP] = weights[UP].flip(0)
        cast(weights)

    wide = tiny_hf(single=True, dtype=torch.float32)
    a = open_checkpoint(wide)
    b = changed(wide, tmp_path / "b", cast)
    for pair, words in (((a, b), f"F32 in A, {stored} in B"), ((b, a), f"{stored} in A, F32 in B")):
        found = compared(*pair)
        assert found.verdict == "weights-or-config"
        assert f"model.embed_tokens.weight was cast: {words}, and so was every" in found.sentence
    faulty = compared(a, changed(wide, tmp_path / "c", cast_but_one))
    assert faulty.verdict == "weights-or-config"
    assert f"was cast: F32 in A, {stored} in B. But no cast explains {UP}" in faulty.sentence
    assert "every tensor" not in faulty.sentence
    config = {**(b.config or {}), "rope_theta": 77.0}
    both = compared(a, replace(b, config=config))
    assert "the configs conflict too, in 1 setting." in both.sentence


def test_the_causes_of_the_farthest_item_are_told(tiny_hf: Make, tiny_megatron: Make) -> None:
    pair = assemble_pair(open_checkpoint(tiny_hf()), open_checkpoint(tiny_megatron(tp=2)))
    events = list(
        compare_scores(*pair, ["one"], InlineExecutor(), dtype="bf16", device="cpu", attribute=True)
    )
    found = events[-1]
    assert isinstance(found, ScoreDiff)
    assert found.verdict == "arithmetic"
    assert found.attribution
    assert abs(sum(share.share for share in found.attribution) - 1) < 0.02
    assert found.budget is not None
    doc, _ = max(
        (abs(one.a.loglik - one.b.loglik), item.doc) for item in found.items for one in item.answers
    )[::-1]
    assert any(f"those of item {doc} of one" in note for note in found.notes)
    doing = [one.doing for one in events if isinstance(one, ScoreProgress)]
    assert "causes: rounding by rounding" in doing


def test_in_fp32_no_causes_are_told(tiny_hf: Make, tiny_megatron: Make) -> None:
    found = compared(open_checkpoint(tiny_hf()), open_checkpoint(tiny_megatron()), attribute=True)
    assert found.attribution == ()
    assert any(note.startswith("no attribution: in fp32") for note in found.notes)


# Other formats


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_torch_dist_is_a_side(
    tiny_hf: Make, tiny_megatron: Make, tmp_path: Path, dtype: str
) -> None:
    source = tiny_megatron(tp=2, pp=2)
    converted(source, tmp_path / "dist", "torch_dist", like=tiny_hf(), verify=False)
    b = open_checkpoint(tmp_path / "dist")
    for pair in ((open_checkpoint(tiny_hf()), b), (b, open_checkpoint(tiny_megatron(tp=2)))):
        found = compared(*pair, dtype=dtype)
        assert found.verdict == "arithmetic", found.sentence
        assert weights_apart(found) == 0


@pytest.mark.parametrize("reference", ["hf", "meta"])
@pytest.mark.parametrize("mp", [1, 2])
def test_metas_files_are_a_side(
    tiny_hf: Make, tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path,
    mp: int, reference: str,
) -> None:  # fmt: skip
    config = json.loads((tiny_hf(vocab=64) / "config.json").read_text())
    weights = tiny_weights(vocab=64)
    a = open_checkpoint(tiny_hf(vocab=64))
    b = open_checkpoint(make_meta(tmp_path / "meta", weights, config, mp=mp))
    for pair in ((a, b), (b, a)):
        found = compared(*pair, reference=reference)
        assert found.verdict == "arithmetic", found.sentence
    faulty = {**weights, UP: weights[UP].flip(0)}
    b = open_checkpoint(make_meta(tmp_path / "faulty", faulty, config, mp=mp))
    found = compared(a, b, reference=reference)
    assert found.verdict == "weights-or-config"
    assert found.step is not None
    assert (found.step.layer, found.step.name) == (1, "act")


# What NVIDIA's code wrote


@pytest.mark.sampled(one_in=3)
@pytest.mark.parametrize(
    "folder", from_corpus(FOLDERS), ids=lambda f: f and str(f.relative_to(CORPUS))
)
def test_what_nvidias_code_converted_is_only_arithmetic(folder: Path) -> None:
    a, b = open_checkpoint(folder.parent / "hf"), open_checkpoint(folder)
    lines = conflicts(*assemble_pair(a, b))
    if any(line.meaning != "Vocabulary" for line in lines):
        found = compared(a, b)
        assert found.verdict == "weights-or-config"
        assert found.step is not None
        assert (found.step.layer, found.step.name) == (0, "q_rope")
        a, b = mended(a, b, lines)
    found = compared(a, b)
    assert found.verdict == "arithmetic", found.sentence
