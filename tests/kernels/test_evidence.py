"""What is asked of contents is answered bit by bit, however they are cut into stretches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckptdiff.checkpoint import contiguous
from ckptdiff.kernels import evidence
from ckptdiff.kernels.views import Source, Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Store = Callable[..., tuple[Span, ...]]

DTYPES = {"BF16": np.uint16, "F32": np.float32, "U8": np.uint8, "F64": np.float64}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    def write(array: NDArray[Any], dtype: str, cuts: int = 1) -> tuple[Span, ...]:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
        file.write_bytes(array.tobytes())
        found, offset = [], 0
        for part in np.array_split(array, cuts):
            box = tuple((0, n) for n in part.shape)
            source = Source(
                str(file), offset, part.shape, contiguous(part.shape), dtype, box, "name"
            )
            found.append(Span(offset, part.shape, dtype, (source,)))
            offset += part.nbytes
        return tuple(found)

    return write


def numbers(dtype: str, *shape: int) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 256, (*shape, np.dtype(DTYPES[dtype]).itemsize), dtype=np.uint8)
    return raw.view(DTYPES[dtype])[..., 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tally_is_that_of_the_numbers_in_any_order_and_of_no_others(
    store: Store, dtype: str
) -> None:
    array = numbers(dtype, 300, 257)  # more than a block
    mixed = np.random.default_rng(5).permutation(array.reshape(-1)).reshape(array.shape)
    other = array.copy()
    other.view(np.uint8)[7, 5] ^= 1
    contents = store(array, dtype), store(mixed, dtype, 7), store(other, dtype)
    one, same, changed = evidence.tallies(contents)
    assert one == same != changed


def test_tallies_of_parts_add_up_to_that_of_the_whole(store: Store) -> None:
    array = numbers("BF16", 300, 257)
    parts = [store(part, "BF16") for part in np.array_split(array, 3)]
    (whole,) = evidence.tallies([store(array, "BF16")])
    assert sum(evidence.tallies(parts)) % 2**64 == whole


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_found_wherever_they_lie_but_not_those_that_are_there_twice(
    store: Store, dtype: str
) -> None:
    array = numbers(dtype, 400, 250)
    array[9] = array[300]
    order = np.random.default_rng(5).permutation(400)
    other = array[order]
    other.view(np.uint8)[17, 3] ^= 1
    (found,) = evidence.rows([(store(array, dtype, 3), store(other, dtype, 5))])
    twice = [-2 if at in (9, 300) else int(at) for at in order]
    assert found == [*twice[:17], -1, *twice[18:]]


def test_rows_differ_by_their_bits_not_by_their_values(store: Store) -> None:
    array = np.ones((6, 4), np.float32)
    array[1, 2] = np.nan
    array[3, 0] = 0.0
    other = array.copy()
    other[3, 0] = -0.0
    pair = store(array, "F32", 2), store(other, "F32", 2)
    assert evidence.rows_that_differ([pair]) == [(6, 1, [3])]
    assert evidence.same_contents([pair, (pair[0], pair[0])]) == [False, True]
