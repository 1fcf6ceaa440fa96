"""Codes of half a byte: the bytes of a view are read, and each gives two of its elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.kernels.memory import stored_matrix
from ckptdiff.kernels.views import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptdiff.kernels.views import View


def unpacked(view: View | Source) -> NDArray[Any]:
    """Return the codes of a view, 0 to 15, one in each uint8, in the shape of the view.

    The first code of a byte is its low half. Offset and strides of the view count halves; codes lie
    one after the other along one dimension, and a whole number of bytes apart along the others.
    Raises CorruptFile and UnreadableFile.
    """
    if 0 in view.shape:
        return np.empty(view.shape, np.uint8)
    sizes = list(zip(view.shape, view.stride, strict=True))
    along = [n != 1 and step == 1 for n, step in sizes]
    dim = along.index(True) if any(along) else [n for n, _ in sizes].index(1)
    skipped = view.offset % 2
    shape, stride = list(view.shape), [0 if n == 1 else step // 2 for n, step in sizes]
    shape[dim], stride[dim] = -(-(skipped + view.shape[dim]) // 2), 1
    pair_of_each = Source(view.file, view.offset // 2, tuple(shape), tuple(stride), "U8", (), "")
    content = stored_matrix(pair_of_each)
    pairs = np.stack((content & 15, content >> 4), dim + 1)
    shape[dim] *= 2
    inside = [slice(None)] * len(shape)
    inside[dim] = slice(skipped, skipped + view.shape[dim])
    return pairs.reshape(shape)[tuple(inside)]
