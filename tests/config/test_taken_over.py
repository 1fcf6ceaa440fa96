"""No arg is lost without a word: a release takes it over, a flag gives it, or it needs neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.checkpoint import Parallelism
from ckptdiff.config.compare import config_side
from ckptdiff.config.fields import FIELDS
from ckptdiff.config.launch import leftovers
from ckptdiff.config.megatron_flags import RELEASES
from ckptdiff.config.taken_over import NEEDS_NOTHING, NOT_TAKEN_OVER, TAKEN_OVER
from tests.support.families import MODELS
from tests.support.odd_configs import ODD
from tests.support.restated import hf_side, tiny_config, to_args

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.config.programs import Version

# Values beside those that the configs give a field, so that each of its ways to set args is gone.
WORDS = ("silu", "gelu", "gelu_pytorch_tanh", "relu2", "yarn", "llama3", "linear", "rope", "none")
PROBES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 8, 0.5, 2.5, [0, 1], [1, 0], 16, (16, 0)),
    *("GELU", "tanh GELU", "gated SiLU", "squared ReLU", "gated quick GELU", "sigmoid", *WORDS),
)
# What no field of the table has ever to do with; each stands for a whole class of args.
SEEN = {
    *("num_layers", "softmax_scale", "no_rope_freq", "hybrid_override_pattern", "mscale"),
    *("moe_router_group_topk", "linear_attention_freq", "yarn_beta_fast", "window_size"),
}


def _set_by_fields() -> Iterator[tuple[str, str]]:
    """Yield every arg that a field sets for some config and value, with the field's name."""
    for model_type in MODELS:
        for changes in ({}, *ODD.get(model_type, {}).values()):
            side = config_side(hf_side({**tiny_config(model_type), **changes}))
            for field in FIELDS:
                reading = field.read(side)
                values = PROBES if reading is None else (reading.value, *PROBES)
                for value in values:
                    for arg in field.settings(value, side, "megatron") or {}:
                        yield arg, field.name


def _beside_fields() -> Iterator[tuple[str, str]]:
    """Yield every arg of whole namespaces: what is set in other ways is among them."""
    for model_type in MODELS:
        args, _ = to_args(hf_side(tiny_config(model_type)), Parallelism(tp=2, pp=2, etp=2))
        yield from ((arg, "megatron_args") for arg in args)


@pytest.fixture(scope="module")
def set_args() -> dict[str, str]:
    return {**dict(_beside_fields()), **dict(_set_by_fields())}


@pytest.mark.parametrize("version", RELEASES)
def test_every_arg_that_is_set_reaches_the_release(
    set_args: dict[str, str], version: Version
) -> None:
    assert set_args.keys() >= SEEN
    taken = {arg for arg, releases in TAKEN_OVER.items() if version in releases}
    placed = taken | NOT_TAKEN_OVER.keys() | NEEDS_NOTHING.keys()
    lost = {arg: by for arg, by in set_args.items() if arg not in placed}
    assert not lost


def test_the_tables_are_apart() -> None:
    """An arg that all releases take over, or that needs nothing, has no flag printed for it."""
    by_all = {arg for arg, releases in TAKEN_OVER.items() if releases == RELEASES}
    assert not by_all & NOT_TAKEN_OVER.keys()
    assert not NEEDS_NOTHING.keys() & (TAKEN_OVER.keys() | NOT_TAKEN_OVER.keys())
    by_some = TAKEN_OVER.keys() - by_all
    assert by_some
    assert by_some <= NOT_TAKEN_OVER.keys()


def test_no_table_has_an_arg_that_nothing_sets(set_args: dict[str, str]) -> None:
    """A name with a slip of the pen would stand for nothing."""
    # These are read from args, or set for one program alone.
    other = {"rope_scaling_factor"}
    named = {*TAKEN_OVER, *NOT_TAKEN_OVER, *NEEDS_NOTHING}
    assert named - set_args.keys() <= other


def test_a_squared_relu_with_biases_is_started_without_the_fusion() -> None:
    config = {**tiny_config("nemotron"), "attention_bias": True, "mlp_bias": True}
    args, _ = to_args(hf_side(config), names="te")
    assert args["squared_relu"]
    assert args["add_bias_linear"]
    for version in RELEASES:
        words = [left.words for left in leftovers(args, version)]
        assert ("--no-bias-gelu-fusion",) in words
    plain, _ = to_args(hf_side(tiny_config("nemotron")), names="te")
    assert "bias_gelu_fusion" not in {left.arg for left in leftovers(plain, "0.16")}
