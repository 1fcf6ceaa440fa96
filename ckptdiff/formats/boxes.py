"""Find boxes of one tensor that overlap, without holding each against every other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.errors import CorruptFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.checkpoint import Box

_FEW = 8  # boxes that are held against each other
# Looks at a box along a dimension, for each box that is given. A grid of a million boxes takes 20
# for each dimension.
_MOST_LOOKS = 300


def overlapping(boxes: Sequence[Box]) -> tuple[Box, Box] | None:
    """Return two boxes that overlap; None if there are none. No box may be empty.

    Raises CorruptFile if the boxes are laid so oddly that it would take long to tell.
    """
    looks = 0
    todo = [list(boxes)] if boxes else []
    while todo:
        group = todo.pop()
        looks += len(group) * len(group[0])
        if looks > _MOST_LOOKS * len(boxes):
            raise CorruptFile(f"its {len(boxes)} chunks are laid too oddly to be checked")
        if len(group) <= _FEW:
            for n, box in enumerate(group):
                for other in group[:n]:
                    if all(p[0] < q[1] and q[0] < p[1] for p, q in zip(box, other, strict=True)):
                        return other, box
            continue
        halves = _halved(group)
        if halves is None:  # no plane parts them: all reach over one point
            return group[0], group[1]
        todo.extend(halves)
    return None


def _halved(group: list[Box]) -> tuple[list[Box], list[Box]] | None:
    """Return the boxes on either side of a plane, those that it cuts in both; None without one.

    Of one plane for each dimension, through the edge in the middle, it is the one with the fewest
    on the fuller side.
    """
    best: tuple[list[Box], list[Box]] | None = None
    for dim in range(len(group[0])):
        edges = sorted(edge for box in group for edge in box[dim])
        for cut in {edges[len(edges) // 2 - 1], edges[len(edges) // 2]}:
            below = [box for box in group if box[dim][0] < cut]
            above = [box for box in group if box[dim][1] > cut]
            fuller = max(len(below), len(above))
            if fuller < (len(group) if best is None else max(map(len, best))):
                best = below, above
    return best
