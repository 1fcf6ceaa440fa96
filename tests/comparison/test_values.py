"""What single values, roundings and tolerances come to: same, close or different."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.comparison.verdict import Tolerance
from tests.support.pairs import bits, compare, write_plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pairs import Comparison


def one_value(
    tmp_path: Path, a: float, b: float, dtype: torch.dtype = torch.bfloat16
) -> Comparison:
    """Compare two tensors that are equal but for one element."""
    left, right = torch.full((6, 4), 0.5).to(dtype), torch.full((6, 4), 0.5).to(dtype)
    left[4, 2], right[4, 2] = a, b
    return compare(
        write_plain(tmp_path / "a", {"w": left}), write_plain(tmp_path / "b", {"w": right})
    )


NAN, INF = float("nan"), float("inf")
every_float = pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)


@every_float
@pytest.mark.parametrize(
    ("a", "b", "counts"),
    [
        (0.5, NAN, (0, 1, 0, 0)),
        (NAN, 0.5, (1, 0, 0, 0)),
        (0.5, INF, (0, 0, 0, 1)),
        (-INF, 0.5, (0, 0, 1, 0)),
        (INF, -INF, (0, 0, 1, 1)),
        (NAN, INF, (1, 0, 0, 1)),
    ],
)
def test_one_value_that_is_no_number_on_one_side_differs_under_any_tolerance(
    tmp_path: Path, a: float, b: float, counts: tuple[int, ...], dtype: torch.dtype
) -> None:
    comparison = one_value(tmp_path, a, b, dtype)
    numbers = comparison.numbers("w")
    assert comparison.statuses == {"w": "differ"}
    assert (numbers.nan_a, numbers.nan_b, numbers.inf_a, numbers.inf_b) == counts
    assert numbers.differing == 1
    assert numbers.max_abs == numbers.rel_l2 == 0  # of what is finite on both sides
    for tolerance in ("ulp:99999999999999999", "rel:1e300"):
        left, right = tmp_path / "a", tmp_path / "b"
        again = compare(left, right, tolerance=Tolerance.parse(tolerance))
        assert again.statuses == {"w": "differ"}, tolerance


@every_float
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_same_value_that_is_no_number_on_both_sides_is_the_same(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    comparison = one_value(tmp_path, value, value, dtype)
    numbers = comparison.numbers("w")
    assert comparison.statuses == {}
    assert (numbers.nan_a, numbers.nan_b) == ((1, 1) if value != value else (0, 0))
    assert (numbers.inf_a, numbers.inf_b) == ((0, 0) if value != value else (1, 1))


@every_float
def test_zeros_of_two_signs_are_close_because_of_their_bits(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    comparison = one_value(tmp_path, 0.0, -0.0, dtype)
    assert comparison.statuses == {"w": "close"}
    assert comparison["w"].why == "bits"
    numbers = comparison.numbers("w")
    assert (numbers.differing, numbers.max_ulp, numbers.max_abs) == (1, 0, 0)
    assert numbers.cosine == 1
    assert comparison.summary.weights == "close"
    exact = compare(tmp_path / "a", tmp_path / "b", tolerance=Tolerance("exact"))
    assert exact.statuses == {"w": "differ"}


# Dtypes


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float64, torch.float32),
        (torch.float64, torch.bfloat16),
        (torch.float32, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float8_e5m2),
    ],
)
def test_one_rounding_to_the_narrower_dtype_is_a_cast(
    tmp_path: Path, wide: torch.dtype, narrow: torch.dtype, exchanged: bool
) -> None:
    noise = torch.Generator().manual_seed(1)
    weight = torch.randn(40, 30, generator=noise, dtype=torch.float64).to(wide)
    wider = write_plain(tmp_path / "a", {"w": weight})
    narrower = write_plain(tmp_path / "b", {"w": weight.to(narrow)})
    pair = (narrower, wider) if exchanged else (wider, narrower)
    comparison = compare(*pair)
    assert comparison.statuses == {"w": "close"}
    assert comparison["w"].why == "cast"
    assert comparison.summary.weights == "close"
    numbers = comparison.numbers("w")
    assert (numbers.differing, numbers.max_ulp) == (0, 0)
    assert numbers.max_abs > 0  # of the values as stored
    exact = compare(*pair, tolerance=Tolerance("exact"))
    assert exact.statuses == {"w": "differ"}
    assert exact["w"].why is None


def test_a_value_off_by_one_step_after_the_rounding_is_no_cast(tmp_path: Path) -> None:
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    narrow = weight.bfloat16()
    bits(narrow)[11, 12] += 1
    write_plain(tmp_path / "a", {"w": weight})
    comparison = compare(tmp_path / "a", write_plain(tmp_path / "b", {"w": narrow}))
    assert comparison.statuses == {"w": "differ"}
    assert (comparison.numbers("w").differing, comparison.numbers("w").max_ulp) == (1, 1)


def test_a_value_that_was_cut_off_instead_of_rounded_is_no_cast(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0 + 3 / 512]])  # nearer to 1 + 4 / 512 than to 1
    cut = (weight.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    write_plain(tmp_path / "a", {"w": weight})
    comparison = compare(tmp_path / "a", write_plain(tmp_path / "b", {"w": cut}))
    assert comparison.statuses == {"w": "differ"}


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tolerance", ["cast", "ulp:100000", "rel:1e9"])
def test_a_value_that_became_infinite_in_the_narrower_dtype_differs(
    tmp_path: Path, wide: torch.dtype, tolerance: str, exchanged: bool
) -> None:
    weight = torch.ones(5, 5, dtype=wide)
    weight[1, 1] = 1e5  # more than float16 holds
    wider = write_plain(tmp_path / "a", {"w": weight})
    narrower = write_plain(tmp_path / "b", {"w": weight.half()})
    pair = (narrower, wider) if exchanged else (wider, narrower)
    comparison = compare(*pair, tolerance=Tolerance.parse(tolerance))
    assert comparison.statuses == {"w": "differ"}
    numbers = comparison.numbers("w")
    assert (numbers.inf_a, numbers.inf_b) == ((1, 0) if exchanged else (0, 1))


def test_bfloat16_and_float16_are_compared_in_bfloat16(tmp_path: Path) -> None:
    half = torch.randn(20, 20, generator=torch.Generator().manual_seed(3)).half()
    write_plain(tmp_path / "a", {"w": half})
    comparison = compare(tmp_path / "a", write_plain(tmp_path / "b", {"w": half.bfloat16()}))
    assert comparison.statuses == {"w": "close"}


# Tolerances at their edges


def moved(tmp_path: Path, steps: int) -> tuple[Path, Path]:
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(5)).bfloat16()
    b = a.clone()
    bits(b)[2, 3] += steps
    bits(b)[6, 1] -= 1
    return write_plain(tmp_path / "a", {"w": a}), write_plain(tmp_path / "b", {"w": b})


@pytest.mark.parametrize(
    ("steps", "limit", "status"),
    [(1, 0, "differ"), (1, 1, "close"), (3, 2, "differ"), (3, 3, "close"), (3, 4, "close")],
)
def test_a_tolerance_in_steps_ends_exactly_there(
    tmp_path: Path, steps: int, limit: int, status: str
) -> None:
    comparison = compare(*moved(tmp_path, steps), tolerance=Tolerance.parse(f"ulp:{limit}"))
    assert comparison.statuses == {"w": status}
    assert comparison["w"].why == ("tolerance" if status == "close" else None)
    assert comparison.numbers("w").max_ulp == steps
    assert comparison.summary.weights == status


def test_a_relative_tolerance_ends_exactly_there(tmp_path: Path) -> None:
    pair = moved(tmp_path, 3)
    relative = compare(*pair).numbers("w").rel_l2
    for factor, status in ((1.0, "close"), (1 - 1e-6, "differ"), (1 + 1e-6, "close")):
        comparison = compare(*pair, tolerance=Tolerance("rel", relative * factor))
        assert comparison.statuses == {"w": status}


def test_a_tolerance_excuses_no_missing_tensor_and_no_shape(tmp_path: Path) -> None:
    a = {"missing": torch.ones(2), "shape": torch.ones(2, 3), "same": torch.ones(1)}
    b = {"extra": torch.ones(2), "shape": torch.ones(3, 2), "same": torch.ones(1)}
    pair = (write_plain(tmp_path / "a", a), write_plain(tmp_path / "b", b))
    comparison = compare(*pair, tolerance=Tolerance("rel", 1e9))
    assert comparison.statuses == {"missing": "only_a", "extra": "only_b", "shape": "shape"}
    assert comparison.summary.weights == "differ"
