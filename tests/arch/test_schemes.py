"""Which scheme has which name for a tensor, and what a state dict holds beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.arch.modules import with_states
from ckptdiff.arch.naming import distributed, spelled, split_native
from ckptdiff.arch.templates import template

if TYPE_CHECKING:
    from ckptdiff.config.programs import Version

LAYER = "decoder.layers.{layer}."
ORDINARY = {template(f"{LAYER}self_attention.linear_qkv.weight")}
LATENT = {template(f"{LAYER}self_attention.linear_kv_up_proj.weight")}
HYBRID = {template(f"{LAYER}mixer.in_proj.weight"), *ORDINARY}


@pytest.mark.parametrize(
    ("model", "written"),
    [
        (ORDINARY, "decoder.layers.3.self_attention.linear_qkv.layer_norm_weight"),
        (LATENT, "decoder.layers.3.input_layernorm.weight"),
        (HYBRID, "decoder.layers.3.input_layernorm.weight"),
    ],
)
def test_only_the_local_spec_of_ordinary_attention_fuses_names(
    model: set[str], written: str
) -> None:
    name = "decoder.layers.3.input_layernorm.weight"
    assert distributed(name, "mcore", model, model) == written
    # Earlier releases of ours fused all of them: both are read.
    fused = "decoder.layers.3.self_attention.linear_qkv.layer_norm_weight"
    assert split_native(written) == split_native(fused) == split_native(name)


@pytest.mark.parametrize(
    ("name", "newer"),
    [
        ("mtp.layers.0.transformer_layer.mlp.router.weight",
         "mtp.layers.0.mtp_model_layer.mlp.router.weight"),
        ("mtp.layers.0.enorm.weight", "mtp.layers.0.enorm.weight"),
        ("decoder.layers.3.mixer.conv1d.bias", "decoder.layers.3.mixer.conv1d_bias"),
        ("decoder.layers.3.self_attention.conv1d.weight",
         "decoder.layers.3.self_attention.conv1d.weight"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [None, "0.14", "0.16", "0.19"])
def test_newer_names_are_those_of_rank_files_since_0_19(
    name: str, newer: str, version: Version | None
) -> None:
    written = spelled(name, "te", set(), version=version)
    assert written == (newer if version == "0.19" else name)
    assert split_native(written) == split_native(name)


def test_a_fused_norm_of_a_prediction_layer_has_its_newer_name_too() -> None:
    layer = "mtp.layers.{mtp}.transformer_layer."
    beside = {template(f"{layer}mlp.linear_fc1.weight")}
    norm = "mtp.layers.0.transformer_layer.pre_mlp_layernorm.weight"
    found = spelled(norm, "te", beside, version="0.19")
    assert found == "mtp.layers.0.mtp_model_layer.mlp.linear_fc1.layer_norm_weight"


def test_transformer_engines_norms_and_attention_have_states() -> None:
    names = [
        "decoder.layers.0.mixer.norm.weight",
        "decoder.layers.1.input_layernorm.weight",
        "decoder.layers.1.self_attention.linear_proj.weight",
        "decoder.final_norm.weight",
    ]
    local = [n for n in with_states(names, last=False) if "_extra_state" in n]
    assert local == ["decoder.layers.1.self_attention.linear_proj._extra_state"]
    engine = [n for n in with_states(names, last=False, engine=True) if "_extra_state" in n]
    assert set(engine) - set(local) == {
        "decoder.layers.1.input_layernorm._extra_state",
        "decoder.layers.1.self_attention.core_attention._extra_state",
        "decoder.final_norm._extra_state",
    }
