"""Blocks of positions that are computed one after another, so that little is in memory."""

from __future__ import annotations

_FEWEST = 8  # a product with fewer rows is summed in another order


def blocks(positions: int, each: int, most: int) -> list[slice]:
    """Return all positions in blocks, evenly many, of at most `most` elements: `each` a position.

    None is cut below 8 positions.
    """
    count = max(_FEWEST, most // each)
    step = -(-positions // -(-positions // count))
    return [slice(start, min(start + step, positions)) for start in range(0, positions, step)]
