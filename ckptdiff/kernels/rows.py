"""Rows by their digests, to find the same row in another file."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.memory import Reading, matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.views import View

PART = 2 << 20  # bytes that are read before their pages are let go
SIZE = 16  # bytes of a digest: different rows do not share one


def row_digests(views: Sequence[View]) -> list[bytes]:
    """Return a digest of each row of these matrices, one after the other."""
    found = []
    with Reading() as reading:
        for view in views:
            rows, columns = view.shape
            step = max(1, PART // max(1, columns * ITEMSIZE[view.dtype]))
            for start in range(0, rows, step):
                part = view.crop((start, 0), (min(step, rows - start), columns))
                content = np.ascontiguousarray(matrix(part))
                found += [blake2b(row, digest_size=SIZE).digest() for row in content]
                reading.done(part)
    return found
