"""The sizes of a model, as config.json and Megatron's arguments tell them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.model import from_huggingface, from_megatron
from ckptdiff.errors import UnknownConfig
from ckptdiff.formats import open_checkpoint
from tests.support.corpus import CORPUS, from_corpus
from tests.support.pairs import config_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

LLAMA: dict[str, Any] = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
MEGATRON: dict[str, Any] = {
    "num_layers": 32,
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "group_query_attention": True,
    "num_query_groups": 8,
    "kv_channels": 128,
    "untie_embeddings_and_output_weights": True,
    "padded_vocab_size": 128512,
    "rotary_base": 500000,
}
SIZES = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups",
    "kv_channels", "heads_per_group", "tied_embeddings",
)  # fmt: skip


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


def test_sizes_of_huggingface_are_read() -> None:
    config = from_huggingface(LLAMA)
    assert [getattr(config, name) for name in SIZES] == [32, 4096, 14336, 32, 8, 128, 4, False]
    assert (config.vocab_size, config.padded_vocab_size) == (128256, None)
    assert (config.rotary_base, config.rope_is_scaled) == (500000.0, False)


def test_sizes_of_megatron_are_read() -> None:
    config = from_megatron(MEGATRON)
    assert [getattr(config, name) for name in SIZES] == [32, 4096, 14336, 32, 8, 128, 4, False]
    assert (config.vocab_size, config.padded_vocab_size) == (None, 128512)
    assert (config.rotary_base, config.rope_is_scaled) == (500000, False)


CASES = [
    f"{folder.parent.name}/{folder.name}"
    for family in ("llama*", "mistral", "qwen2", "qwen3")
    for folder in sorted(CORPUS.glob(f"{family}/megatron-*"))
    if not any(folder.glob("iter_*/.metadata"))
]


@pytest.mark.parametrize("case", from_corpus(CASES))
def test_both_sides_of_a_real_model_have_the_same_sizes(corpus: Path, case: str) -> None:
    """Also where the arguments name one query group for multi-head attention."""
    hf = from_huggingface(config_of(corpus / case.partition("/")[0] / "hf"))
    megatron = from_megatron(open_checkpoint(corpus / case).config or {})
    assert [getattr(megatron, name) for name in SIZES] == [getattr(hf, name) for name in SIZES]


@pytest.mark.parametrize("model", ["llama3", "mixtral"])
def test_transformers_5_spells_the_same_sizes(corpus: Path, model: str) -> None:
    four = from_huggingface(config_of(corpus / model / "hf"))
    five = from_huggingface(config_of(corpus / f"tf5/{model}-hf-transformers5"))
    assert five == four


def test_rope_of_transformers_5_is_read() -> None:
    rope = {"rope_theta": 1e6, "rope_type": "llama3", "factor": 8.0}
    config = from_huggingface({**without(LLAMA, "rope_theta"), "rope_parameters": rope})
    assert (config.rotary_base, config.rope_is_scaled) == (1e6, True)
    plain = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    assert not from_huggingface({**LLAMA, **plain}).rope_is_scaled


@pytest.mark.parametrize(
    ("scaling", "is_scaled"),
    [(None, False), ({"rope_type": "llama3"}, True), ({"type": "linear", "factor": 2}, True),
     ({"rope_type": "default"}, False), ({}, False)],
)  # fmt: skip
def test_scaling_of_rope_is_noticed(scaling: object, is_scaled: bool) -> None:
    assert from_huggingface({**LLAMA, "rope_scaling": scaling}).rope_is_scaled is is_scaled
    assert from_megatron({**MEGATRON, "use_rope_scaling": True}).rope_is_scaled


def test_a_composed_models_text_config_counts() -> None:
    composed = {"model_type": "llava", "hidden_size": 1, "text_config": LLAMA}
    assert from_huggingface(composed) == from_huggingface(LLAMA)
    for outer in (True, False):  # the class that holds both parts ties the head
        inner = {**LLAMA, "tie_word_embeddings": not outer}
        tied = from_huggingface({"tie_word_embeddings": outer, "text_config": inner})
        assert tied.tied_embeddings is outer


@pytest.mark.parametrize(
    ("name", "value", "field", "wanted"),
    [
        ("num_key_value_heads", None, "num_query_groups", 32),
        ("num_key_value_heads", ..., "num_query_groups", 32),
        ("head_dim", 64, "kv_channels", 64),
        ("head_dim", None, "kv_channels", 128),
        ("intermediate_size", ..., "ffn_hidden_size", 16384),
        ("tie_word_embeddings", ..., "tied_embeddings", False),
        ("tie_word_embeddings", True, "tied_embeddings", True),
        ("rope_theta", ..., "rotary_base", None),
    ],
)
def test_what_a_config_json_leaves_out_follows_from_the_rest(
    name: str, value: object, field: str, wanted: object
) -> None:
    config = without(LLAMA, name) if value is ... else {**LLAMA, name: value}
    assert getattr(from_huggingface(config), field) == wanted


@pytest.mark.parametrize(
    ("changes", "field", "wanted"),
    [
        ({"group_query_attention": False, "num_query_groups": 1}, "num_query_groups", 32),
        ({"group_query_attention": False, "num_query_groups": 8}, "num_query_groups", 32),
        ({"group_query_attention": True, "num_query_groups": 32}, "num_query_groups", 32),
        ({"group_query_attention": True, "num_query_groups": 1}, "num_query_groups", 1),
        ({"kv_channels": None}, "kv_channels", 128),
        ({"kv_channels": 256}, "kv_channels", 256),
        ({"ffn_hidden_size": None}, "ffn_hidden_size", 16384),
        ({"untie_embeddings_and_output_weights": False}, "tied_embeddings", True),
    ],
    ids=str,
)
def test_what_megatrons_arguments_mean_is_known(
    changes: dict[str, Any], field: str, wanted: object
) -> None:
    assert getattr(from_megatron({**MEGATRON, **changes}), field) == wanted


def test_without_group_query_attention_among_the_arguments_the_groups_count() -> None:
    args = without(MEGATRON, "group_query_attention")
    assert from_megatron(args).num_query_groups == 8
    assert from_megatron(without(args, "num_query_groups")).num_query_groups == 32


def test_arguments_that_do_not_speak_of_tying_mean_tied() -> None:
    """Megatron's default is to share the embedding with the head."""
    assert from_megatron(without(MEGATRON, "untie_embeddings_and_output_weights")).tied_embeddings


