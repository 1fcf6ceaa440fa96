"""A file whose end was never written is damage of the file, not a fault of a conversion."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.diagnosis.run import diagnosed
from ckptdiff.executor import InlineExecutor
from ckptdiff.report.finding import finding_lines
from tests.support.oracle_hf import make_hf
from tests.support.pairs import Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from ckptdiff.results import Finding


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder of several files and a copy of it."""
    make_hf(tmp_path / "good", shards=2, layers=3)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    return tmp_path / "good", tmp_path / "bad"


def findings(found: Comparison) -> tuple[Finding, ...]:
    found_, trouble = diagnosed(
        found.a, found.b, list(found.results.values()), (), InlineExecutor()
    )
    assert trouble is None
    return found_


def last_file(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


def cut(file: Path, at: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes(len(content) - at))


@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_hole_at_the_end_of_a_file_is_one_finding(
    pair: tuple[Path, Path], fraction: float
) -> None:
    good, bad = pair
    file = last_file(bad)
    content = file.read_bytes()
    at = int(fraction * len(content)) // 512 * 512
    while not content[at - 1]:
        at -= 1
    cut(file, at)
    for sides, letter in (((good, bad), "B"), ((bad, good), "A")):
        found = compare(*sides)
        (finding,) = findings(found)
        assert finding.kind == "DAMAGED"
        assert set(finding.tensors) == set(found.statuses)
        assert f"{letter}: from byte {at:,} to the end of {file.name}" in finding.title
        assert "copy the file again" in finding.title
        assert not any("convert" in line for line in finding_lines(finding))


def test_other_faults_beside_the_hole_are_still_found(pair: tuple[Path, Path]) -> None:
    good, bad = pair
    cut(last_file(bad), last_file(bad).stat().st_size * 3 // 4)
    first = min(bad.glob("*.safetensors"))
    weights = load_file(first)
    name = "model.layers.0.mlp.gate_proj.weight"
    weights[name] = weights[name] * 2
    save_file(weights, first)
    kinds = {finding.kind for finding in findings(compare(good, bad))}
    assert kinds == {"DAMAGED", "SCALE"}


def zero(name: str, weights: dict[str, torch.Tensor]) -> None:
    weights[name].zero_()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda w: zero(sorted(w)[-1], w), "NOT-LOADED"),
        (lambda w: zero(sorted(w)[0], w), "NOT-LOADED"),
    ],
)
def test_one_tensor_of_zeros_is_one_that_was_never_loaded(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], kind: str
) -> None:
    """Wherever it lies: at the end of the file too."""
    weights = make_hf(tmp_path / "a", single=True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    change(weights)
    save_file(weights, tmp_path / "b" / "model.safetensors")
    found = findings(compare(tmp_path / "a", tmp_path / "b"))
    assert [finding.kind for finding in found] == [kind]


def test_zeros_that_both_sides_have_are_no_damage(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "a", single=True)
    for name in sorted(weights)[-2:]:
        weights[name].zero_()
    save_file(weights, tmp_path / "a" / "model.safetensors")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    name = sorted(weights)[0]
    weights[name] = weights[name] * 2
    save_file(weights, tmp_path / "b" / "model.safetensors")
    assert {f.kind for f in findings(compare(tmp_path / "a", tmp_path / "b"))} == {"SCALE"}
