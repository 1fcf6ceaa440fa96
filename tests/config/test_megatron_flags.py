"""The flags that are printed: releases know them, parse their values, and do what they say."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.checkpoint import Parallelism
from ckptdiff.config.compare import config_side
from ckptdiff.config.fields import FIELDS
from ckptdiff.config.fixes import FlagFix
from ckptdiff.config.launch import launch_words, leftovers, world_size
from ckptdiff.config.megatron_args import megatron_args
from ckptdiff.config.megatron_flags import FLAGS, RELEASES, flag_of, releases_of, why_not
from ckptdiff.config.mending import settings_like
from ckptdiff.config.taken_over import NOT_TAKEN_OVER
from tests.config.test_compare import ARGS, DEEPSEEK, LLAMA, MIXTRAL
from tests.support.families import MODELS
from tests.support.restated import hf_side, megatron_side, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.config.programs import Version

# What the releases' own parsers said, written down apart from the table.
KNOWN: list[tuple[str, tuple[str, ...]]] = [
    ("--norm-epsilon 1e-06", ("0.14", "0.16", "0.19")),
    ("--softmax-scale 0.0625", ()),
    ("--window-size 4095,0", ("0.16", "0.19")),
    ("--window-size", ()),
    ("--rotary-seq-len-interpolation-factor 4", ("0.19",)),
    ("--rotary-seq-len-interpolation-factor 2.5", ()),
    ("--rope-scaling-factor 32", ()),
    ("--position-embedding-type yarn --rotary-scaling-factor 4.5", ("0.19",)),
    ("--position-embedding-type rope", ("0.14", "0.16", "0.19")),
    ("--rope-type yarn --mscale 0.707", ("0.14", "0.16", "0.19")),
    ("--original-max-position-embeddings 4096", ()),
    ("--quick-geglu --glu-linear-offset 1 --activation-func-clamp-value 7", ("0.16", "0.19")),
    ("--openai-gelu", ()),
    ("--rotary-base 10000.5", ()),
    ("--moe-layer-freq '[0,1,1]'", ("0.14", "0.16", "0.19")),
    ("--use-legacy-models", ("0.14", "0.16")),
    ("--moe-router-score-function sqrtsoftplus", ("0.19",)),
    ("leave out --window-size", ("0.16", "0.19")),
    ("leave out --softmax-scale", ()),
    ("leave out --swiglu, --squared-relu", ("0.14", "0.16", "0.19")),
]


@pytest.mark.parametrize(("text", "releases"), KNOWN)
def test_releases_of_a_flag_and_its_value(text: str, releases: tuple[str, ...]) -> None:
    *left_out, given = text.split(", ")
    if given.startswith("leave out "):
        left_out, given = [*left_out, given], ""
    words = [tuple(shlex.split(f"--{flag}")) for flag in given.split("--")[1:]]
    fix = FlagFix(tuple(words), tuple(flag.removeprefix("leave out ") for flag in left_out))
    assert fix.text == text
    assert releases_of(fix) == releases


def _args(config: dict[str, Any], version: Version, **given: Any) -> dict[str, Any]:
    restated = megatron_args(
        hf_side(config),
        Parallelism(),
        names=given.pop("names", "te"),
        dtype="BF16",
        ckpt_format="torch",
        padded_vocab_size=2**18,
        version=version,
        **given,
    )
    return vars(restated.settings)


@pytest.mark.parametrize("model_type", MODELS)
def test_no_field_prints_a_flag_that_no_release_knows(model_type: str) -> None:
    """Whatever a field says mends a conflict: each of its flags is in the table, with a value."""
    side_of = hf_side(tiny_config(model_type))
    side = config_side(side_of)
    assert side_of.architecture is not None
    megatron = config_side(
        megatron_side(_args(tiny_config(model_type), "0.16"), side_of.architecture)
    )
    printed = 0
    for field in FIELDS:
        reading = field.read(side) if field.has_effect(side) else None
        fix = None if reading is None else field.flag(reading.value, megatron)
        if fix is None:
            continue
        assert isinstance(fix, FlagFix)
        for flag in (*fix.left_out, *(words[0] for words in fix.given)):
            assert flag in FLAGS, (field.name, fix)
            printed += 1
    assert printed > 10


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("model_type", MODELS)
def test_a_command_has_only_flags_of_its_release(model_type: str, version: Version) -> None:
    args = _args(tiny_config(model_type), version)
    size = Parallelism(2, 2, 1, 1, 2)
    words = launch_words(
        {**args, "sequence_parallel": True},
        size,
        version,
        load=Path("/a b"),
        tokenizer=None,
        tokens=9,
    )
    line = shlex.split(shlex.join(words))
    assert line == words
    start = next(n for n, word in enumerate(words) if word.endswith(".py")) + 1
    groups: list[list[str]] = []
    for word in words[start:]:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    assert [why_not(group, version) for group in groups] == [None] * len(groups)
    names = [group[0] for group in groups]
    assert len(names) == len(set(names))


def test_the_whole_command() -> None:
    args = _args(LLAMA, "0.16", names="mcore", first_layers=1)
    size = Parallelism(tp=4, pp=2, etp=4)
    words = launch_words(args, size, "0.16", load=Path("out"), tokenizer=Path("/hf"), tokens=9)
    assert shlex.join(words) == (
        "CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun --nproc-per-node 8 pretrain_gpt.py --load out "
        "--use-checkpoint-args --finetune --no-load-optim --no-load-rng --ckpt-format torch "
        "--transformer-impl local --no-persist-layer-norm --no-rope-fusion "
        "--no-gradient-accumulation-fusion --tensor-model-parallel-size 4 "
        "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 1 "
        "--use-rope-scaling --bf16 --tokenizer-type HuggingFaceTokenizer --tokenizer-model /hf "
        "--micro-batch-size 1 --train-iters 1 --lr 1e-5 --eval-iters 0 --mock-data"
    )


def test_processes_hold_every_kind_of_rank() -> None:
    assert world_size(Parallelism(2, 1, 1, 3, 1)) == 6
    assert world_size(Parallelism(4, 2, 2, 2, 4)) == 16
    assert world_size(Parallelism(4, 1, 1, 2, 2)) == 4


def test_what_a_release_leaves_to_the_command_line() -> None:
    plain = {**ARGS, "use_rope_scaling": False}
    assert leftovers(plain, "0.16") == []
    given = {**plain, "norm_epsilon": 1e-6, "apply_layernorm_1p": True, "mtp_num_layers": 1}
    words = {r: [left.words for left in leftovers(given, r)] for r in RELEASES}
    epsilon, one_more = ("--norm-epsilon", "1e-06"), ("--apply-layernorm-1p",)
    predictions = ("--mtp-num-layers", "1")
    # 0.14 takes over the norms' offset, 0.19 the number of prediction layers.
    assert words == {
        "0.14": [epsilon, predictions],
        "0.16": [epsilon, one_more, predictions],
        "0.19": [epsilon, one_more],
    }
    # Args of 0.16 and later have other names.
    renamed = {**plain, "layernorm_epsilon": 1e-6, "layernorm_zero_centered_gamma": True}
    for name in ("norm_epsilon", "apply_layernorm_1p"):
        renamed.pop(name, None)
    assert [one.arg for one in leftovers(renamed, "0.16")] == ["norm_epsilon", "apply_layernorm_1p"]


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LLAMA32 = {**LLAMA["rope_scaling"], "factor": 32.0}
GROUPS = {"n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy"}
V2 = {**DEEPSEEK, "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"]}
OTHER_LENGTH = {**DEEPSEEK["rope_scaling"], "original_max_position_embeddings": 8192}
LIMITS: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ("as it is", LLAMA, "", ()),
    (
        "Llama 3.2", {**LLAMA, "rope_scaling": LLAMA32},
        "factor 32: it scales with factor 8", RELEASES,
    ),
    (
        "linear", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
        "factor is 4: it parses --rotary-seq-len-interpolation-factor and never uses it",
        ("0.14", "0.16"),
    ),
    (
        "linear, not whole", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.5}},
        "factor is 2.5: it takes only whole numbers", RELEASES,
    ),
    ("YaRN", {**LLAMA, "rope_scaling": YARN}, "rope_type is yarn with factor 4", ("0.14", "0.16")),
    (
        "window", {**MIXTRAL, "sliding_window": 4096},
        "sliding_window is 4096: it has no flag --window-size", ("0.14",),
    ),
    ("one expert", {**MIXTRAL, "num_experts_per_tok": 1}, "num_experts_per_tok is 1", RELEASES),
    (
        "other length", {**DEEPSEEK, "rope_scaling": OTHER_LENGTH},
        "it has no flag --original-max-position-embeddings, and takes 4096", RELEASES,
    ),
    (
        "ranked by the best",
        {**V2, **GROUPS, "num_experts_per_tok": 6, "scoring_func": "softmax"},
        "a group ranks by its best score", RELEASES,
    ),
]  # fmt: skip


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize(("name", "config", "words", "cannot"), LIMITS)
def test_what_a_release_cannot_compute_is_one_clause(
    name: str, config: dict[str, Any], words: str, cannot: tuple[str, ...], version: Version
) -> None:
    restated = megatron_args(
        hf_side(config),
        Parallelism(),
        names="te",
        dtype="BF16",
        ckpt_format="torch",
        padded_vocab_size=2**18,
        version=version,
    )
    assert len(restated.cannot) == (version in cannot), (name, restated.cannot)
    assert all(words in clause for clause in restated.cannot)


def test_yarn_of_heads_that_are_rotated_in_part_cannot_be_computed() -> None:
    restated = megatron_args(
        hf_side({**tiny_config("glm4_moe"), "rope_scaling": YARN}), Parallelism(), names="te",
        dtype="BF16", ckpt_format="torch", padded_vocab_size=2**18, version="0.19",
    )  # fmt: skip
    (clause,) = restated.cannot
    assert clause.startswith("partial_rotary_factor is 0.5: with YaRN it rotates whole heads")


def test_the_table_has_every_flag_that_is_left_to_the_command_line() -> None:
    unknown = {arg for arg in NOT_TAKEN_OVER if flag_of(arg) not in FLAGS}
    # These are in args for Megatron-Bridge, and a sentence says that there is no flag.
    length = "original_max_position_embeddings"
    assert unknown == {"softmax_scale", length, "beta_fast", "beta_slow"}


# Args that are no fields of their names, and the fields that they set.
OTHER_NAMES = {
    "apply_layernorm_1p": "layernorm_zero_centered_gamma",
    "norm_epsilon": "layernorm_epsilon",
    "disable_bias_linear": "add_bias_linear",
}
TYPES = {"int": ("int",), "float": ("float", "int"), "switch": ("bool",), "str": ("str", "Literal")}


@pytest.mark.oracle
def test_flags_made_of_fields_are_fields_of_megatron_core(
    ask_oracle: Callable[..., dict[str, Any]],
) -> None:
    fields = ask_oracle("oracle_flags")
    made = [flag for flag in FLAGS.values() if flag.of_field and "0.16" in flag.releases]
    assert len(made) > 40
    for flag in made:
        arg = flag.name[2:].replace("-", "_")
        annotation = fields[OTHER_NAMES.get(arg, arg)]
        assert any(word in annotation for word in TYPES[flag.kind]), (flag, annotation)


def test_layers_of_experts_are_mended_by_what_the_class_reads() -> None:
    base = tiny_config("glm4_moe_lite")
    kinds = ["sparse", *["dense"] * (base["num_hidden_layers"] - 1)]
    own = config_side(hf_side(base))
    like = config_side(hf_side({**base, "mlp_layer_types": kinds}))
    (field,) = (field for field in FIELDS if field.name == "Layers of experts")
    stated = field.read(like)
    assert stated is not None
    assert settings_like(field, like, own, stated) == {"mlp_layer_types": kinds}
