"""The figures of a comparison against plain float64 numpy, for every dtype and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.support.pairs import bits, compare, noise, pair, set_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.results import Numbers


def ordered(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return each float's place in the row of all floats of its dtype; both zeros have one."""
    words = bits(tensor).numpy().astype(np.int64)
    size = 8 * tensor.element_size()
    sign = words & (1 << (size - 1)) if size < 64 else words < 0
    magnitude = words & ((1 << (size - 1)) - 1)
    return np.where(sign, -magnitude, magnitude)


def expected(a: Tensor, b: Tensor, narrow: torch.dtype) -> dict[str, Any]:
    """Return the figures of cli.md by float64 numpy, over tensors that are finite."""
    x, y = a.double().numpy(), b.double().numpy()
    d = np.abs(x - y)
    one, other = (bits(t.to(narrow)).numpy() for t in (a, b))
    steps = np.abs(ordered(a.to(narrow)) - ordered(b.to(narrow)))
    lengths = [int(n).bit_length() for n in steps.reshape(-1)]
    norm = float(np.sqrt((x * x).sum()))
    return {
        "numel": x.size,
        "differing": int((one != other).sum()),
        "max_abs": float(d.max()),
        "mean_abs": float(d.mean()),
        "rms": float(np.sqrt((d * d).mean())),
        "rel_l2": float(np.sqrt((d * d).sum())) / norm,
        "norm_a": norm,
        "norm_b": float(np.sqrt((y * y).sum())),
        "max_ulp": int(steps.max()),
        "histogram": tuple(np.bincount(lengths).tolist()),
        "cosine": float((x * y).sum() / norm / np.sqrt((y * y).sum())),
    }


SUMS = ("mean_abs", "rms", "rel_l2", "norm_a", "norm_b", "max_abs")


def assert_close(found: Numbers, wanted: dict[str, Any], rel: float = 1e-5) -> None:
    for name, value in wanted.items():
        if name in SUMS:
            assert getattr(found, name) == pytest.approx(value, rel=rel), name
        elif name == "cosine":
            assert 1 - found.cosine == pytest.approx(1 - value, rel=1e-4, abs=1e-13)
        else:
            assert getattr(found, name) == value, name


FLOATS = {
    "bf16": (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16, torch.float16),
    "fp32": (torch.float32, torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64, torch.float64),
    "fp32 bf16": (torch.float32, torch.bfloat16, torch.bfloat16),
    "bf16 fp32": (torch.bfloat16, torch.float32, torch.bfloat16),
    "fp16 fp32": (torch.float16, torch.float32, torch.float16),
    "fp16 bf16": (torch.float16, torch.bfloat16, torch.bfloat16),
    "fp64 fp32": (torch.float64, torch.float32, torch.float32),
    "e4m3": (torch.float8_e4m3fn,) * 3,
    "e5m2": (torch.float8_e5m2,) * 3,
    "bf16 e4m3": (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fn),
}


@pytest.mark.parametrize("shape", [(37, 53), (300, 1), (1, 7), (211,), (5, 4, 6), (2, 1, 3, 8)])
@pytest.mark.parametrize("dtypes", FLOATS)
def test_figures_are_those_of_plain_numpy(
    tmp_path: Path, dtypes: str, shape: tuple[int, ...]
) -> None:
    left, right, narrow = FLOATS[dtypes]
    a = noise(*shape)
    b = a + 0.05 * noise(*shape, seed=1)
    a, b = a.to(left), b.to(right)
    comparison = compare(*pair(tmp_path, {"w": a}, {"w": b}))
    numbers = comparison.numbers("w")
    assert comparison["w"].status == "differ"
    assert comparison["w"].shape_a == comparison["w"].shape_b == shape
    assert_close(numbers, expected(a, b, narrow))
    assert numbers.max_at is not None
    at = abs(a.double() - b.double())[numbers.max_at].item()
    assert at == pytest.approx(numbers.max_abs, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_the_size_of_the_values_makes_no_difference(tmp_path: Path, scale: float) -> None:
    a = noise(40, 40, dtype=torch.float32) * scale
    b = a * (1 + 0.01 * noise(40, 40, seed=1))
    comparison = compare(*pair(tmp_path, {"w": a}, {"w": b}))
    assert_close(comparison.numbers("w"), expected(a, b, torch.float32))


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
INTEGERS += [torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_compared_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    a = torch.zeros(6, 5, dtype=dtype)
    b = a.clone()
    b[3, 2] = 1
    files = pair(tmp_path, {"w": a, "same": a.clone()}, {"w": b, "same": a.clone()})
    comparison = compare(*files)
    numbers = comparison.numbers("w")
    assert comparison.statuses == {"w": "differ"}
    assert (numbers.differing, numbers.max_abs, numbers.max_ulp) == (1, 1.0, 1)
    assert numbers.max_at == (3, 2)
    assert numbers.mean_abs == pytest.approx(1 / 30)


def test_large_integers_are_not_rounded(tmp_path: Path) -> None:
    a = torch.tensor([[2**62, -(2**62)]])
    files = pair(tmp_path, {"w": a}, {"w": a + torch.tensor([[1, 0]])})
    numbers = compare(*files).numbers("w")
    assert (numbers.differing, numbers.max_ulp, numbers.max_at) == (1, 1, (0, 0))


def test_equal_tensors_have_no_differences_and_a_cosine_of_exactly_one(tmp_path: Path) -> None:
    tensors = {
        str(dtype): noise(17, 9).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32,
                      torch.float8_e4m3fn, torch.float8_e5m2, torch.bool)
    }  # fmt: skip
    comparison = compare(*pair(tmp_path, tensors, tensors))
    assert comparison.statuses == {}
    for name in tensors:
        numbers = comparison.numbers(name)
        assert (numbers.numel, numbers.differing, numbers.max_abs) == (153, 0, 0.0)
        assert (numbers.mean_abs, numbers.rms, numbers.rel_l2) == (0.0, 0.0, 0.0)
        assert (numbers.cosine, numbers.max_ulp, numbers.max_at) == (1.0, 0, None)
        assert numbers.histogram == (153,)
        assert numbers.grid == b""


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4)])
def test_tensors_without_elements_are_the_same(tmp_path: Path, shape: tuple[int, ...]) -> None:
    empty = torch.empty(shape)
    comparison = compare(*pair(tmp_path, {"w": empty}, {"w": empty}))
    assert comparison["w"].status == "same"
    assert comparison["w"].shape_a == shape
    assert comparison.numbers("w").numel == 0


