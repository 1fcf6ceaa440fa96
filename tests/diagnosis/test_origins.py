"""What a origins concludes of contents that it has found elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptdiff.diagnosis.origins import Origins

FC1, FC2 = "decoder.layers.#.mlp.experts.#.fc1", "decoder.layers.#.mlp.experts.#.fc2"


@dataclass(frozen=True)
class Held:
    """As much of a place as tells where it is."""

    template: str
    layer: int
    expert: int


def origins(*moved: tuple[Held, Held]) -> Origins:
    unused: Any = None
    places: Any = dict(moved)
    return Origins(unused, unused, moved=places)


def test_content_of_another_name_says_nothing_of_the_order_of_experts() -> None:
    found = origins(
        (Held(FC1, 0, 1), Held(FC1, 0, 2)),
        (Held(FC1, 0, 2), Held(FC1, 0, 1)),
        (Held(FC2, 0, 0), Held(FC1, 0, 3)),
        (Held(FC2, 0, 3), Held(FC1, 0, 0)),
        (Held(FC2, 0, 4), Held(FC1, 0, 5)),
    )
    assert found.expert_moves() == {(FC1, 0): {1: 2, 2: 1}}
    assert found.expert_maps() == {0: {1: 2, 2: 1}}


def test_the_largest_exchange_of_a_layer_is_that_of_its_experts() -> None:
    found = origins(
        (Held(FC1, 0, 1), Held(FC1, 0, 2)),
        (Held(FC2, 0, 1), Held(FC2, 0, 2)),
        (Held(FC2, 0, 2), Held(FC2, 0, 1)),
        (Held(FC2, 1, 3), Held(FC2, 1, 4)),
    )
    assert found.expert_maps() == {0: {1: 2, 2: 1}, 1: {3: 4}}
