"""What PEFT 0.21 merged once, kept as files: bit for bit what base and adapter give."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.kernels.merging import product
from tests.support.corpus import REPOSITORY
from tests.support.pairs import compare_and_diagnose

if TYPE_CHECKING:
    from torch import Tensor

KEPT = REPOSITORY / "tests/data/peft"


def test_each_bit_of_the_merged_model_is_that_of_base_and_adapter() -> None:
    compared, findings = compare_and_diagnose(
        KEPT / "base", KEPT / "merged", adapter=KEPT / "adapter"
    )
    assert compared.statuses == {}
    assert findings == []
    plain, _ = compare_and_diagnose(KEPT / "base", KEPT / "merged")
    assert len(plain.statuses) == 7


def fused(total: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return total + one * other, rounded once: in fractions, element by element."""
    exact = [
        Fraction(t) + Fraction(x) * Fraction(y)
        for t, x, y in zip(total.tolist(), one.tolist(), other.tolist(), strict=True)
    ]
    return torch.tensor([_nearest(value) for value in exact], dtype=torch.float32)


def _nearest(value: Fraction) -> float:
    """Return the float32 that is nearest to a fraction, ties to even."""
    near = torch.tensor(float(value)).item()  # may be rounded twice
    around = [torch.nextafter(torch.tensor(near), torch.tensor(end)).item()
              for end in (float("-inf"), float("inf"))]  # fmt: skip
    bits = torch.tensor([near, *around]).view(torch.int32) & 1
    candidates = zip([near, *around], bits.tolist(), strict=True)
    return min(candidates, key=lambda c: (abs(Fraction(c[0]) - value), c[1]))[0]


@pytest.mark.parametrize("scale", [1.0, 2.0**-70])
def test_terms_are_added_with_one_rounding_each(scale: float) -> None:
    """Halfway cases are many here: a float64 rounds them before a float32 does."""
    generator = torch.Generator().manual_seed(0)
    up = torch.randint(-8, 9, (40, 6), generator=generator).float()
    down = torch.randint(-8, 9, (6, 5), generator=generator).float()
    up[:, 0] *= 2.0**24 + 2
    up[:, 1] += 0.5
    up[:, 3] *= 2.0**-30
    up, down = up * scale, down * scale
    found = torch.from_numpy(product(up.numpy(), down.numpy()))
    rows, columns = (index.reshape(-1) for index in torch.meshgrid(
        torch.arange(40), torch.arange(5), indexing="ij"))  # fmt: skip
    total = torch.zeros(200)
    for k in range(6):
        total = fused(total, up[rows, k], down[k, columns])
    assert torch.equal(found.reshape(-1), total)


def test_the_kept_adapter_is_of_all_layers() -> None:
    assert len(load_file(KEPT / "adapter/adapter_model.safetensors")) == 14