def test_tensors_without_elements_differ_in_their_shape(tmp_path: Path) -> None:
    comparison = compare(*pair(tmp_path, {"w": torch.empty(0, 5)}, {"w": torch.empty(0, 6)}))
    assert comparison.statuses == {"w": "shape"}


def test_scalars_are_compared(tmp_path: Path) -> None:
    a = {"x": torch.tensor(1.5), "y": torch.tensor(2.0)}
    b = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}
    comparison = compare(*pair(tmp_path, a, b))
    assert comparison.statuses == {"x": "differ"}
    numbers = comparison.numbers("x")
    assert (numbers.numel, numbers.max_abs, numbers.max_at) == (1, 0.5, ())


def test_a_scalar_is_no_vector_of_one(tmp_path: Path) -> None:
    comparison = compare(*pair(tmp_path, {"x": torch.tensor(1.0)}, {"x": torch.tensor([1.0])}))
    assert comparison.statuses == {"x": "shape"}


def test_a_vector_of_zeros_has_no_angle(tmp_path: Path) -> None:
    files = pair(tmp_path, {"w": torch.zeros(4)}, {"w": torch.ones(4)})
    numbers = compare(*files).numbers("w")
    assert np.isnan(numbers.cosine)
    assert numbers.rel_l2 == np.inf


@pytest.mark.parametrize(
    ("a", "b", "note"),
    [
        ((640, 3), (512, 3), "A has 128 rows more: values were not compared"),
        ((4,), (5,), "B has 1 row more: values were not compared"),
        ((4, 3), (4, 5), None),
        ((4, 3), (3, 4), None),
        ((4, 3), (4, 3, 1), None),
    ],
)
def test_shapes_that_differ_are_named_and_not_compared(
    tmp_path: Path, a: tuple[int, ...], b: tuple[int, ...], note: str | None
) -> None:
    comparison = compare(*pair(tmp_path, {"w": torch.ones(a)}, {"w": torch.ones(b)}))
    result = comparison["w"]
    assert (result.status, result.shape_a, result.shape_b) == ("shape", a, b)
    assert (result.note, result.numbers) == (note, None)


@pytest.mark.parametrize("row", [0, 31, 63])
def test_norms_of_equal_parts_are_taken_when_another_part_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    a = noise(64, 64)
    b = a.clone()
    b[row, 5] += 0.5
    set_sizes(monkeypatch, 2048, 64)  # eight rows a part
    comparison = compare(*pair(tmp_path, {"w": a}, {"w": b}))
    assert_close(comparison.numbers("w"), expected(a, b, torch.float32))


def test_norms_of_a_tensor_without_differences_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_sizes(monkeypatch, 2048, 64)
    comparison = compare(*pair(tmp_path, {"w": noise(64, 64)}, {"w": noise(64, 64)}))
    assert comparison.numbers("w").norm_a is None
    assert comparison.numbers("w").numel == 4096


def test_a_vector_of_zeros_next_to_the_other_has_no_angle_that_could_be_told(
    tmp_path: Path,
) -> None:
    tiny, huge = torch.tensor([1.0, -1.0]), torch.tensor([1e23, 1e23])  # at right angles
    numbers = compare(*pair(tmp_path, {"w": tiny}, {"w": huge})).numbers("w")
    assert np.isnan(numbers.cosine)
    assert compare(*pair(tmp_path, {"w": tiny}, {"w": huge / 1e18})).numbers("w").cosine == (
        pytest.approx(0, abs=1e-3)
    )
