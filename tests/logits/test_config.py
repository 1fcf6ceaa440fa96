"""A config that is odd is refused in a sentence, and one that leaves things out is read rightly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.errors import CkptDiffError, UnknownConfig, UnsupportedLayout
from ckptdiff.forward import hf_config
from ckptdiff.forward.megatron_args import model as megatron_args
from tests.support.logit_runs import compare_logits
from tests.support.native import Native

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

IDS = (3, 1, 4, 1, 5)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ODD: tuple[dict[str, Any], ...] = (
    {"rope_scaling": {"type": "linear"}},
    {"rope_scaling": LLAMA3},
    {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
    {"rope_scaling": "linear"},
    {"rope_scaling": ["linear", 2]},
    {"rms_norm_eps": "x"},
    {"hidden_act": ["silu"]},
    {"model_type": "qwen3", "layer_types": ["full_attention"]},
    {"num_hidden_layers": "2"},
)


@pytest.mark.parametrize("odd", ODD, ids=[str(one)[:40] for one in ODD])
def test_an_odd_config_is_refused(odd: dict[str, Any], tiny_hf: Make, copy_of: Any) -> None:
    hf = copy_of(tiny_hf())
    file = hf / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    with pytest.raises(CkptDiffError, match=r"\w{5}"):
        compare_logits(hf, tiny_hf(), IDS)


@pytest.mark.parametrize(
    "odd", [{"window_size": 7}, {"window_size": [3, 0], "window_attn_skip_freq": 0}]
)
def test_odd_args_are_refused(
    odd: dict[str, Any], tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    native = Native.read(tiny_megatron(tp=1), trusted=True)
    for state in native.states.values():
        vars(state["args"]).update(odd)
    with pytest.raises(UnknownConfig, match="makes no sense"):
        compare_logits(tiny_hf(), native.write(tmp_path / "odd"), IDS)


@pytest.mark.parametrize("order", [1, -1])
def test_models_with_and_without_learned_positions_are_no_pair(order: int, corpus: Path) -> None:
    a, b = (corpus / "llama2/hf", corpus / "gpt2/hf")[::order]
    with pytest.raises(UnsupportedLayout, match=f"only {'BA'[order < 0]} has learned positions"):
        compare_logits(a, b, IDS)


def told(**args: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": 4, "hidden_size": 32, "num_layers": 2, "swiglu": True,
        "normalization": "RMSNorm", "position_embedding_type": "rope",
    } | args  # fmt: skip


def test_the_epsilon_has_an_older_name() -> None:
    assert megatron_args.read(told(layernorm_epsilon=1e-6), "llama").layernorm_epsilon == 1e-6
    both = told(layernorm_epsilon=1e-6, norm_epsilon=1e-5)
    assert megatron_args.read(both, "llama").layernorm_epsilon == 1e-5


def test_an_argument_of_none_is_none_at_all() -> None:
    plain = megatron_args.read(told(), "llama")
    none = told(rotary_base=None, rotary_percent=None, norm_epsilon=None)
    assert megatron_args.read(none, "llama") == plain


def test_qwen2_slides_only_behind_the_layers_that_transformers_would() -> None:
    config = {
        "model_type": "qwen2", "num_attention_heads": 4, "hidden_size": 32,
        "num_hidden_layers": 30, "use_sliding_window": True, "sliding_window": 3,
    }  # fmt: skip
    windows = [layer.window for layer in hf_config.read(config).layers]
    assert windows == [None] * 28 + [3] * 2


def test_a_cap_that_args_say_is_not_taken_from_the_other_side() -> None:
    config = {
        "model_type": "gemma2", "num_attention_heads": 4, "hidden_size": 32,
        "num_hidden_layers": 2, "head_dim": 8,
    }  # fmt: skip
    other = hf_config.read(config)
    for said, cap in (({}, 50.0), *(({"attn_logit_softcapping": n}, n) for n in (None, 0.5))):
        model = megatron_args.read(told(kv_channels=8, **said), "gemma2", other)
        assert model.attention_cap == cap
        assert ("cap of attention scores" in model.taken) == (not said)
        assert "cap of logits" in model.taken


def test_a_layer_has_no_positions_where_args_leave_them_out() -> None:
    for freq in (2, [0, 1]):
        layers = megatron_args.read(told(no_rope_freq=freq), "llama").layers
        assert [layer.rope is None for layer in layers] == [False, True]


def test_a_delta_net_is_refused_if_no_arg_says_its_layers() -> None:
    args = told(experimental_attention_variant="gated_delta_net")
    with pytest.raises(UnsupportedLayout, match="without linear_attention_freq"):
        megatron_args.read(args, "llama")
    layers = megatron_args.read(told(linear_attention_freq=2) | args, "llama").layers
    assert [layer.mixer for layer in layers] == ["delta_net", "attention"]


@pytest.mark.parametrize(
    ("window", "implementation", "is_computed"),
    [
        ((6, 0), "local", True),
        ((6, 0), "transformer_engine", True),
        ((-1, 0), "transformer_engine", True),
        ((-1, -1), None, True),
        ((-1, 0), "local", False),
        ((6, 2), "local", False),
        ((6, 2), "transformer_engine", False),
    ],
)
def test_a_window_that_attention_reads_in_two_ways_is_not_computed(
    window: tuple[int, int], implementation: str | None, is_computed: bool
) -> None:
    model = megatron_args.read(told(window_size=window, transformer_impl=implementation), "llama")
    assert (model.not_computed == ()) == is_computed


@pytest.mark.parametrize(
    ("code", "is_computed"),
    [
        ({}, True),
        ({"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}, True),
        ({"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}, False),
        ({"AutoConfig": "own--configuration.OwnConfig"}, False),
    ],
)
def test_code_beside_a_config_is_not_computed(code: dict[str, str], is_computed: bool) -> None:
    config = {
        "model_type": "llama", "num_attention_heads": 4, "hidden_size": 32,
        "num_hidden_layers": 2, "auto_map": code,
    }  # fmt: skip
    not_computed = hf_config.read(config).not_computed
    assert len(not_computed) == (not is_computed)
    assert all("auto_map names code of its own" in words for words in not_computed)


def test_a_conflict_of_code_is_undecided(tiny_hf: Make, copy_of: Any) -> None:
    hf = copy_of(tiny_hf())
    file = hf / "config.json"
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    found = compare_logits(tiny_hf(), hf, IDS)
    assert found.verdict == "undecided"
    assert "B's auto_map names code of its own, modeling_own.OwnForCausalLM" in found.sentence
