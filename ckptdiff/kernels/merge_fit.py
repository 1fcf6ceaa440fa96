"""How much of an adapter's product another model's weights have beside those of the base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ckptdiff.dtypes import FLOATS, narrower
from ckptdiff.kernels.dtypes import rounded, values
from ckptdiff.kernels.memory import matrix, stored_matrix
from ckptdiff.kernels.merging import count_beyond, product_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.views import Added, Block


@dataclass(frozen=True, slots=True)
class MergeFit:
    """What was measured of some blocks of one weight."""

    numel: int  # elements
    off_base: int  # elements of B that are not those of the base, bits in the narrower dtype
    change: float  # sum of squares of B less the base
    product: float  # sum of squares of what the adapter adds
    shared: float  # sum of the products of both
    turned_product: float = 0.0  # as `product` and `shared`, of the product's transpose
    turned_shared: float = 0.0

    @property
    def share(self) -> float:
        """The multiple of the adapter that is nearest to B less the base."""
        return self.shared / self.product if self.product else 0.0

    @property
    def cosine(self) -> float:
        return _cosine(self.shared, self.product, self.change)

    @property
    def turned_cosine(self) -> float:
        return _cosine(self.turned_shared, self.turned_product, self.change)


def _cosine(shared: float, one: float, other: float) -> float:
    return shared / (one * other) ** 0.5 if one and other else 0.0


def fit(blocks: Sequence[Block]) -> MergeFit:
    """Measure blocks whose side A has an adapter added. Raises CorruptFile and UnreadableFile."""
    off_base = numel = 0
    sums = np.zeros(5)
    for block in blocks:
        view, added = block.a, block.a.added
        assert added is not None
        base, other = stored_matrix(view), matrix(block.b)
        numel += base.size
        if FLOATS.keys() >= {view.dtype, block.b.dtype}:
            narrow = narrower(view.dtype, block.b.dtype)
            one, two = rounded(base, view.dtype, narrow), rounded(other, block.b.dtype, narrow)
            off_base += int(np.count_nonzero(one != two))
        else:
            off_base += base.size
        change = values(other, block.b.dtype) - values(base, view.dtype)
        change = np.where(np.isfinite(change), change, 0.0)
        product = product_of(view, added)
        found = [(change * change).sum(), (product * product).sum(), (change * product).sum()]
        turned = turned_of(added)
        if turned is not None:
            product = product_of(view, turned)
            found += [(product * product).sum(), (change * product).sum()]
        sums[: len(found)] += found
    return MergeFit(numel, off_base, *map(float, sums))


def beyond(blocks: Sequence[Block], share: float, *, turned: bool = False) -> int:
    """Return how many elements of B no merge of a multiple of the adapter gives.

    `turned`: of its product's transpose. Raises CorruptFile and UnreadableFile.
    """
    count = 0
    for block in blocks:
        added = block.a.added
        assert added is not None
        added = turned_of(added) if turned else added
        assert added is not None
        added = replace(added, factor=added.factor * share)
        count += count_beyond(block.a, added, matrix(block.b), block.b.dtype)
    return count


def turned_of(added: Added) -> Added | None:
    """Return what would be added if the product was transposed; None if it is not square."""
    if added.shape[0] != added.shape[1] or not added.down:
        return None
    up, down = (
        tuple((at[::-1], replace(v, shape=v.shape[::-1], stride=v.stride[::-1])) for at, v in parts)
        for parts in (added.down, added.up)
    )
    return replace(added, up=up, down=down)
