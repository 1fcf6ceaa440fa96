"""Which layers of a Qwen have a window is what transformers makes of its config."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.compare import ConfigDiff, compare_sides
from ckptdiff.config.fields import ConfigSide
from ckptdiff.config.fields.unread import as_read
from ckptdiff.forward import hf_config
from tests.support.small_models import SIZES

if TYPE_CHECKING:
    from tests.support.oracle_client import Oracle

FULL = ["full_attention"] * 4
MIXED = ["full_attention", "sliding_attention"] * 2
ON: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8}
SETTINGS: list[dict[str, Any]] = [
    {**on, **border, **kinds}
    for on, border, kinds in product(
        ({}, ON, {"sliding_window": 8}),
        ({}, {"max_window_layers": 1}, {"max_window_layers": 4}),
        ({}, {"layer_types": FULL}, {"layer_types": MIXED}),
    )
    if on == ON or kinds != {"layer_types": MIXED}  # which no class runs without a window
]
QWEN = ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe")


def side(kind: str, settings: dict[str, Any]) -> ConfigSide:
    sizes = {"num_hidden_layers": 4, "num_experts": 4, "moe_intermediate_size": 16}
    fields = {**SIZES, **sizes, "model_type": kind, **settings}
    return ConfigSide("hf", as_read(fields, kind), kind, frozenset())


def of_windows(kind: str, a: dict[str, Any], b: dict[str, Any]) -> list[ConfigDiff]:
    lines = compare_sides(side(kind, a), side(kind, b))
    return [line for line in lines if line.status in ("conflict", "unknown")]


@pytest.mark.oracle
@pytest.mark.parametrize("kind", QWEN)
def test_windows_conflict_where_classes_have_others(kind: str, oracle: Oracle) -> None:
    known = [one for one in SETTINGS if kind != "qwen3_moe" or "layer_types" not in one]
    configs = [dict(side(kind, one).fields) for one in known]
    real = oracle.compare("oracle_windows", ranks=1, configs=configs)["windows"]
    for settings, windows in zip(known, real, strict=True):
        model = hf_config.read(side(kind, settings).fields)
        assert [layer.window or 0 for layer in model.layers] == windows, settings
        for other, others in zip(known, real, strict=True):
            lines = of_windows(kind, settings, other)
            assert bool(lines) == (windows != others), (settings, other, lines)
            assert {line.meaning for line in lines} <= {"Sliding window", "Windowed layers"}
