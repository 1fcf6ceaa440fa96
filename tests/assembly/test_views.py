"""Pieces as matrices, against numpy's own slicing of the same bytes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptdiff.assembly.recipe import Assembly, Piece
from ckptdiff.assembly.views import index_at, matrix_at, matrix_shape, place_of, view_of
from ckptdiff.checkpoint import Box, Rank, TensorRef, contiguous
from ckptdiff.errors import UnsupportedLayout

START = 64  # bytes in the file before the stored tensor


def stored(shape: tuple[int, ...], stride: tuple[int, ...] | None = None) -> TensorRef:
    return TensorRef("w", shape, "F32", Path("f.pt"), START, stride or contiguous(shape))


def piece(ref: TensorRef, of: Box, box: Box) -> Piece:
    return Piece(ref, Rank(), of, box)


def read(view: Any, buffer: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Read a view element by element from a flat buffer that starts START bytes into the file."""
    first = (view.offset - START) // 4
    out = np.empty(view.shape, np.float32)
    for r, c in product(range(view.shape[0]), range(view.shape[1])):
        out[r, c] = buffer[first + r * view.stride[0] + c * view.stride[1]]
    return out


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [((), (1, 1)), ((5,), (1, 5)), ((3, 5), (3, 5)), ((2, 3, 5), (6, 5)), ((0, 4), (0, 4))],
)
def test_leading_dimensions_become_rows(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    assert matrix_shape(shape) == matrix


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_row_and_column_name_the_element_that_numpy_names(shape: tuple[int, ...]) -> None:
    flat = np.arange(np.prod(shape)).reshape(shape)
    matrix = flat.reshape(matrix_shape(shape))
    for index in np.ndindex(*shape):
        at = matrix_at(index, shape)
        assert matrix[at] == flat[index]
        assert index_at(at, shape) == index


CASES: list[tuple[str, tuple[int, ...], Box, tuple[int, ...], Box]] = [
    ("whole", (6, 4), ((0, 6), (0, 4)), (6, 4), ((0, 6), (0, 4))),
    ("rows", (6, 4), ((2, 4), (0, 4)), (8, 4), ((6, 8), (0, 4))),
    ("columns", (6, 4), ((0, 6), (1, 3)), (6, 8), ((0, 6), (5, 7))),
    ("one row", (6, 4), ((2, 3), (0, 4)), (8, 4), ((7, 8), (0, 4))),
    ("one column", (6, 4), ((0, 6), (3, 4)), (6, 8), ((0, 6), (7, 8))),
    ("vector", (6,), ((2, 5),), (9,), ((4, 7),)),
    ("vector of a stack", (3, 6), ((1, 2), (2, 5)), (9,), ((4, 7),)),
    ("matrix of a stack", (3, 6, 4), ((2, 3), (1, 4), (0, 4)), (9, 4), ((3, 6), (0, 4))),
    ("expert of a stack", (2, 3, 6, 4), ((1, 2), (2, 3), (0, 6), (1, 3)), (6, 4), ((0, 6), (2, 4))),
    ("matrix into a stack", (6, 4), ((0, 6), (0, 4)), (3, 6, 4), ((1, 2), (0, 6), (0, 4))),
    ("half a matrix into a stack", (3, 4), ((0, 3), (0, 4)), (3, 6, 4), ((1, 2), (3, 6), (0, 4))),
    ("stack", (2, 6, 4), ((0, 2), (0, 6), (0, 4)), (5, 6, 4), ((3, 5), (0, 6), (0, 4))),
    (
        "columns of a stack",
        (2, 6, 4),
        ((0, 2), (0, 6), (1, 3)),
        (5, 6, 4),
        ((3, 5), (0, 6), (2, 4)),
    ),
    ("scalar", (), (), (), ()),
    ("one element", (6, 4), ((5, 6), (3, 4)), (1, 1), ((0, 1), (0, 1))),
]


@pytest.mark.parametrize(
    ("of_shape", "of", "shape", "box"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_view_reads_what_numpy_slices(
    of_shape: tuple[int, ...], of: Box, shape: tuple[int, ...], box: Box
) -> None:
    buffer = np.arange(np.prod(of_shape, dtype=int), dtype=np.float32)
    part = buffer.reshape(of_shape)[tuple(slice(*bounds) for bounds in of)]
    whole = np.full(shape, -1, np.float32)
    target = whole[tuple(slice(*bounds) for bounds in box)]
    whole[tuple(slice(*bounds) for bounds in box)] = part.reshape(target.shape)

    at, view = view_of(piece(stored(of_shape), of, box), shape)

    matrix = np.full(matrix_shape(shape), -1, np.float32)
    matrix[at[0] : at[0] + view.shape[0], at[1] : at[1] + view.shape[1]] = read(view, buffer)
    np.testing.assert_array_equal(matrix, whole.reshape(matrix_shape(shape)))

    # Each element's own place agrees with the view.
    assembly = Assembly("w", shape, "F32", (piece(stored(of_shape), of, box),))
    for index in np.ndindex(*shape):
        place = place_of(assembly, index)
        value = -1 if place is None else buffer[(place.offset - START) // 4]
        assert value == whole[index]
        if place is not None:
            assert buffer.reshape(of_shape)[place.index] == value


def test_a_transposed_tensor_is_read_by_its_strides() -> None:
    buffer = np.arange(24, dtype=np.float32)
    ref = stored((4, 6), stride=(1, 4))  # stored as 6 x 4
    _, view = view_of(piece(ref, ((1, 3), (0, 6)), ((0, 2), (0, 6))), (2, 6))
    np.testing.assert_array_equal(read(view, buffer), buffer.reshape(6, 4).T[1:3])


def test_padding_rows_go_on_counting_behind_the_last_row() -> None:
    at, view = view_of(piece(stored((8, 4)), ((5, 8), (0, 4)), ((5, 8), (0, 4))), (5, 4))
    assert at == (5, 0)
    assert view.shape == (3, 4)
    assert view.offset == START + 5 * 4 * 4


def test_an_empty_tensor_has_an_empty_view() -> None:
    at, view = view_of(piece(stored((0, 4)), ((0, 0), (0, 4)), ((0, 0), (0, 4))), (0, 4))
    assert at == (0, 0)
    assert view.shape == (0, 4)


@pytest.mark.parametrize(
    ("of_shape", "of", "shape", "box"),
    [
        ((6, 4), ((0, 6), (0, 4)), (4, 6), ((0, 4), (0, 6))),  # transposed without saying so
        ((2, 3, 4), ((0, 2), (0, 3), (0, 4)), (2, 6, 4), ((0, 2), (0, 3), (0, 4))),  # gap in rows
        ((2, 6, 4), ((0, 2), (0, 3), (0, 4)), (2, 3, 4), ((0, 2), (0, 3), (0, 4))),  # gap in file
        ((24,), ((0, 24),), (6, 4), ((0, 6), (0, 4))),  # flat
    ],
)
def test_what_is_no_rectangle_is_refused(
    of_shape: tuple[int, ...], of: Box, shape: tuple[int, ...], box: Box
) -> None:
    with pytest.raises(UnsupportedLayout, match=r"f\.pt: w "):
        view_of(piece(stored(of_shape), of, box), shape)
