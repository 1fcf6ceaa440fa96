"""An adapter is told by the rank of the change of each tensor, however large the change is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ckptdiff.checkpoint import contiguous
from ckptdiff.kernels import evidence
from ckptdiff.kernels.views import Source, Span
from ckptdiff.report.finding import finding_lines
from tests.support.fault_cases import CASES
from tests.support.fault_cases_two import CHANGED
from tests.support.fault_check import Maker, diagnosis
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare_and_diagnose, noise, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.results import Finding

    Change = Callable[[Tensor], Tensor]

SIZES: dict[str, Any] = {"hidden": 64, "heads": 8, "groups": 4, "ffn": 96}
ATTENTION = "model.layers.{}.self_attn.{}_proj.weight"


def adapter(rank: int, size: float = 0.2, seed: int = 5) -> Change:
    """Return the merge of an adapter; `size` is the norm of its product by that of the weight."""

    def merge(weight: Tensor) -> Tensor:
        rows, columns = weight.shape
        product = noise(rows, rank, seed=seed) @ noise(rank, columns, seed=seed + 1)
        product *= size * weight.float().norm() / product.norm()
        return (weight.float() + product).to(weight.dtype)

    return merge


def fresh(likeness: float) -> Change:
    """Return a change to random numbers of this cosine with the weight."""

    def change(weight: Tensor) -> Tensor:
        other = noise(*weight.shape, seed=9) * weight.float().std()
        mixed: Tensor = likeness * weight.float() + (1 - likeness**2) ** 0.5 * other
        return mixed.to(weight.dtype)

    return change


def found_of(
    tmp_path: Path, changes: Mapping[str, Change], layout: dict[str, Any] | None = None
) -> list[Finding]:
    """Return what is said of a model with changes to tensors of layer 1, by part of their name."""
    weights = make_hf(tmp_path / "a", single=True, **SIZES)
    b = dict(weights)
    for part, change in changes.items():
        name = ATTENTION.format(1, part)
        b[name] = change(weights[name])
    if layout is None:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        write_plain(tmp_path / "b", b)
    else:
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        make_megatron(tmp_path / "b", b, config, **layout)
    compared, findings = compare_and_diagnose(tmp_path / "a", tmp_path / "b")
    differing = {name for name, status in compared.statuses.items() if status == "differ"}
    assert differing == {ATTENTION.format(1, part) for part in changes}
    return [x for x in findings if x.kind != "CONFIG"]


@pytest.mark.parametrize("layout", [None, {"tp": 1}, {"tp": 2}, {"tp": 4}], ids=str)
def test_the_rank_is_that_of_each_tensor(tmp_path: Path, layout: dict[str, int] | None) -> None:
    """Megatron's fused tensor would say 8, and 4 rows of v a rank would say nothing."""
    (found,) = found_of(tmp_path, {"q": adapter(4), "v": adapter(4, seed=7)}, layout)
    assert (found.kind, found.layers) == ("LOW-RANK", (1,))
    assert found.tensors == (ATTENTION.format(1, "q"), ATTENTION.format(1, "v"))
    assert found.title == "the difference has rank 4 in q_proj and v_proj"


def test_each_rank_is_said(tmp_path: Path) -> None:
    (found,) = found_of(tmp_path, {"q": adapter(2), "k": adapter(7), "o": adapter(2, seed=8)})
    assert found.title == "the difference has rank 2 in q_proj and o_proj, rank 7 in k_proj"


@pytest.mark.parametrize("size", [0.03, 2.0, 30.0])
@pytest.mark.parametrize("layout", [None, {"tp": 2}], ids=str)
def test_a_large_adapter_is_no_random_content(
    tmp_path: Path, size: float, layout: dict[str, int] | None
) -> None:
    """The cosine of the contents is 1.0, 0.4, and 0.03: no more than of random ones."""
    (found,) = found_of(tmp_path, {"q": adapter(4, size)}, layout)
    assert (found.kind, found.title) == ("LOW-RANK", "the difference has rank 4 in q_proj")


