"""Elements of a flat range as boxes of the tensor that they belong to."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch

from ckptdiff.formats.wholes import boxes_of_range


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1, 4, 1), (2, 1, 2, 3), ()])
def test_boxes_hold_every_element_of_a_range_once(shape: tuple[int, ...]) -> None:
    whole = torch.arange(prod(shape)).reshape(shape)
    for start, stop in product(range(prod(shape) + 1), repeat=2):
        held: list[int] = []
        for box, at in boxes_of_range(shape, start, stop):
            part = whole[tuple(slice(*bounds) for bounds in box)].reshape(-1).tolist()
            assert part == list(range(at, at + len(part)))
            held += part
        assert held == list(range(start, stop))
