"""Values, statistics and source code of single tensors, read back from files written here."""

from __future__ import annotations

import math
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckptdiff.assembly.recipe import Assembly, Piece
from ckptdiff.checkpoint import Rank, TensorRef, contiguous
from ckptdiff.comparison.inspect import find_largest, glance, python_source, windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Inline(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


EXECUTOR = Inline()


def stored(file: Path, dtype: str, raw: np.ndarray[Any, Any], start: int = 24) -> TensorRef:
    file.write_bytes(bytes(start) + raw.tobytes())
    return TensorRef("w", raw.shape, dtype, file, start, contiguous(raw.shape))


def whole(ref: TensorRef) -> Assembly:
    box = tuple((0, size) for size in ref.shape)
    return Assembly("w", ref.shape, ref.dtype, (Piece(ref, Rank(), box, box),))


def columns_of(refs: list[TensorRef], shape: tuple[int, int]) -> Assembly:
    """Return a tensor whose columns lie in equal shares on the ranks."""
    width = shape[1] // len(refs)
    pieces = tuple(
        Piece(
            ref,
            Rank(tp),
            ((0, shape[0]), (0, width)),
            ((0, shape[0]), (tp * width, (tp + 1) * width)),
        )
        for tp, ref in enumerate(refs)
    )
    return Assembly("w", shape, refs[0].dtype, pieces)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Assembly, Assembly, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A whole float32 tensor, and one in two column shards with two elements changed."""
    a = np.arange(48, dtype=np.float32).reshape(6, 8)
    b = a.copy()
    b[2, 3] += 1
    b[5, 7] -= 4
    refs = [stored(tmp_path / f"{tp}.pt", "F32", b[:, tp * 4 : tp * 4 + 4].copy()) for tp in (0, 1)]
    return whole(stored(tmp_path / "a", "F32", a)), columns_of(refs, (6, 8)), a, b


def test_a_window_crosses_the_ranks(pair: Any) -> None:
    one, other, a, b = pair
    found = windows(one, other, around=(2, 3), rows=3, columns=4, executor=EXECUTOR).result()
    assert (found.rows, found.columns) == (range(1, 4), range(1, 5))
    assert found.a is not None
    assert found.b is not None
    np.testing.assert_array_equal(found.a.values, a[1:4, 1:5])
    np.testing.assert_array_equal(found.b.values, b[1:4, 1:5])
    np.testing.assert_array_equal(found.differences, (a - b)[1:4, 1:5])
    np.testing.assert_array_equal(found.b.bits, b[1:4, 1:5].view(np.uint32))
    # Between 16 and 32 a step is 2**-19, so 19 and 20 are 2**19 steps apart.
    assert found.ulps[1] == (0, 0, 2**19, 0)


def test_a_window_stays_inside_the_tensor(pair: Any) -> None:
    one, other, *_ = pair
    corner = windows(one, other, around=(5, 7), rows=3, columns=4, executor=EXECUTOR).result()
    assert (corner.rows, corner.columns) == (range(3, 6), range(4, 8))
    all_of_it = windows(one, other, around=(0, 0), rows=99, columns=99, executor=EXECUTOR).result()
    assert (all_of_it.rows, all_of_it.columns) == (range(6), range(8))


def test_one_side_alone_has_values_but_no_differences(pair: Any) -> None:
    one, *_ = pair
    found = windows(None, one, around=(0, 0), rows=1, columns=2, executor=EXECUTOR).result()
    assert found.a is None
    assert found.b is not None
    assert found.b.values == ((0.0, 1.0),)
    assert found.differences == found.ulps == ()


def test_steps_are_counted_in_the_narrower_dtype(tmp_path: Path) -> None:
    # 1.0 is 0x3f80 in bfloat16; its next number is 1.0078125. NaN has no distance.
    a = whole(stored(tmp_path / "a", "F32", np.array([1.0, 1.0, math.nan], np.float32)))
    b = whole(stored(tmp_path / "b", "BF16", np.array([0x3F80, 0x3F81, 0x3F80], np.uint16)))
    found = windows(a, b, around=(0, 0), rows=1, columns=3, executor=EXECUTOR).result()
    assert found.ulps == ((0, 1, None),)
    assert found.differences[0][:2] == (0.0, -0.0078125)
    assert found.b is not None
    assert found.b.bits == ((0x3F80, 0x3F81, 0x3F80),)


def test_rows_that_one_side_lacks_are_none(tmp_path: Path) -> None:
    a = whole(stored(tmp_path / "a", "F32", np.ones((3, 2), np.float32)))
    b = whole(stored(tmp_path / "b", "F32", np.ones((2, 2), np.float32)))
    found = windows(a, b, around=(2, 0), rows=2, columns=2, executor=EXECUTOR).result()
    assert found.differences == ((0.0, 0.0), (None, None))
    assert found.ulps == ((0, 0), (None, None))


def test_the_largest_difference_of_a_block_is_found(pair: Any) -> None:
    one, other, *_ = pair

    def peak(rows: range, columns: range) -> tuple[int, int]:
        return find_largest(one, other, rows=rows, columns=columns, executor=EXECUTOR).result()

    assert peak(range(6), range(8)) == (5, 7)
    assert peak(range(4), range(8)) == (2, 3)
    assert peak(range(1, 3), range(3, 8)) == (2, 3)


def test_a_number_on_one_side_alone_is_the_largest_difference(tmp_path: Path) -> None:
    a = np.ones((2, 3), np.float32)
    b = a.copy()
    b[0, 1], a[1, 0], b[1, 0], b[1, 2] = 1e30, math.nan, math.nan, math.nan
    one, other = (whole(stored(tmp_path / n, "F32", x)) for n, x in (("a", a), ("b", b)))
    found = find_largest(one, other, rows=range(2), columns=range(3), executor=EXECUTOR)
    assert found.result() == (1, 2)


def test_statistics_cover_every_shard(pair: Any) -> None:
    _, other, _, b = pair
    summary = glance(other, EXECUTOR).result().summary
    assert summary.numel == 48
    assert (summary.min, summary.max) == (0.0, 46.0)
    assert summary.mean == pytest.approx(b.mean())
    assert sum(summary.histogram) == 48


@pytest.mark.parametrize(
    ("dtype", "code"), [("F32", "<f4"), ("F16", "<f2"), ("I64", "<i8"), ("U8", "<u1")]
)
def test_the_python_to_copy_reads_the_tensor(tmp_path: Path, dtype: str, code: str) -> None:
    array = np.arange(24).reshape(4, 6).astype(code)
    refs = [
        stored(tmp_path / f"{tp}", dtype, array[:, tp * 3 : tp * 3 + 3].copy()) for tp in (0, 1)
    ]
    scope: dict[str, Any] = {}
    exec(python_source(columns_of(refs, (4, 6))), scope)
    np.testing.assert_array_equal(scope["tensor"], array)


def test_the_python_to_copy_widens_bfloat16(tmp_path: Path) -> None:
    ref = stored(tmp_path / "a", "BF16", np.array([0x3F80, 0xC000], np.uint16))
    scope: dict[str, Any] = {}
    exec(python_source(whole(ref)), scope)
    assert scope["tensor"].tolist() == [1.0, -2.0]


def test_a_hostile_name_cannot_leave_its_comment(tmp_path: Path) -> None:
    ref = stored(tmp_path / "a", "F32", np.ones(1, np.float32))
    box = ((0, 1),)
    assembly = Assembly("x\nraise SystemExit #", (1,), "F32", (Piece(ref, Rank(), box, box),))
    exec(python_source(assembly), {})
