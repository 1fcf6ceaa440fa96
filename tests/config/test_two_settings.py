"""Which of two settings counts: rotary ones of transformers 4 and 5, token ids, MLA's default."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.compare import ConfigDiff, compare_sides, config_status
from ckptdiff.config.fields import ConfigSide
from tests.support.oracle_hf import LLAMA3_ROPE, make_hf
from tests.support.pairs import compare
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VERSIONS = "RoPE in transformers 4"
NEW = {"rope_theta": 500000.0, **LLAMA3_ROPE}
OLD = {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}
SIZES = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
ARGS = {
    "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "rotary_base": 500000,
    "use_rope_scaling": True, "rope_scaling_factor": 8.0, "position_embedding_type": "rope",
}  # fmt: skip


def hf(fields: Mapping[str, Any], family: str = "llama", **files: Mapping[str, Any]) -> ConfigSide:
    names = {f"{name}.json": content for name, content in files.items()}
    return ConfigSide("hf", {**SIZES, **fields}, family, frozenset(), token_files=names)


def megatron(fields: Mapping[str, Any], family: str = "llama") -> ConfigSide:
    return ConfigSide("megatron", fields, family, frozenset())


def lines(a: ConfigSide, b: ConfigSide) -> dict[str, ConfigDiff]:
    return {line.meaning: line for line in compare_sides(a, b)}


# What transformers 5.23 and 4.57 make of a Llama's config.json, read off the two: base and kind.
READ: list[tuple[dict[str, Any], tuple[float, str], tuple[float, str]]] = [
    (OLD, (500000, "llama3"), (500000, "llama3")),
    ({"rope_parameters": NEW}, (500000, "llama3"), (10000, "none")),
    (
        {"rope_parameters": NEW, "rope_theta": 10000.0, "rope_scaling": None},
        (500000, "llama3"),
        (10000, "none"),
    ),
    # What rope_scaling says goes before rope_parameters in both.
    (
        {**OLD, "rope_parameters": {"rope_theta": 7e5, "rope_type": "default"}},
        (500000, "llama3"),
        (500000, "llama3"),
    ),
    (
        {"rope_scaling": LLAMA3_ROPE, "rope_parameters": {"rope_theta": 7e5}},
        (10000, "llama3"),
        (10000, "llama3"),
    ),
    (
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "default", "rope_theta": 6e5}},
        (600000, "none"),
        (500000, "none"),
    ),
    ({}, (10000, "none"), (10000, "none")),
]


@pytest.mark.parametrize(("config", "in_5", "in_4"), READ)
def test_a_config_is_read_as_transformers_5_reads_it(
    config: dict[str, Any], in_5: tuple[float, str], in_4: tuple[float, str]
) -> None:
    base, kind = in_5
    args = {**ARGS, "rotary_base": base, "use_rope_scaling": kind == "llama3"}
    found = lines(hf(config), megatron(args))
    assert "conflict" not in (found["RoPE scaling"].status, found["RoPE base"].status)
    assert (VERSIONS in found) == (in_5 != in_4)
    if VERSIONS in found:
        words = f"base {in_4[0]}, {'unscaled' if in_4[1] == 'none' else 'llama3 by 8'}"
        assert found[VERSIONS].a == words


def test_what_transformers_4_does_not_read_is_a_hint_and_no_conflict() -> None:
    found = lines(hf(OLD), hf({"rope_parameters": NEW}))
    line = found[VERSIONS]
    assert (line.status, line.a, line.b) == (
        "implied", "base 500000, llama3 by 8", "base 10000, unscaled",
    )  # fmt: skip
    assert line.is_hint
    assert line.note is not None
    assert "transformers 4 does not read rope_parameters" in line.note
    assert config_status(found.values()) == "same"


def test_a_base_beside_that_contradicts_the_one_inside_is_a_conflict() -> None:
    both = {"rope_parameters": NEW, "rope_theta": 10000.0}
    for other in (hf(OLD), megatron(ARGS)):
        line = lines(hf(both), other)[VERSIONS]
        assert line.status == "conflict"
        assert line.fix is not None
        assert line.fix.endswith(" in A's config.json")
        entries = line.fix.removesuffix(" in A's config.json")
        mended = {**both, **json.loads(f"{{{entries}}}")}
        assert mended["rope_theta"] == 500000.0
        again = lines(hf(mended), other)
        assert VERSIONS not in again
        assert "conflict" not in {one.status for one in again.values()}
        assert line.consequence is not None
        assert "transformers 5" in line.consequence
    assert VERSIONS not in lines(hf(both), hf(both))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (OLD, None),
        ({"rope_parameters": NEW}, None),
        ({"rope_parameters": NEW, "rope_theta": 500000, "rope_scaling": None}, None),
        ({**OLD, "rope_parameters": NEW}, None),
        (
            {"rope_parameters": NEW, "rope_theta": 10000.0},
            "rope_theta is 10000 and rope_parameters.rope_theta 500000: transformers 4 takes the "
            "first, transformers 5 the second",
        ),
        (
            {**OLD, "rope_parameters": {"rope_theta": 7e5}},
            "rope_scaling and rope_parameters disagree: transformers 4 and 5 read rope_scaling "
            "alone",
        ),
    ],
)
def test_a_config_that_contradicts_itself_is_said_of_its_side(
    fields: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    make_hf(tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    config = json.loads(file.read_text()) | fields
    if "rope_theta" not in fields:
        config.pop("rope_theta", None)
    file.write_text(json.dumps(config))
    done = ckptdiff("ls", tmp_path / "hf")
    assert done.returncode == 0, done.stderr
    assert (said or "") in done.stdout.splitlines()[0]
    assert ("rope_parameters" in done.stdout) == (said is not None)


def test_a_scaling_that_is_not_known_is_not_taken_for_none() -> None:
    args = {name: value for name, value in ARGS.items() if "scaling" not in name}
    side = ConfigSide("megatron", args, "llama", frozenset(), yaml="model.yaml")
    found = lines(hf({"rope_parameters": NEW}), side)
    assert found["RoPE scaling"].status == "unknown"
    assert VERSIONS not in found


def test_a_fallback_that_is_the_same_is_no_line() -> None:
    plain = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    assert VERSIONS not in lines(hf({"rope_theta": 10000.0}), hf(plain))
    mixtral = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    assert VERSIONS not in lines(hf({"rope_theta": 1e6}, "mixtral"), hf(mixtral, "mixtral"))


@pytest.mark.parametrize("odd", ["big", [], {"a": 1}, float("nan"), 10**400, None, True])
def test_odd_rotary_settings_never_raise(odd: Any) -> None:
    configs = (
        {"rope_theta": odd},
        {"rope_parameters": odd, "rope_theta": 5.0},
        {"rope_parameters": {"rope_theta": odd, "rope_type": odd, "factor": odd}},
        {"rope_scaling": odd, "rope_parameters": {"full_attention": odd}},
    )
    for config in configs:
        lines(hf(config), hf(OLD))
        lines(hf(config), megatron(ARGS))


def test_the_program_prints_both_kinds(tmp_path: Path) -> None:
    for name in ("old", "new", "both"):
        make_hf(tmp_path / name, rope_scaling=LLAMA3_ROPE, transformers=4 if name == "old" else 5)
    file = tmp_path / "both/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_theta": 10000.0}))
    said = ckptdiff("diff", tmp_path / "old", tmp_path / "new")
    assert said.returncode == 0
    assert f"i  {VERSIONS}: base 500000, llama3 by 8 in A, base 10000, unscaled in B" in said.stdout
    assert said.stdout.endswith("verdict: same\n")
    said = ckptdiff("diff", tmp_path / "old", tmp_path / "both")
    assert said.returncode == 1
    assert f"!  {VERSIONS}:" in said.stdout


# Token ids.


def test_ids_that_generation_stops_at_are_compared() -> None:
    found = lines(
        hf({"bos_token_id": 256, "eos_token_id": [257, 264, 265], "pad_token_id": None}),
        hf({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}),
    )
    stop, first = found["Stop tokens"], found["First token"]
    assert (stop.status, stop.a, stop.b) == ("conflict", [257, 264, 265], 2)
    assert stop.fix == '"eos_token_id": [257, 264, 265] in config.json'
    assert (first.status, first.a, first.b) == ("conflict", 256, 1)
    # Padding is masked.
    assert found["Padding token"].status == "implied"


def test_the_order_of_stop_tokens_does_not_count() -> None:
    found = lines(hf({"eos_token_id": [2, 5]}), hf({"eos_token_id": [5, 2, 5]}))
    assert found["Stop tokens"].status == "same"


def test_generation_config_goes_before_the_config() -> None:
    a = hf({"eos_token_id": 1}, generation_config={"eos_token_id": [1, 2]})
    assert lines(a, hf({"eos_token_id": [1, 2]}))["Stop tokens"].status == "same"
    line = lines(hf({"eos_token_id": 1}), a)["Stop tokens"]
    assert line.fix == '"eos_token_id": 1 in generation_config.json'
    # A generation_config.json that says nothing of it leaves it to config.json.
    silent = hf({"eos_token_id": 1}, generation_config={"do_sample": True})
    assert lines(silent, hf({"eos_token_id": 1}))["Stop tokens"].status == "same"


def test_a_side_that_states_no_id_is_not_known_and_megatron_never_states_one() -> None:
    assert lines(hf({"eos_token_id": 2}), hf({}))["Stop tokens"].status == "unknown"
    assert "Stop tokens" not in lines(hf({}), hf({}))
    assert "Stop tokens" not in lines(hf({"eos_token_id": 2}), megatron(ARGS))


def test_tokens_of_the_tokenizers_are_compared() -> None:
    def tokenizer(text: str, number: int) -> ConfigSide:
        added = {str(number): {"content": text}}
        token = {"content": text, "lstrip": False}
        return hf({}, tokenizer_config={"eos_token": token, "added_tokens_decoder": added})

    same = lines(tokenizer("</s>", 2), hf({}, tokenizer_config={"eos_token": "</s>"}))
    assert same["Tokenizer's stop token"].status == "same"
    line = lines(tokenizer("</s>", 2), tokenizer("</s>", 3))["Tokenizer's stop token"]
    assert (line.status, line.a, line.b) == ("conflict", "</s> (2)", "</s> (3)")
    assert "Tokenizer's stop token" not in lines(tokenizer("</s>", 2), hf({}))


@pytest.mark.parametrize("odd", ["x", [[1]], {"a": 1}, [None], True])
def test_odd_ids_never_raise(odd: Any) -> None:
    lines(hf({"eos_token_id": odd}), hf({"eos_token_id": 2}))
    files: Any = {"tokenizer_config": {"eos_token": odd, "added_tokens_decoder": {"a": odd}}}
    lines(hf({}, **files), hf({}, tokenizer_config={"eos_token": "x"}))


def test_files_beside_the_config_are_read(tmp_path: Path) -> None:
    for name, ids in (("a", [3, 4]), ("b", [4])):
        make_hf(tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    summary = compare(tmp_path / "a", tmp_path / "b").summary
    (line,) = summary.conflicts
    assert (line.meaning, line.a, line.b) == ("Stop tokens", [3, 4], [4])
    (tmp_path / "b/generation_config.json").write_text("{")
    side = compare(tmp_path / "a", tmp_path / "b").b
    assert any("generation_config.json cannot be read" in n for n in side.checkpoint.notes)


# Multi-latent attention.

LATENT = {"kv_lora_rank": 16, "rope_theta": 50000.0}
LATENT_ARGS = {
    "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "rotary_base": 50000,
    "multi_latent_attention": True, "kv_lora_rank": 16, "position_embedding_type": "rope",
}  # fmt: skip


def test_latent_attentions_own_default_is_said_with_a_flag_that_mends_it() -> None:
    line = lines(hf(LATENT, "deepseek"), megatron(LATENT_ARGS, "deepseek"))["RoPE scaling"]
    assert (line.status, line.b) == ("conflict", "40 by default")
    assert line.fix == "--rotary-scaling-factor 1"
    mended = {**LATENT_ARGS, "rotary_scaling_factor": 1.0}
    found = lines(hf(LATENT, "deepseek"), megatron(mended, "deepseek"))
    assert found.get("RoPE scaling") is None or found["RoPE scaling"].status != "conflict"


def test_a_stated_kind_of_scaling_is_mended_with_it() -> None:
    args = {**LATENT_ARGS, "rope_type": "yarn", "rotary_scaling_factor": 40}
    line = lines(hf(LATENT, "deepseek"), megatron(args, "deepseek"))["RoPE scaling"]
    assert (line.name_b, line.b) == ("rope_type", "yarn")
    assert line.fix == "--rope-type rope --rotary-scaling-factor 1"


def test_yarn_of_other_attention_is_mended_by_its_own_flag() -> None:
    args = {**ARGS, "use_rope_scaling": False, "position_embedding_type": "yarn",
            "yarn_rotary_scaling_factor": 4.0}  # fmt: skip
    line = lines(hf({"rope_theta": 500000.0}), megatron(args))["RoPE scaling"]
    assert line.fix == "--position-embedding-type rope"


@pytest.mark.parametrize(
    ("kind", "word"), [("yarn", "YaRN original length"), ("llama3", "RoPE original length")]
)
def test_an_original_length_beside_the_object_counts_more(kind: str, word: str) -> None:
    scaling = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 16}
    beside = {"rope_scaling": scaling, "original_max_position_embeddings": 64}
    line = lines(hf({"rope_scaling": scaling}), hf(beside))[word]
    assert (line.status, line.a, line.b) == ("conflict", 16, 64)
    kinds = {"full_attention": scaling, "sliding_attention": {"rope_type": "default"}}
    nested = {"rope_parameters": kinds}  # then what stands beside is not read
    one, other = (
        hf(nested, "olmo2"),
        hf({**nested, "original_max_position_embeddings": 64}, "olmo2"),
    )
    assert all(found.status != "conflict" for found in lines(one, other).values())
