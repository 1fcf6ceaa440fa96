"""Digests of every row of tensors, in one dtype, from worker processes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from ckptdiff.assembly.spans import spans_of
from ckptdiff.assembly.views import matrix_shape
from ckptdiff.dtypes import ITEMSIZE, narrower
from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.kernels.views import Span

_WIDE = ("F64", "F32", "F16", "BF16")  # compared in the narrowest of these that occurs
_SPAN_BYTES = 4 << 20  # in a worker's memory at once


def common_dtype(tensors: Iterable[Assembly]) -> str | None:
    """Return the dtype in which rows of these tensors are compared; None if all are integers."""
    found: str | None = None
    for dtype in {tensor.dtype for tensor in tensors}.intersection(_WIDE):
        found = dtype if found is None else narrower(found, dtype)
    return found


def digests_of_rows(
    tensors: Mapping[str, Assembly], dtype: str | None, executor: Executor
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each tensor's name and a digest of every row; none if it cannot be read.

    Floats of two bytes and more are cast to `dtype` first. Closing the iterator cancels what has
    not started.
    """
    futures: dict[str, Future[list[bytes]]] = {}
    try:
        for name, tensor in tensors.items():
            if tensor.pieces and 0 not in tensor.shape:
                futures[name] = executor.submit(digest_rows, _content(tensor, dtype))
        for name in tensors:
            rows: list[bytes] = []
            if name in futures:
                try:
                    rows = futures.pop(name).result()
                except CkptDiffError:
                    rows = []  # the comparison of this tensor reports it
            yield name, rows
    finally:
        for future in futures.values():
            future.cancel()


def bytes_of(
    tensors: Mapping[str, Assembly], dtype: str | None, executor: Executor
) -> Iterator[tuple[str, bytes]]:
    """Yield each tensor's name and all its bytes, in the dtype of `digests_of_rows`.

    For vectors. What cannot be read is left out, and so is what is no float.
    """
    futures = {
        name: executor.submit(read_bytes, _content(tensor, dtype))
        for name, tensor in tensors.items()
        if tensor.dtype in _WIDE
    }
    for name, future in futures.items():
        with suppress(CkptDiffError):
            yield name, future.result()


def digests_of_all(
    tensors: Mapping[str, Assembly], dtype: str | None, executor: Executor
) -> Iterator[tuple[str, bytes]]:
    """Yield each tensor's name and a digest of all its elements in order, whatever its shape.

    In the dtype of `digests_of_rows`. What cannot be read is left out.
    """
    futures = {
        name: executor.submit(digest_all, _content(tensor, dtype))
        for name, tensor in tensors.items()
        if tensor.pieces and 0 not in tensor.shape
    }
    for name, future in futures.items():
        with suppress(CkptDiffError):
            yield name, future.result()


def digest_all(content: Sequence[Span]) -> bytes:
    """Return a digest of all bytes of a content. Runs in a worker process."""
    from ckptdiff.kernels.evidence import load

    digest = blake2b(digest_size=16)
    for span in content:
        digest.update(load((span,)).tobytes())
    return digest.digest()


def read_bytes(content: Sequence[Span]) -> bytes:
    """Return the bytes of a content. Runs in a worker process."""
    from ckptdiff.kernels.evidence import load

    return b"".join(load((span,)).tobytes() for span in content)


def digest_rows(content: Sequence[Span]) -> list[bytes]:
    """Return a digest of each row of a content. Runs in a worker process."""
    from ckptdiff.kernels.rows import row_digests

    return row_digests(content)


def _content(tensor: Assembly, dtype: str | None) -> tuple[Span, ...]:
    """Return the spans by which a worker reads a tensor; none of them ends inside a row."""
    if dtype is not None and tensor.dtype in _WIDE:
        tensor = replace(tensor, dtype=dtype)
    most = _SPAN_BYTES
    if len(tensor.shape) > 1:
        most = max(most, matrix_shape(tensor.shape)[1] * ITEMSIZE[tensor.dtype])
    return tuple(spans_of(tensor, 0, most))