@pytest.mark.parametrize("layout", [None, {"tp": 2}], ids=str)
def test_some_likeness_is_not_nothing(tmp_path: Path, layout: dict[str, int] | None) -> None:
    assert found_of(tmp_path, {"q": fresh(0.3), "o": fresh(0.3)}, layout) == []


@pytest.mark.parametrize("layout", [None, {"tp": 2}], ids=str)
def test_fresh_random_numbers_are(tmp_path: Path, layout: dict[str, int] | None) -> None:
    (found,) = found_of(tmp_path, {"q": fresh(0.0), "o": fresh(0.0)}, layout)
    assert found.kind == "NOT-LOADED"


def test_an_adapter_beside_fresh_numbers_is_not_said_of_both(tmp_path: Path) -> None:
    found = found_of(tmp_path, {"q": adapter(4), "v": fresh(0.0)}, {"tp": 1})
    assert not {x.kind for x in found} & {"LOW-RANK", "NOT-LOADED"}


def test_what_to_do_is_about_the_adapter(tmp_path: Path) -> None:
    (found,) = found_of(tmp_path, {"q": adapter(4)})
    last = list(finding_lines(found))[-1]
    assert "an adapter (LoRA)" in last
    assert "merge or unmerge it" in last
    assert "convert again" not in last


@pytest.mark.mostly_slow(one_in=2)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora of q and v, tp2", "rank 8 in q_proj and v_proj"),
        ("lora_twice", "rank 4 in q_proj, k_proj and v_proj"),
        ("lora of q and v and layer_swap", "rank 8 in q_proj and v_proj"),
        ("lora and gate_up_swap", "rank 4 in gate_proj and up_proj"),
    ],
)
def test_the_rank_is_right_beside_another_fault(tmp_path: Path, name: str, words: str) -> None:
    (case,) = [case for case in (*CASES, *CHANGED) if case.name == name]
    hf, faulty, _ = Maker(tmp_path).plant(case)
    (found,) = [x for x in diagnosis(hf, faulty) if x.kind == "LOW-RANK"]
    assert found.title == f"the difference has {words}"


# ── the rank itself ──────────────────────────────────────────────────────────────────────────


def rank_of(tmp_path: Path, expected: Tensor, actual: Tensor) -> int | None:
    dtype = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[expected.dtype]
    contents = []
    for name, tensor in (("e", expected), ("a", actual)):
        raw = tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32).numpy()
        file = tmp_path / name
        file.write_bytes(np.ascontiguousarray(raw).tobytes())
        shape = tuple(tensor.shape)
        box = tuple((0, n) for n in shape)
        source = Source(str(file), 0, shape, contiguous(shape), dtype, box, name)
        contents.append((Span(0, shape, dtype, (source,)),))
    return evidence.residuals([(contents[0], contents[1], dtype)])[0].rank


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("rank", [1, 4, 16, 64])
def test_rounding_adds_no_rank(tmp_path: Path, rank: int, size: float, dtype: torch.dtype) -> None:
    weight = noise(256, 320, dtype=dtype)
    assert rank_of(tmp_path, weight, adapter(rank, size)(weight)) == rank


def test_no_rank_is_said_of_what_has_none(tmp_path: Path) -> None:
    weight = noise(64, 96)
    assert rank_of(tmp_path, weight, noise(64, 96, seed=1)) == 0
    assert rank_of(tmp_path, weight, weight + noise(64, 96, seed=1) / 100) == 0
    assert rank_of(tmp_path, weight[:8], adapter(2)(weight[:8])) is None


def test_a_few_huge_numbers_are_no_adapter(tmp_path: Path) -> None:
    """Memory that was never written holds some; nothing of the weight is beside them."""
    weight, garbage = noise(64, 96), noise(64, 96, seed=1) / 1000
    garbage[3, 5], garbage[40, 7] = 1e21, -3e20
    assert rank_of(tmp_path, weight, garbage) == 0


def test_two_contents_of_low_rank_differ_by_no_adapter(tmp_path: Path) -> None:
    one, other = (noise(64, 3, seed=s) @ noise(3, 64, seed=s + 1) for s in (1, 5))
    assert rank_of(tmp_path, one, other) == 0
    assert rank_of(tmp_path, one, adapter(2)(one)) == 2
