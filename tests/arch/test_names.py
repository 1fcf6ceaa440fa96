"""Which family a checkpoint is of, and how Megatron's three spellings become one."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ckptdiff.arch import find_architecture, guess_architecture
from ckptdiff.arch.naming import split_native
from tests.support.numbered import FAMILIES, Model, numbered, oracle, shapes_of


@pytest.mark.parametrize(("name", "cls"), FAMILIES.items())
def test_a_family_is_found_by_its_class_or_its_type(name: str, cls: str) -> None:
    by_class = find_architecture({"architectures": [cls], "model_type": "anything"})
    by_type = find_architecture({"architectures": ["Anything"], "model_type": name})
    assert by_class is by_type
    assert by_class is not None
    assert by_class.name == name


@pytest.mark.parametrize(
    "config",
    [{}, {"architectures": None}, {"architectures": "LlamaForCausalLM"}, {"model_type": ["llama"]},
     {"architectures": ["BertForMaskedLM"], "model_type": "bert"}],
)  # fmt: skip
def test_a_config_that_names_no_known_family_has_none(config: dict[str, Any]) -> None:
    assert find_architecture(config) is None


@pytest.mark.parametrize(
    ("family", "guess"),
    [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
@pytest.mark.parametrize("names", ["mcore", "te"])
def test_megatrons_names_tell_the_family(
    family: str, guess: str, names: Literal["mcore", "te"]
) -> None:
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 2, "head_dim": 2}
    sizes |= {"num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 4}
    config = {"model_type": family, "tie_word_embeddings": False, **sizes}
    model = Model(config, numbered(shapes_of(config)), 1, 1, 1, 1, [1])
    native = oracle(model, names=names).model(0, 0, range(1), first=True, last=True)
    found = guess_architecture({split_native(name)[0] for name in native})
    assert found is not None
    assert found.name == guess


def test_names_of_another_kind_of_model_tell_no_family() -> None:
    assert guess_architecture({"encoder.block.#.weight", "shared.weight"}) is None


@pytest.mark.parametrize(
    ("native", "mcore"),
    [
        ("layers.3.self_attention.linear_qkv.layer_norm_weight", "layers.#.input_layernorm.weight"),
        ("layers.3.mlp.linear_fc1.layer_norm_weight", "layers.#.pre_mlp_layernorm.weight"),
        ("layers.3.mlp.linear_fc1.layer_norm_bias", "layers.#.pre_mlp_layernorm.bias"),
        ("layers.3.mlp.linear_fc1.weight", "layers.#.mlp.linear_fc1.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_transformer_engines_spelling_is_brought_to_the_local_one(
    native: str, mcore: str, prefix: str
) -> None:
    assert split_native(f"{prefix}decoder.{native}") == (f"decoder.{mcore}", (3,))


@pytest.mark.parametrize(
    ("native", "mcore"),
    [
        ("embedding.word_embeddings.weight", "embedding.word_embeddings.weight"),
        ("encoder.layers.3.input_norm.weight", "decoder.layers.#.input_layernorm.weight"),
        ("transformer.layers.3.input_layernorm.weight", "decoder.layers.#.input_layernorm.weight"),
        ("encoder.layers.3.self_attention.query_key_value.bias",
         "decoder.layers.#.self_attention.linear_qkv.bias"),
        ("transformer.layers.3.self_attention.dense.weight",
         "decoder.layers.#.self_attention.linear_proj.weight"),
        ("encoder.layers.3.post_attention_norm.weight",
         "decoder.layers.#.pre_mlp_layernorm.weight"),
        ("transformer.layers.3.post_attention_layernorm.weight",
         "decoder.layers.#.pre_mlp_layernorm.weight"),
        ("encoder.layers.3.mlp.dense_h_to_4h.weight", "decoder.layers.#.mlp.linear_fc1.weight"),
        ("transformer.layers.3.mlp.dense_4h_to_h.weight", "decoder.layers.#.mlp.linear_fc2.weight"),
        ("encoder.final_norm.weight", "decoder.final_layernorm.weight"),
        ("transformer.final_layernorm.weight", "decoder.final_layernorm.weight"),
        ("output_layer.weight", "output_layer.weight"),
    ],
)  # fmt: skip
def test_legacy_spelling_is_brought_to_the_local_one(native: str, mcore: str) -> None:
    numbers = (3,) if "layers" in native else ()
    assert split_native(f"language_model.{native}") == (mcore, numbers)


def test_numbers_inside_a_word_are_no_layer_numbers() -> None:
    assert split_native("decoder.layers.12.mlp.linear_fc1.weight")[1] == (12,)
    assert split_native("h4.mlp.dense_4h_to_h")[1] == ()