@pytest.mark.parametrize("value", [0, -1, 1.5, "32", True, [32], None, 2**0.5, ...])
@pytest.mark.parametrize(
    ("read", "config", "name"),
    [
        (from_huggingface, LLAMA, "num_hidden_layers"),
        (from_huggingface, LLAMA, "hidden_size"),
        (from_huggingface, LLAMA, "num_attention_heads"),
        (from_megatron, MEGATRON, "num_layers"),
        (from_megatron, MEGATRON, "hidden_size"),
        (from_megatron, MEGATRON, "num_attention_heads"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_size_that_makes_no_sense_is_refused_by_its_name(
    read: Callable[[dict[str, Any]], object], config: dict[str, Any], name: str, value: object
) -> None:
    changed = without(config, name) if value is ... else {**config, name: value}
    with pytest.raises(UnknownConfig, match=f"{name} is .*a positive integer is needed"):
        read(changed)


@pytest.mark.parametrize("groups", [3, 64, -8, "8", 2.0, True])
def test_groups_that_the_heads_cannot_form_are_refused(groups: object) -> None:
    with pytest.raises(UnknownConfig, match=r"config\.json: 32 attention heads cannot form"):
        from_huggingface({**LLAMA, "num_key_value_heads": groups})


@pytest.mark.parametrize("width", ["128", -1, 1.5])
def test_a_head_dimension_that_makes_no_sense_is_refused(width: object) -> None:
    with pytest.raises(UnknownConfig, match="the head dimension is"):
        from_huggingface({**LLAMA, "head_dim": width})
    with pytest.raises(UnknownConfig, match="args: the head dimension is"):
        from_megatron({**MEGATRON, "kv_channels": width})


def test_a_config_from_a_file_is_what_json_says(tiny_hf: Make) -> None:
    folder = tiny_hf(transformers=5)
    config = open_checkpoint(folder).config
    assert config == json.loads((folder / "config.json").read_text())
    assert from_huggingface(config or {}).kv_channels == 8
