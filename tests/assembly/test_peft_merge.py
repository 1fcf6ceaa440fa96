"""What PEFT 0.21 merged once, kept as files: bit for bit what base and adapter give."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file

from ckptdiff.kernels.merging import product
from tests.support.corpus import REPOSITORY
from tests.support.pairs import compare_and_diagnose

KEPT = REPOSITORY / "tests/data/peft"


def test_each_bit_of_the_merged_model_is_that_of_base_and_adapter() -> None:
    compared, findings = compare_and_diagnose(
        KEPT / "base", KEPT / "merged", adapter=KEPT / "adapter"
    )
    assert compared.statuses == {}
    assert findings == []
    plain, _ = compare_and_diagnose(KEPT / "base", KEPT / "merged")
    assert len(plain.statuses) == 7


# Factors of 2**46 + 1 and 2**46 - 1: such a product, added to 1, lies so near to halfway between
# two float32 that a float64 rounds it to halfway.
ABOVE, BELOW = (8_384_513, 8_392_705), (8_388_609, 8_388_607)


@pytest.mark.parametrize("scale", [1.0, 2.0**-127], ids=["normal", "subnormal"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_term_is_added_with_one_rounding(scale: float, sign: int) -> None:
    step = 2.0**-23 if scale == 1 else 2.0**-22  # between float32, by the scale
    half = step * scale / 2 * 2.0**-46  # what the products of whole numbers are multiplied by
    cases = [(1.0, ABOVE, 1 + step), (1 + step, BELOW, 1 + step), (1.0, BELOW, 1.0)]
    for first, (one, other), expected in cases:
        up = np.array([[sign * first * scale, sign * one * half**0.5]], np.float32)
        down = np.array([[1], [other * half**0.5]], np.float32)
        (found,) = product(up, down).reshape(-1).tolist()
        assert found == sign * expected * scale


def test_the_kept_adapter_is_of_all_layers() -> None:
    assert len(load_file(KEPT / "adapter/adapter_model.safetensors")) == 14
