"""Digests of rows, by which the same row is found in another file."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from ckptdiff.kernels.evidence import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.views import Span

DIGEST_BYTES = 16  # enough that different rows never have the same digest


def row_digests(content: Sequence[Span]) -> list[bytes]:
    """Return a BLAKE2b digest of each row's bytes: rows of the last dimension, a vector as one.

    No span ends inside a row of a matrix. Raises CorruptFile and UnreadableFile.
    """
    digests: list[bytes] = []
    vector = blake2b(digest_size=DIGEST_BYTES)
    is_vector = False
    for span in content:
        elements = load((span,))
        if len(span.shape) <= 1:
            is_vector = True
            vector.update(elements.data)
            continue
        rows = elements.reshape(-1, span.shape[-1])
        digests += [blake2b(row.data, digest_size=DIGEST_BYTES).digest() for row in rows]
    return [vector.digest()] if is_vector else digests
