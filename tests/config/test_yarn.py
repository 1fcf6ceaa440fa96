"""What YaRN does to attention and to a head is what transformers and megatron-core compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.compare import ConfigDiff, compare_sides
from ckptdiff.config.fields import FIELDS, ConfigSide
from tests.support.oracle_yarn import HEAD
from tests.support.small_models import SIZES

if TYPE_CHECKING:
    from tests.support.oracle_client import Oracle

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 16}
SCALINGS: list[dict[str, Any]] = [
    YARN | more
    for more in (
        {"factor": 4.0},
        {"factor": 4.0, "attention_factor": 1.5},
        {"factor": 4.0, "attention_factor": 1.5, "mscale": 1.0, "mscale_all_dim": 0.5},
        {"factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5},
        {"factor": 4.0, "mscale": 0.7},
        {"factor": 1.0},
    )
]
ARGS: list[dict[str, Any]] = [
    {"scaling_factor": 4.0, "rotary_percent": 0.5, "mscale": 1.0, "mscale_all_dim": 0.0},
    {"scaling_factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5},
]
FACTOR, PART = (
    next(field for field in FIELDS if field.name == name)
    for name in ("YaRN attention factor", "Rotated part of a head")
)


def hf(scaling: dict[str, Any]) -> ConfigSide:
    return ConfigSide("hf", {**SIZES, "rope_parameters": scaling}, "llama", frozenset())


def megatron(made_of: dict[str, Any]) -> ConfigSide:
    fields = {
        {"scaling_factor": "rotary_scaling_factor"}.get(name, name): value
        for name, value in made_of.items()
    }
    fields |= {"position_embedding_type": "yarn", "yarn_original_max_position_embeddings": 16}
    return ConfigSide("megatron", fields, "llama", frozenset())


def conflicts(a: ConfigSide, b: ConfigSide) -> dict[str, ConfigDiff]:
    return {line.meaning: line for line in compare_sides(a, b) if line.status == "conflict"}


def test_a_factor_that_is_not_stated_is_shown() -> None:
    line = conflicts(hf(SCALINGS[1]), hf(SCALINGS[0]))["YaRN attention factor"]
    assert (line.a, line.b) == (1.5, 1.138629)
    assert line.note == "B follows from: transformers' default"


def test_a_stated_factor_that_scales_as_the_other_sides_mscale_is_no_conflict() -> None:
    same = YARN | {"factor": 4.0, "attention_factor": 1.0648216253695715}
    assert not conflicts(hf(SCALINGS[3]), hf(same))
    assert conflicts(hf(SCALINGS[3]), hf(SCALINGS[0])).keys() == {"YaRN mscale_all_dim"}


def test_part_of_a_head_conflicts_with_all_of_it() -> None:
    half = hf(SCALINGS[0] | {"partial_rotary_factor": 0.5})
    line = conflicts(half, megatron(ARGS[0]))["Rotated part of a head"]
    assert (line.a, line.b, line.fix) == (0.5, 1.0, None)
    assert not conflicts(hf(SCALINGS[0]), megatron(ARGS[0]))


@pytest.mark.oracle
def test_the_factors_are_those_that_both_programs_compute(oracle: Oracle) -> None:
    real = oracle.compare("oracle_yarn", ranks=1, scalings=SCALINGS, args=ARGS)
    for scaling, factor in zip(SCALINGS, real["huggingface"], strict=True):
        found = FACTOR.read(hf(scaling))
        assert found is not None
        assert found.value == pytest.approx(factor, rel=1e-6)
    for args, factor in zip(ARGS, real["megatron"], strict=True):
        side = megatron(args)
        found, part = FACTOR.read(side), PART.read(side)
        assert found is not None
        assert part is not None
        assert found.value == pytest.approx(factor, rel=1e-6)
        assert part.value == 1.0
    assert real["rotated"] == [HEAD] * len(ARGS)
