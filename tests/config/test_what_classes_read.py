"""What classes of transformers read of a config.json, and fix, whatever stands there."""

from __future__ import annotations

from typing import Any

import pytest

from ckptdiff.config.megatron_flags import RELEASES
from tests.support.restated import hf_side, tiny_config, to_args

GROUPS = {"n_group": 4, "topk_group": 2}


def _args(model_type: str, **changes: Any) -> dict[str, Any]:
    args, _ = to_args(hf_side({**tiny_config(model_type), **changes}), names="te")
    return args


@pytest.mark.parametrize("normed", [True, False])
def test_deepseek_v2_never_norms_the_weights_of_experts(normed: bool) -> None:
    """DeepseekV2TopkRouter has no use for norm_topk_prob: the scores are taken as they are."""
    assert _args("deepseek_v2", norm_topk_prob=normed)["moe_router_pre_softmax"] is True


def test_deepseek_v2_chooses_groups_by_one_method_alone() -> None:
    names = ("moe_router_num_groups", "moe_router_group_topk")
    for method in ({}, {"topk_method": "greedy"}, {"topk_method": None}):
        args = _args("deepseek_v2", **GROUPS, **method)
        assert [args.get(name) for name in names] == [None, None]
    limited = _args("deepseek_v2", **GROUPS, topk_method="group_limited_greedy")
    assert [limited[name] for name in names] == [4, 2]
    # The class of DeepSeek-V3 has one method, and reads no name of it.
    assert [_args("deepseek_v3", **GROUPS)[name] for name in names] == [4, 2]


@pytest.mark.parametrize(
    ("model_type", "score"), [("deepseek_v2", "softmax"), ("deepseek_v3", "sigmoid")]
)
@pytest.mark.parametrize("said", ["softmax", "sigmoid"])
def test_the_scores_of_experts_are_the_class_own(model_type: str, score: str, said: str) -> None:
    assert _args(model_type, scoring_func=said)["moe_router_score_function"] == score


def _notes(model_type: str, **changes: Any) -> list[str]:
    found: list[str] = []
    for version in RELEASES:
        side = hf_side({**tiny_config(model_type), **changes})
        found += to_args(side, names="te", version=version)[1]
    return found


def test_a_note_tells_the_epsilon_that_a_class_fixes() -> None:
    words = "epsilon of 1e-06, Megatron that of all norms, 1e-05"
    assert any(words in note for note in _notes("deepseek_v3", rms_norm_eps=1e-5))
    assert not any("epsilon" in note for note in _notes("deepseek_v3", rms_norm_eps=1e-6))
    assert not any("epsilon" in note for note in _notes("llama", rms_norm_eps=1e-5))


def test_a_note_tells_the_shortest_step_of_mamba_layers() -> None:
    assert any("step below 0.002" in note for note in _notes("nemotron_h", time_step_min=2e-3))
    assert any("step below 0.001" in note for note in _notes("nemotron_h"))


def test_a_note_tells_the_epsilon_that_megatron_fixes_in_mamba_layers() -> None:
    words = "epsilon of 1e-05, transformers that of all norms, 1e-06"
    assert any(words in note for note in _notes("nemotron_h", layer_norm_epsilon=1e-6))
    assert not any("epsilon" in note for note in _notes("nemotron_h", layer_norm_epsilon=1e-5))
