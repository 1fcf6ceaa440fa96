"""A model that its own program refuses is not called equal to another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.keys_read import KEYS
from ckptdiff.config.refused import _FLOATS, _OF_EVERY_CLASS, _SWITCHES, _UNUSED_FLOATS, refused
from tests.support.conversions import converted
from tests.support.logit_runs import compare_logits, tokens
from tests.support.oracle_refused import POSITIONS
from tests.support.pairs import open_pair, with_args, with_config
from tests.support.small_models import VOCABULARY, write_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

IDS = tokens(9, VOCABULARY)
# What Megatron-LM asserts, and the words of it.
ASSERTED: list[tuple[dict[str, Any], str]] = [
    ({"squared_relu": True}, "Megatron-LM refuses squared_relu beside swiglu"),
    ({"quick_geglu": True}, "Megatron-LM refuses quick_geglu beside swiglu"),
    ({"rope_type": "yarn"}, "refuses rope_type yarn without multi_latent_attention"),
    ({"add_qkv_bias": True}, "no model without model.layers.0.self_attn.q_proj.bias and 5 more"),
]


def test_a_switch_that_is_no_bool_is_not_decided(tmp_path: Path) -> None:
    write_model(tmp_path / "a", "llama")
    write_model(tmp_path / "b", "llama", attention_bias=0)
    found = compare_logits(tmp_path / "a", tmp_path / "b", IDS)
    assert found.verdict == "undecided"
    assert "B: transformers 5 refuses attention_bias 0" in found.sentence


def test_a_whole_number_in_place_of_a_float_is_not_decided(tmp_path: Path) -> None:
    write_model(tmp_path / "a", "llama", rms_norm_eps=1.0)
    write_model(tmp_path / "b", "llama", rms_norm_eps=1)
    assert compare_logits(tmp_path / "a", tmp_path / "a", IDS).verdict == "arithmetic"
    found = compare_logits(tmp_path / "a", tmp_path / "b", IDS)
    assert found.verdict == "undecided"
    assert "B: transformers 5 refuses rms_norm_eps 1, where it wants 1.0" in found.sentence


@pytest.mark.parametrize(("args", "words"), ASSERTED, ids=[words for _, words in ASSERTED])
def test_args_that_megatron_refuses_are_not_decided(
    args: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "hf", "llama")
    converted(tmp_path / "hf", tmp_path / "out", "megatron", tp=1, names="mcore")
    assert compare_logits(tmp_path / "hf", tmp_path / "out", IDS).verdict == "arithmetic"
    found = compare_logits(tmp_path / "hf", with_args(tmp_path / "out", **args), IDS)
    assert found.verdict == "undecided"
    assert words in found.sentence


@pytest.mark.parametrize("side", ["hf", "megatron"])
def test_a_table_of_another_length_than_stated_is_not_decided(
    side: str, corpus: Path, tmp_path: Path, copy_of: Any
) -> None:
    a = corpus / "gpt2/hf"
    if side == "hf":
        b = with_config(copy_of(a), n_positions=8)
    else:
        converted(a, tmp_path / "out", "megatron", tp=1, names="mcore")
        b = with_args(tmp_path / "out", max_position_embeddings=8)
    found = compare_logits(a, b, IDS[:6])
    assert found.verdict == "undecided"
    assert "refuses a table of 96 positions beside" in found.sentence


@pytest.mark.oracle
def test_switches_are_those_that_classes_refuse(oracle: Oracle, tmp_path: Path) -> None:
    write_model(tmp_path / "a", "llama")
    side, _ = open_pair(tmp_path / "a", tmp_path / "a")
    names = sorted(_SWITCHES | _OF_EVERY_CLASS)
    found = oracle.compare(
        "oracle_refused", ranks=1, task="switches", names=names, model_types=[*KEYS]
    )
    for kind in KEYS:
        # What a class refuses, but computes nothing of, is in no list.
        known = KEYS[kind] | _OF_EVERY_CLASS
        real = {(name, value) for name, value in found[kind] if name in known}
        ours = set()
        for name in names:
            for value in (0, 1, None):
                config = {"model_type": kind, name: value}
                if list(refused(replace(side, checkpoint=replace(side.checkpoint, config=config)))):
                    ours.add((name, value))
        assert ours == real, kind


@pytest.mark.oracle
def test_floats_are_those_for_which_classes_refuse_whole_numbers(
    oracle: Oracle, tmp_path: Path
) -> None:
    write_model(tmp_path / "a", "llama")
    side, _ = open_pair(tmp_path / "a", tmp_path / "a")
    real = oracle.compare("oracle_refused", ranks=1, task="floats", model_types=[*KEYS])
    names = sorted(_FLOATS.union(_UNUSED_FLOATS, *real.values()))
    for kind in KEYS:
        ours = []
        for name in names:
            for value in (1.0, 1):
                config = {"model_type": kind, name: value}
                told = replace(side, checkpoint=replace(side.checkpoint, config=config))
                ours += [(name, type(value)) for why in refused(told) if f" {name} 1," in why]
        assert ours == [(name, int) for name in names if name in real[kind]], kind


@pytest.mark.oracle
def test_a_whole_number_for_a_float_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    for eps, words in ((1.0, None), (1, "rms_norm_eps")):
        write_model(tmp_path / f"{eps}", "llama", rms_norm_eps=eps)
        folder = str(tmp_path / f"{eps}")
        found = oracle.compare("oracle_refused", ranks=1, task="folder", folder=folder)
        assert found["why"] is None if words is None else words in found["why"]


@pytest.mark.oracle
def test_a_table_of_another_length_is_refused(oracle: Oracle, corpus: Path, copy_of: Any) -> None:
    hf = with_config(copy_of(corpus / "gpt2/hf"), n_positions=8)
    found = oracle.compare("oracle_refused", ranks=1, task="folder", folder=str(hf))
    assert "transformer.wpe.weight" in found["why"] or "size" in found["why"]
    for positions, settings, words in (
        (POSITIONS, {}, None),
        (8, {}, "position_embeddings.weight"),
        (POSITIONS, {"add_qkv_bias": True}, "linear_qkv.bias"),
    ):
        found = oracle.compare(
            "oracle_refused", ranks=1, task="megatron", settings=settings, positions=positions
        )
        assert found["why"] is None if words is None else words in found["why"]
