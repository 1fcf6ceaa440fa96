"""Digests of rows, by which the same row is found in another file."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.kernels.memory import PageReleaser, matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.views import View

PART_BYTES = 2 << 20  # read at once
DIGEST_BYTES = 16  # enough that different rows never have the same digest


def row_digests(views: Sequence[View]) -> list[bytes]:
    """Return a BLAKE2b digest of each row's bytes, of one matrix after the other.

    Raises CorruptFile and UnreadableFile.
    """
    digests = []
    with PageReleaser() as pages:
        for view in views:
            rows, columns = view.shape
            step = max(1, PART_BYTES // max(1, columns * ITEMSIZE[view.dtype]))
            for start in range(0, rows, step):
                part = view.crop((start, 0), (min(step, rows - start), columns))
                content = np.ascontiguousarray(matrix(part))
                digests += [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in content]
                pages.done(part)
    return digests
