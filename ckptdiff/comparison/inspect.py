"""Read single tensors closely: the distribution of one, the values of both around an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.assembly.views import matrix_shape, view_of
from ckptdiff.dtypes import ITEMSIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.kernels.stats import TensorSummary, Window
    from ckptdiff.kernels.views import View

    Placed = tuple[tuple[int, int], View]  # (row, column) of its first element in the whole matrix

FIRST = (8, 16)  # rows and columns of a glance


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The same rectangle of one tensor on both sides, row by row; None for a side without it."""

    rows: range
    columns: range
    a: Window | None
    b: Window | None
    differences: tuple[tuple[float | None, ...], ...] = ()  # a - b; empty for one side alone
    # Distance in steps (ULP) of the narrower dtype; None where a side is not finite in that dtype.
    ulps: tuple[tuple[int | None, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Glance:
    """One tensor by itself: how its values are distributed, and the first of them."""

    summary: TensorSummary
    first: Window  # the upper left corner of its matrix


def placed_views(assembly: Assembly) -> list[Placed]:
    """Return every piece of a tensor as a view, with the (row, column) at which it starts."""
    return [view_of(piece, assembly.shape) for piece in assembly.pieces]


def glance(assembly: Assembly, executor: Executor) -> Future[Glance]:
    """Start reading a whole tensor, quantised codes as the numbers they stand for."""
    rows, columns = (
        range(min(most, size))
        for most, size in zip(FIRST, matrix_shape(assembly.shape), strict=True)
    )
    return executor.submit(_glance, placed_views(assembly), rows, columns)


def windows(
    a: Assembly | None,
    b: Assembly | None,
    *,
    around: tuple[int, int],
    rows: int,
    columns: int,
    executor: Executor,
) -> Future[Neighbourhood]:
    """Start reading at most `rows` by `columns` elements of both sides around (row, column).

    Both are those of the tensor's matrix. At least one of `a` and `b` must be given.
    """
    sides = [assembly for assembly in (a, b) if assembly is not None]
    height, width = (
        max(sizes) for sizes in zip(*(matrix_shape(side.shape) for side in sides), strict=True)
    )
    row_range, column_range = _centred(around[0], rows, height), _centred(around[1], columns, width)
    return executor.submit(
        _read,
        None if a is None else _overlapping(a, row_range, column_range),
        None if b is None else _overlapping(b, row_range, column_range),
        row_range,
        column_range,
    )


def find_largest(
    a: Assembly, b: Assembly, *, rows: range, columns: range, executor: Executor
) -> Future[tuple[int, int]]:
    """Start looking for the (row, column) in a block that differs most.

    A NaN or Inf that one side alone has comes before every finite difference.
    """
    return executor.submit(
        _largest, _overlapping(a, rows, columns), _overlapping(b, rows, columns), rows, columns
    )


def python_source(assembly: Assembly, variable: str = "tensor") -> str:
    """Return Python source that reads the tensor from its files into `variable`, with numpy alone.

    Block factors are not applied. Raises UnsupportedLayout if a piece is not a matrix.
    """
    size = ITEMSIZE.get(assembly.dtype, 1)
    known = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
    code = known.get(assembly.dtype, f"<u{size}")
    whole = (assembly.nbytes,) if assembly.is_blob else assembly.shape
    shape = matrix_shape(whole)
    lines = [
        "import numpy as np",
        "",
        f"# {ascii(assembly.name)[1:-1]}: {assembly.dtype}, {list(assembly.shape)}",
        "# row, column, file, byte, rows, columns, row step, column step",
        "parts = [",
        *(
            f"    ({row}, {column}, {view.file!a}, {view.offset}, {view.shape[0]}, "
            f"{view.shape[1]}, {view.stride[0]}, {view.stride[1]}),"
            for (row, column), view in placed_views(assembly)
        ),
        "]",
        f'{variable} = np.empty({shape}, "{code}")',
        "for row, column, file, byte, rows, columns, down, across in parts:",
        "    length = (rows - 1) * down + (columns - 1) * across + 1",
        f'    raw = np.memmap(file, "{code}", "r", byte, (length,))',
        f"    steps = (down * {size}, across * {size})",
        "    part = np.lib.stride_tricks.as_strided(raw, (rows, columns), steps)",
        f"    {variable}[row : row + rows, column : column + columns] = part",
        f"{variable} = {variable}.reshape({tuple(whole)})",
    ]
    if assembly.dtype == "BF16":
        wide = f'({variable}.astype("<u4") << 16).view("<f4")'
        lines.append(f"{variable} = {wide}  # bfloat16 to float32")
    elif code == f"<u{size}" and not assembly.dtype.startswith("U"):
        lines.append(f"# These are the bits of {assembly.dtype}, for which numpy has no type.")
    return "\n".join(lines) + "\n"


def _centred(at: int, count: int, size: int) -> range:
    """Return up to `count` numbers below `size`, with `at` in the middle where there is room."""
    start = max(0, min(at - count // 2, size - count))
    return range(start, min(start + count, size))


def _overlapping(assembly: Assembly, rows: range, columns: range) -> list[Placed]:
    """Return the pieces that have elements in these rows and columns."""
    return [
        (at, view)
        for at, view in placed_views(assembly)
        if at[0] < rows.stop
        and at[1] < columns.stop
        and at[0] + view.shape[0] > rows.start
        and at[1] + view.shape[1] > columns.start
    ]


# ── jobs: they run in a worker process and import there what they need ───────────────────────────


def _glance(views: Sequence[Placed], rows: range, columns: range) -> Glance:
    from ckptdiff.kernels.inspect import summarise_tensor
    from ckptdiff.kernels.inspect import window as read_window

    summary = summarise_tensor([view for _, view in views])
    return Glance(summary, read_window(views, rows, columns))


def _read(
    a: Sequence[Placed] | None, b: Sequence[Placed] | None, rows: range, columns: range
) -> Neighbourhood:
    from ckptdiff.kernels.closeup import ulps as count_ulps
    from ckptdiff.kernels.inspect import window as read_window
    from ckptdiff.kernels.scales import number_dtype

    side_a = None if a is None else read_window(a, rows, columns)
    side_b = None if b is None else read_window(b, rows, columns)
    if side_a is None or side_b is None:
        return Neighbourhood(rows, columns, side_a, side_b)
    differences = tuple(
        tuple(None if x is None or y is None else x - y for x, y in zip(*pair, strict=True))
        for pair in zip(side_a.values, side_b.values, strict=True)
    )
    dtypes = {number_dtype(v) for _, v in a or ()}, {number_dtype(v) for _, v in b or ()}
    ulps: tuple[tuple[int | None, ...], ...] = ()
    if all(len(kinds) == 1 for kinds in dtypes):
        ulps = count_ulps(side_a, side_b, dtypes[0].pop(), dtypes[1].pop())
    return Neighbourhood(rows, columns, side_a, side_b, differences, ulps)


def _largest(
    a: Sequence[Placed], b: Sequence[Placed], rows: range, columns: range
) -> tuple[int, int]:
    from ckptdiff.kernels.closeup import largest_difference as find_largest

    return find_largest(a, b, rows, columns)
