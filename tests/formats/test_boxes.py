"""Boxes that overlap are found as a comparison of all pairs finds them, in less time."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from itertools import combinations, product

import pytest

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.boxes import overlapping
from tests.support.pace import pace

Box = tuple[tuple[int, int], ...]


def plainly(boxes: list[Box]) -> bool:
    """Return whether two boxes share a point, by trying the points of each pair."""
    points = [set(product(*(range(start, stop) for start, stop in box))) for box in boxes]
    return any(a & b for a, b in combinations(points, 2))


def divided(box: Box, parts: int, dice: random.Random) -> list[Box]:
    """Return boxes that make up a box, cut again and again at random."""
    boxes = [box]
    while len(boxes) < parts:
        boxes.sort(key=lambda b: dice.random())
        whole = boxes.pop()
        dims = [d for d, (start, stop) in enumerate(whole) if stop - start > 1]
        if not dims:
            return [*boxes, whole]
        dim = dice.choice(dims)
        start, stop = whole[dim]
        cut = dice.randrange(start + 1, stop)
        boxes += [(*whole[:dim], side, *whole[dim + 1 :]) for side in ((start, cut), (cut, stop))]
    return boxes


@pytest.mark.parametrize("seed", range(40))
def test_what_overlaps_is_what_pairs_of_boxes_say(seed: int) -> None:
    dice = random.Random(seed)
    dims = dice.randint(1, 3)
    boxes = divided(((0, 8),) * dims, dice.randint(9, 40), dice)
    assert overlapping(boxes) is None
    dice.shuffle(boxes)
    start = tuple(dice.randrange(8) for _ in range(dims))
    boxes.append(tuple((n, dice.randint(n + 1, 8)) for n in start))
    boxes = boxes[dice.randrange(9) :]
    found = overlapping(boxes)
    assert (found is not None) == plainly(boxes)
    assert found is None or plainly(list(found))


def seconds(boxes: list[Box]) -> float:
    before = time.thread_time()
    assert overlapping(boxes) is None
    return time.thread_time() - before


@pytest.mark.slow
def test_stairs_and_grids_take_no_time_for_each_pair() -> None:
    count = 4000
    stairs: list[Box] = [((n, count), (n, n + 1)) for n in range(count)]
    grid: list[Box] = [((i, i + 1), (j, j + 1)) for i in range(64) for j in range(64)]
    assert seconds(stairs) < 1000 * pace()
    assert seconds(grid) < 1000 * pace()


@pytest.mark.slow
def test_boxes_laid_to_be_slow_are_refused_or_told_apart() -> None:
    # Sticks along three axes that pass each other: any plane cuts the third of them.
    sides = range(0, 40, 2)
    sticks: list[Box] = []
    for i, j in product(sides, sides):
        sticks += [
            ((i, i + 1), (j, j + 1), (0, 40)),
            ((i + 1, i + 2), (0, 40), (j, j + 1)),
            ((0, 40), (j + 1, j + 2), (i + 1, i + 2)),
        ]
    before = time.thread_time()
    with suppress(CorruptFile):
        assert overlapping(sticks) is None
    assert time.thread_time() - before < 3000 * pace()
