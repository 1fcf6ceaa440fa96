"""A verdict says what both sides computed, and blames what can move the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.logit_runs import compare_logits
from tests.support.pairs import with_args, with_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=3)
IDS = (3, 1, 4, 1, 5)


def test_a_conflict_that_is_not_computed_is_not_decided(tiny_hf: Make, copy_of: Any) -> None:
    found = compare_logits(tiny_hf(), with_config(copy_of(tiny_hf()), intermediate_size=17), IDS)
    assert found.verdict == "undecided"
    assert "conflict in what is not computed here: FFN size" in found.sentence
    assert not any("without effect" in note for note in found.notes)


def test_a_conflict_that_is_computed_is_without_effect_on_a_short_prompt(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    found = compare_logits(tiny_hf(), with_args(copy_of(tiny_megatron()), window_size=(90, 0)), IDS)
    assert found.verdict == "arithmetic"
    (note,) = (note for note in found.notes if "without effect on this prompt" in note)
    assert "Sliding window" in note


@pytest.mark.parametrize(
    ("args", "step", "blamed", "spared"),
    [
        ({"rotary_base": 77, "softmax_scale": 0.01}, "q_rope", "RoPE base", "Softmax scale"),
        ({"softmax_scale": 0.01, "rotary_base": 10000}, "ctx", "Softmax scale", "RoPE"),
        ({"norm_epsilon": 0.5, "softmax_scale": 0.01}, "norm1", "Norm epsilon", "Softmax scale"),
    ],
)
def test_the_settings_that_are_blamed_are_those_that_move_the_step(
    args: dict[str, Any],
    step: str,
    blamed: str,
    spared: str,
    tiny_hf: Make,
    tiny_megatron: Make,
    copy_of: Any,
) -> None:
    found = compare_logits(tiny_hf(), with_args(copy_of(tiny_megatron()), **args), IDS)
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert found.first.name == step
    assert blamed in found.sentence
    assert spared not in found.sentence


def test_a_setting_that_nobody_knows_is_named_once_and_not_decided(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    found = compare_logits(tiny_hf(), with_args(copy_of(tiny_megatron()), scale_of_moon=3.0), IDS)
    assert found.verdict == "undecided"
    assert found.sentence.count("scale_of_moon") == 1
