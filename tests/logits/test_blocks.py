"""What is computed for some positions at a time, or in another pass, is what it is as a whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from ckptdiff.forward import arithmetic
from ckptdiff.forward.arithmetic import MEGATRON, META, TRANSFORMERS, Arithmetic
from ckptdiff.forward.blocks import blocks
from ckptdiff.forward.points import COMMON, SCORES, SINKS
from ckptdiff.forward.rounding import Carrying, Rounding
from tests.support import faults as f
from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.native import Native

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]

POSITIONS, HEADS, GROUPS, CHANNELS = 515, 4, 2, 64
SEEN: dict[str, dict[str, Any]] = {
    "causal": {"window": None},
    "window": {"window": 70},
    "sinks": {"window": None, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "sinks and a window": {"window": 70, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "all": {"window": None, "is_causal": False},
    "window both ways": {"window": 70, "is_causal": False},
}


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, (positions, heads, channels)."""
    generator = torch.Generator().manual_seed(3)

    def of(heads: int) -> Tensor:
        return torch.randn(POSITIONS, heads, CHANNELS, generator=generator).to(dtype)

    return of(HEADS), of(GROUPS), of(GROUPS)


def of_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    is_causal: bool = True,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return PyTorch's own attention; a sink is a key without a value, of a given score."""
    behind = torch.arange(POSITIONS)[:, None] - torch.arange(POSITIONS)
    sees = behind >= 0 if is_causal else torch.ones_like(behind, dtype=torch.bool)
    if window is not None:
        sees = sees & (behind < window) if is_causal else behind.abs() <= window
    mask = torch.zeros(HEADS, POSITIONS, POSITIONS, dtype=q.dtype).masked_fill(~sees, -math.inf)
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    if sinks is not None:
        column = sinks.to(q.dtype)[:, None, None].expand(-1, POSITIONS, 1)
        mask = torch.cat((mask, column), -1)
        k, v = (torch.cat((t, torch.zeros_like(t[:, :1])), 1) for t in (k, v))
    found = scaled_dot_product_attention(
        q[None], k[None], v[None], mask[None], scale=0.1, enable_gqa=True
    )
    return found[0].transpose(0, 1)


@pytest.mark.parametrize("fitting", [1, 8, 9, 16, 100])
def test_no_block_is_smaller_than_products_need(fitting: int) -> None:
    """PyTorch sums products of 1 to 3 rows in another order."""
    for positions in (*range(1, 40), POSITIONS):
        cut = blocks(positions, 10, 10 * fitting + 9)
        assert [i for rows in cut for i in range(rows.start, rows.stop)] == list(range(positions))
        sizes = {rows.stop - rows.start for rows in cut}
        assert min(positions, 8) <= min(sizes) <= max(sizes) <= max(fitting, 15)
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sees", SEEN)
@pytest.mark.parametrize("how", [TRANSFORMERS, META, MEGATRON], ids=lambda how: how.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_is_the_same_in_any_blocks_of_queries(
    dtype: torch.dtype, how: Arithmetic, sees: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = drawn(dtype)
    found: list[Tensor] = []
    for at_a_time in (POSITIONS, 64, 9):
        monkeypatch.setitem(arithmetic._SCORES, "cpu", HEADS * POSITIONS * at_a_time)
        found.append(how.attend(q, k, v, scale=0.1, **SEEN[sees]))
    wanted = of_torch(q.double(), k.double(), v.double(), **SEEN[sees])
    assert (found[0] - wanted).norm() / wanted.norm() < 4 * torch.finfo(dtype).eps
    for in_blocks in found[1:]:
        assert torch.equal(in_blocks, found[0])


@pytest.mark.parametrize("sees", SEEN)
@pytest.mark.parametrize("how", [TRANSFORMERS, MEGATRON], ids=lambda how: how.name)
def test_roundings_are_carried_through_blocks_of_queries(
    how: Arithmetic, sees: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of all points make of the exact stream the rounded one; of none, PyTorch's."""
    q, k, v = drawn(torch.float64)
    monkeypatch.setitem(arithmetic._SCORES, "cpu", HEADS * POSITIONS * 64)
    rounding = Rounding(**vars(how), dtype=torch.bfloat16)
    rounded = rounding.attend(q, k, v, scale=0.1, **SEEN[sees])
    carried: list[Tensor] = []
    for only in (frozenset({COMMON, SCORES, SINKS}), frozenset[str]()):
        errors = iter(rounding.errors)
        carrying = Carrying(**vars(how), only=only, errors=errors)
        carried.append(carrying.attend(q, k, v, scale=0.1, **SEEN[sees]))
        assert next(errors, None) is None
    for one, wanted in zip(carried, (rounded, of_torch(q, k, v, **SEEN[sees])), strict=True):
        assert (one - wanted).norm() / wanted.norm() < 1e-14
    assert not torch.equal(*carried)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_metrics_of_a_fault_are_of_each_side_by_itself(
    family: str, dtype: torch.dtype, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    model: dict[str, Any] = {"family": family, "dtype": dtype}
    hf = tiny_hf(**model)
    native = Native.read(tiny_megatron(model, tp=2), trusted=True)
    f.kv_swap(native, [0])
    faulty = native.write(tmp_path / "faulty")
    ids = tokens(24, 60)
    found = compare_logits(hf, faulty, ids)
    assert (found.verdict, found.storage) == ("weights-or-config", "fp32")
    a, b = (free_run(folder, folder, ids, "fp32")[0][:, :61] for folder in (hf, faulty))
    apart = (a.double() - b.double()).abs()
    assert found.metrics.max_abs == float(apart.max()) > 1e-3
    assert found.metrics.mean_abs == pytest.approx(float(apart.mean()), rel=1e-9)
    assert found.metrics.flips == int((a.argmax(-1) != b.argmax(-1)).sum())
    following = torch.tensor(ids[1:])
    losses = [float(cross_entropy(x.double()[:-1], following)) for x in (a, b)]
    assert (found.metrics.nll_a, found.metrics.nll_b) == pytest.approx(losses, rel=1e-9)


def test_a_note_says_at_how_many_positions_logits_are_compared(
    tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    native = Native.read(tiny_megatron(tp=2), trusted=True)
    native.put(None, native.whole(None, f.HEAD)[::-1], f.HEAD)
    faulty = native.write(tmp_path / "faulty")
    words = "the step logits is compared at 128 of 150 positions"
    for count in (128, 150):
        found = compare_logits(tiny_hf(), faulty, tokens(count, 60))
        (tap,) = (tap for tap in found.taps if tap.rel > found.threshold)
        assert tap.name == "logits"
        assert any(words in note for note in found.notes) == (count == 150)
    whole = free_run(tiny_hf(), faulty, tokens(150, 60), "fp32")
    some = torch.linspace(0, 149, 128).long()
    a, b = (logits[some].double() for logits in whole)
    assert tap.rel == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-5)
