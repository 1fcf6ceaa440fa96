"""Blocks of positions that are computed one after another, so that little is in memory."""

from __future__ import annotations

from itertools import pairwise, starmap
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.plan import MOST_LOGITS

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 8  # a product with fewer rows is summed in another order


def blocks(positions: int, each: int, most: int) -> list[slice]:
    """Return all positions in blocks of at most `most` elements: `each` a position.

    Blocks differ by one position at most. None is below 8, so that one may have up to 15 where
    fewer would fit.
    """
    fitting = -(-positions // max(1, most // each))
    count = max(1, min(fitting, positions // _FEWEST))
    return list(starmap(slice, pairwise(positions * i // count for i in range(count + 1))))


def position_blocks(positions: int, vocabulary: int) -> list[slice]:
    """Return the positions whose logits are computed at a time, evenly many."""
    return blocks(positions, vocabulary, MOST_LOGITS)


def spread(positions: int, most: int) -> Tensor:
    """Return at most so many of the positions, (some,), spread evenly from first to last."""
    return torch.linspace(0, positions - 1, min(positions, most)).long()
