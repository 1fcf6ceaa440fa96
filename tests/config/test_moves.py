"""Every setting names the steps of the forward pass that it can move, and no others."""

from __future__ import annotations

import inspect

import pytest

from ckptdiff.config.fields import FIELDS, TOKENS, ConfigField, moves
from ckptdiff.forward import steps

TAPS = frozenset(
    name
    for sequence in vars(steps).values()
    if isinstance(sequence, tuple)
    for step in sequence
    if isinstance(step, steps.Step)
    for name in step.gives
)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_what_a_setting_moves_are_steps_of_the_forward_pass(field: ConfigField) -> None:
    assert field.moves <= TAPS


def test_only_what_no_logit_depends_on_moves_nothing() -> None:
    assert all(not field.moves for field in TOKENS)
    idle = {field.name for field in FIELDS if not field.moves}
    assert idle == {"Vocabulary", "Max positions", "Prediction layers"}


def test_every_step_that_is_compared_has_a_setting_that_moves_it() -> None:
    assert TAPS - {"x", "x1"} == moves.ALL


def test_a_field_cannot_be_made_without_them() -> None:
    parameter = inspect.signature(ConfigField).parameters["moves"]
    assert parameter.default is inspect.Parameter.empty
