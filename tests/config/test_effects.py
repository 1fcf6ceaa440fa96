"""The table of what Megatron's args do: every field of the real dataclasses, as the real code does.

Two releases of megatron-core are asked: the one that is installed, and a newer one by its wheel.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.effects import EFFECTS
from ckptdiff.config.effects.computed import COMPUTED
from ckptdiff.config.effects.not_done import NOT_DONE
from ckptdiff.config.effects.of_runs import OF_RUNS
from ckptdiff.config.effects.without_effect import NOTHING, ROUNDING, TRAINING
from ckptdiff.config.fields import ConfigSide
from ckptdiff.config.taken_over import NEEDS_NOTHING, NOT_TAKEN_OVER, TAKEN_OVER
from ckptdiff.config.unknown_args import differing_args, not_computed, noted
from ckptdiff.forward.megatron_args.model import NOT_YET
from tests.support.corpus import REPOSITORY
from tests.support.skips import NO_NEWEST

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

WHEEL = os.environ.get("CKPTDIFF_MEGATRON", "")
EXPERTS: dict[str, Any] = {
    "num_moe_experts": 4, "moe_ffn_hidden_size": 16, "moe_router_topk": 2,
    "moe_token_dispatcher_type": "allgather", "moe_router_load_balancing_type": "none",
}  # fmt: skip
ONE_EXPERT = {**EXPERTS, "moe_router_topk": 1, "moe_router_pre_softmax": True}
# Settings that leave logits alone, beside a dense model and one with experts.
STILL: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({}, [
        {"hidden_dropout": 0.5}, {"attention_dropout": 0.5}, {"init_method_std": 0.5},
        {"masked_softmax_fusion": True}, {"bias_dropout_fusion": True},
        {"apply_query_key_layer_scaling": True}, {"attention_softmax_in_fp32": False},
        {"fp32_residual_connection": True}, {"deallocate_pipeline_outputs": True},
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        {"mtp_loss_scaling_factor": 0.9}, {"calculate_per_token_loss": True}, {"test_mode": True},
        {"log_max_attention_logit": True}, {"qk_clip": True}, {"mlp_chunks_for_prefill": 2},
        {"cross_entropy_loss_fusion": True}, {"disable_parameter_transpose_cache": True},
        {"barrier_with_L1_time": False}, {"deterministic_mode": True}, {"flash_decode": True},
        {"first_last_layers_bf16": True}, {"perform_initialization": False},
        {"clone_scatter_output_in_embedding": False}, {"cpu_offloading_num_layers": 1},
        {"inference_rng_tracker": True}, {"cuda_graph_warmup_steps": 7}, {"fp8_margin": 3},
        {"use_mamba_mem_eff_path": False}, {"transformer_impl": "local"},
    ]),
    (EXPERTS, [
        {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.5},
        {"moe_router_load_balancing_type": "seq_aux_loss", "moe_aux_loss_coeff": 0.5},
        {"moe_router_load_balancing_type": "global_aux_loss", "moe_aux_loss_coeff": 0.5},
        {"moe_z_loss_coeff": 0.5}, {"moe_per_layer_logging": True},
        {"moe_router_bias_update_rate": 0.5}, {"moe_enable_routing_replay": True},
        {"moe_shared_expert_overlap": True}, {"moe_flex_dispatcher_backend": "hybridep"},
        {"moe_expert_capacity_factor": -1.0},
    ]),
]  # fmt: skip
# Settings that move them: what the table says is not done, if a CPU can.
MOVING: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({}, [{"qk_l2_norm": True}, {"softmax_type": "off-by-one"}]),
    (EXPERTS, [
        {"moe_router_force_load_balancing": True}, {"moe_input_jitter_eps": 0.5},
        {"moe_expert_capacity_factor": 0.25}, {"moe_router_load_balancing_type": "sinkhorn"},
    ]),
    (ONE_EXPERT, [{"moe_apply_probs_on_input": True}]),
]  # fmt: skip
NEWER: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (EXPERTS, [{"moe_router_force_biased": 1.0}, {"moe_router_score_function": "sqrtsoftplus"}])
]


def asked(oracle: Oracle, wheel: str, folder: Path, questions: list[Any]) -> dict[str, Any]:
    answer = subprocess.run(
        [oracle.python, "-m", "tests.support.oracle_effects", wheel, folder],
        input=json.dumps(questions),
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled for a few tiny models
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert not answer.returncode, answer.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("wheel", ["", pytest.param(WHEEL or "none", id="newest")])
def test_the_table_has_every_field_and_is_right_of_those_that_a_cpu_can_change(
    wheel: str, oracle: Oracle, tmp_path: Path
) -> None:
    if wheel == "none":
        pytest.skip(NO_NEWEST)
    still, moving = len(STILL), [*MOVING, *(NEWER if wheel else [])]
    answer = asked(oracle, wheel, tmp_path, [*STILL, *moving])

    defaults = answer["defaults"]
    assert len(defaults) > 250
    assert sorted(defaults.keys() - EFFECTS.keys()) == []
    every_switch = dict.fromkeys(EFFECTS, 1)
    wrong = {
        name: value
        for name, value in defaults.items()
        if not EFFECTS[name].of and not EFFECTS[name].is_known(value, every_switch)
    }
    assert wrong == {}, "an arg changes something at its default"

    for (_, several), found in zip(STILL, answer["moved"], strict=False):
        for changes, moved in zip(several, found, strict=True):
            assert moved == {"by": 0.0}, changes
            assert not not_computed({**EXPERTS, **changes}, ()), changes
    for (_, several), found in zip(moving, answer["moved"][still:], strict=True):
        for changes, moved in zip(several, found, strict=True):
            assert moved.get("by", 0.0) > 1e-3, (changes, moved)
            told = not_computed({**EXPERTS, **changes}, ())
            assert told or changes.keys() & NOT_YET.keys(), changes


def test_no_arg_is_in_two_parts_of_the_table() -> None:
    parts = (COMPUTED, NOT_DONE, NOTHING, ROUNDING, TRAINING, OF_RUNS)
    assert sum(map(len, parts)) == len(EFFECTS)


def test_what_a_conversion_writes_or_leaves_to_the_command_line_is_known() -> None:
    assert {*TAKEN_OVER, *NOT_TAKEN_OVER, *NEEDS_NOTHING} - EFFECTS.keys() == set()


def test_what_the_forward_pass_does_not_do_yet_is_what_the_config_table_states() -> None:
    assert {name: EFFECTS[name].kind for name in NOT_YET} == dict.fromkeys(NOT_YET, "computed")


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"moe_router_force_load_balancing": True}, []),  # there are no experts
        ({"num_experts": 8, "moe_router_force_load_balancing": True}, ["moe_router_force_"]),
        ({"num_experts": 8, "moe_expert_capacity_factor": 1.5}, ["moe_expert_capacity_factor 1.5"]),
        ({"num_experts": 8, "moe_expert_capacity_factor": -1}, []),
        ({"num_experts": 8, "moe_router_load_balancing_type": ["aux_loss"]}, []),
        ({"num_experts": 8, "moe_router_load_balancing_type": ["sinkhorn"]}, ["moe_router_load_"]),
        ({"use_mup": True, "mup_output_mult": 0.25}, ["use_mup true"]),
        ({"mup_output_mult": 0.25}, []),
        ({"openai_gelu": True, "swiglu": False}, ["openai_gelu true"]),
        ({"openai_gelu": True, "use_legacy_models": False}, []),
        ({"openai_gelu": True, "bias_gelu_fusion": True, "add_bias_linear": True}, []),
        ({"spec": ["local"]}, []),
        ({"spec": ["mine", "layers"]}, ["spec [mine, layers]"]),
        ({"attn_logit_softcapping": 50.0}, []),
        ({"of_a_fork": 0, "of_another": None, "of_none": []}, []),
        ({"of_a_fork": 2}, ["of_a_fork 2 (no release"]),
        (dict.fromkeys("abcde", 1), ["a 1, b 1, c 1 and 2 more (no release"]),
    ],
)
def test_args_that_change_what_is_computed_are_named(
    args: dict[str, Any], names: list[str]
) -> None:
    found = not_computed(args, ())
    assert len(found) == len(names)
    assert all(one.startswith(name) for one, name in zip(found, names, strict=True)), found


def test_low_precision_is_noted() -> None:
    assert noted({"hidden_dropout": 0.1, "fp8": None, "fp8_margin": 2}) == []
    (low,) = noted({"fp8": "hybrid", "fp4": "e2m1"})
    assert low.startswith("fp8 hybrid, fp4 e2m1 in Megatron's args: ")


def _side(kind: str, **fields: Any) -> ConfigSide:
    return ConfigSide(kind, fields, "llama", frozenset())  # type: ignore[arg-type]


def test_args_that_differ_are_told_once_and_those_of_a_run_never() -> None:
    a = _side("megatron", use_mup=True, mup_output_mult=0.5, lr=1.0, of_a_fork=1, qk_l2_norm=True)
    b = _side("megatron", use_mup=True, mup_output_mult=0.2, lr=2.0, of_a_fork=2, qk_l2_norm=True)
    found = {one.name: (one.a, one.b, one.does is None) for one in differing_args(a, b)}
    assert found == {"mup_output_mult": (0.5, 0.2, False), "of_a_fork": (1, 2, True)}


def test_beside_a_config_json_the_args_that_are_on_are_told() -> None:
    hf = _side("hf", hidden_size=8, of_a_fork=1)
    args = _side("megatron", hidden_size=8, qk_l2_norm=True, of_a_fork=2, use_mup=False, lr=0.1)
    found = {one.name: (one.a, one.b, one.sure) for one in differing_args(hf, args)}
    assert found == {"qk_l2_norm": (None, True, True), "of_a_fork": (None, 2, False)}
