"""A Megatron checkpoint comes back without a folder to be like: the same model, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff import guide
from ckptdiff.arch import ARCHITECTURES
from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.carried import NAME as CARRIED
from ckptdiff.conversion.plan import Target, plan_conversion
from ckptdiff.errors import BadArgument, UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted, different, hf_tensors
from tests.support.families import MODELS
from tests.support.odd_configs import ODD
from tests.support.oracle_hf import make_hf
from tests.support.pairs import config_of
from tests.support.program import ckptdiff
from tests.support.ways_back import (
    AS_ARGS,
    BARE,
    NOT_TO_MEGATRON,
    OWN,
    REFUSED,
    RIGHT,
    SAME_SUMS,
    WRONG,
    all_models,
    ways_back,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.conversion.plan import Conversion

    Ask = Callable[..., dict[str, Any]]

# Families that compute what no arg says: their own config.json is not made from Megatron's args.
ASK_FOR_MORE = {"gemma", "gemma2", "gemma3_text"}
SAMPLE = (
    *("mistral: window", "phi3", "qwen2_moe: unsummed", "gemma", "olmo3: window"),
    *("gpt_oss", "gpt_oss: default-rope", "nemotron: biased", "llama: mlp-biased"),
)
FIRST = {f"{model}: {next(iter(odd))}" for model, odd in ODD.items()}


def check(tmp_path: Path, ask: Ask, names: set[str] | None) -> None:
    models = [one for one in all_models() if names is None or one[0] in names]
    ways = ways_back(tmp_path, models, ask)
    found = {(way.model, way.args): way for way in ways}
    assert [way for way in ways if way.outcome == WRONG] == []
    for name, model_type, differing in models:
        own, bare = found[name, OWN], found[name, BARE]
        if not differing:
            assert own.outcome == RIGHT
            wanted = {REFUSED} if model_type in ASK_FOR_MORE else {RIGHT, SAME_SUMS}
            if model_type == "gpt_neox":
                wanted = {AS_ARGS}  # its parallel residual is said to be lost on the way there
            assert bare.outcome in wanted, bare
        # What args cannot say is in the config.json that our own carry.
        assert own.outcome in (RIGHT, REFUSED) or own.outcome == bare.outcome, own
        assert not (own.outcome == REFUSED and bare.outcome != REFUSED), own


@pytest.mark.oracle
@pytest.mark.sampled(one_in=2)
@pytest.mark.parametrize("names", [{*SAMPLE, *FIRST, *MODELS}, None], ids=["sample", "all"])
def test_every_family_and_its_odd_configs_come_back_right_or_are_refused(
    tmp_path: Path, ask_oracle: Ask, names: set[str] | None
) -> None:
    assert all(len(ODD[name]) >= 5 for name in MODELS if name not in NOT_TO_MEGATRON)
    check(tmp_path, ask_oracle, names)


def planned(folder: Path, out: Path, **options: Any) -> Conversion:
    """Return the plan for the way back, with args as Megatron saves them."""
    opened = open_checkpoint(folder)
    args = {name: value for name, value in (opened.config or {}).items() if name != CARRIED}
    side = assemble(replace(opened, config={**args, **options.pop("args", {})}))
    return plan_conversion(side, out, Target("hf", **options))


def written(plan: Conversion) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dict(plan.texts)["config.json"])
    return found


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mid", "megatron", tp=2)
    return tmp_path / "mid"


@pytest.mark.parametrize(
    ("args", "family"),
    [
        ({}, "llama"),
        ({"window_size": [15, 0]}, "mistral"),
        ({"rotary_percent": 0.5}, "phi3"),
        ({"window_size": [15, 0], "rotary_percent": 0.5}, "phi3"),
        ({"rotary_interleaved": True}, "ernie4_5"),
    ],
)
def test_the_first_family_that_can_say_it_is_taken(
    llama: Path, tmp_path: Path, args: dict[str, Any], family: str
) -> None:
    plan = planned(llama, tmp_path / "out", args=args)
    config = written(plan)
    assert config["model_type"] == family
    assert config.get("sliding_window") == (16 if "window_size" in args else None)
    names = set(plan.source.tensors)
    assert ("model.layers.0.self_attn.qkv_proj.weight" in names) == (family == "phi3")
    assert plan.cannot == ()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"apply_layernorm_1p": True}, "Zero-centred norms is true"),
        ({"swiglu": False, "squared_relu": True}, "Activation is "),
        ({"no_rope_freq": [0, 1, 0, 1]}, "Layers without RoPE is "),
        ({"qk_l2_norm": True}, "qk_l2_norm is true (queries and keys are normalised"),
        ({"softmax_type": "off-by-one"}, "softmax_type is off-by-one"),
        ({"rotary_interleaved": True, "window_size": [15, 0]}, "Rotary pairs is "),
        ({"normalization": "LayerNorm"}, "Norm is LayerNorm"),
    ],
)
def test_what_no_config_json_says_is_refused(
    llama: Path, tmp_path: Path, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedLayout, match="no family's config") as caught:
        planned(llama, tmp_path / "out", args=args)
    assert words in str(caught.value)
    assert caught.value.hint == "lend"
    with pytest.raises(UnsupportedLayout, match=r"of llama does not say") as caught:
        planned(llama, tmp_path / "out", args=args, family="llama")
    assert words in str(caught.value)
    assert caught.value.hint == "accept"
    plan = planned(llama, tmp_path / "out", args=args, family="llama", accept=True)
    assert any(words in clause for clause in plan.cannot)


def test_a_family_is_chosen_by_name(llama: Path, tmp_path: Path) -> None:
    plan = planned(llama, tmp_path / "out", family="phi3")
    assert written(plan)["model_type"] == "phi3"
    assert "model.layers.1.mlp.gate_up_proj.weight" in plan.source.tensors
    with pytest.raises(BadArgument, match=r"families that fit: llama, mistral, .*gemma, .*phi3"):
        planned(llama, tmp_path / "out", family="gpt2")
    with pytest.raises(BadArgument, match="no such family"):
        planned(llama, tmp_path / "out", family="lama")
    with pytest.raises(BadArgument, match="a family is chosen for"):
        converted(tmp_path / "hf", tmp_path / "out", "hf", family="llama")
    with pytest.raises(BadArgument, match="a family is chosen for"):
        converted(llama, tmp_path / "out", "hf", like=tmp_path / "hf", family="llama")


def test_the_command_line_refuses_and_says_what_helps(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mid", "megatron")
    words = "convert", tmp_path / "mid", tmp_path / "out", "--to", "hf", "--family", "gemma"
    done = ckptdiff(*words)
    assert done.returncode == 2
    assert "--accept writes it all the same" in done.stderr
    assert not (tmp_path / "out").exists()
    again = ckptdiff(*words, "--accept")
    assert again.returncode == 0, again.stderr
    assert "config.json cannot say this model: Gemma multiplies embeddings" in again.stdout
    assert config_of(tmp_path / "out")["model_type"] == "gemma"


def test_a_carried_config_is_believed_while_it_makes_the_args(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    file = tmp_path / "hf/config.json"
    odd = {**json.loads(file.read_text()), "own_entry": [1, 2], "_name_or_path": "/somewhere"}
    file.write_text(json.dumps(odd))
    converted(tmp_path / "hf", tmp_path / "mid", "megatron", tp=2)
    opened = open_checkpoint(tmp_path / "mid")
    assert opened.config is not None
    plan = plan_conversion(assemble(opened), tmp_path / "out", Target("hf"))
    assert written(plan)["own_entry"] == [1, 2]
    assert "_name_or_path" not in written(plan)
    for changed in ({"rotary_base": 77}, {"norm_epsilon": 0.5}, {CARRIED: "[" * 90_000},
                    {CARRIED: '{"model_type": "llama"}'}, {CARRIED: 7},
                    {"vocab_size": 60, "padded_vocab_size": 256}):  # fmt: skip
        side = assemble(replace(opened, config={**opened.config, **changed}))
        config = written(plan_conversion(side, tmp_path / "out", Target("hf")))
        assert "own_entry" not in config
        assert config["rope_theta"] == changed.get("rotary_base", odd["rope_theta"])


def test_nothing_hostile_that_is_carried_comes_back(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mid", "megatron")
    opened = open_checkpoint(tmp_path / "mid")
    assert opened.config is not None
    own = json.loads(opened.config[CARRIED])
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    for entry, is_believed in (
        ({"auto_map": {"AutoConfig": "evil--code.Config"}, "_name_or_path": "/etc"}, True),
        ({"own_entry": deep}, False),
        ({"own_entry": "x" * 200_000}, False),
        ({"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}, False),
        ({"vocab_size": 10**6}, False),
    ):
        text = json.dumps({**own, "own_mark": 1, **entry})
        side = assemble(replace(opened, config={**opened.config, CARRIED: text}))
        config = written(plan_conversion(side, tmp_path / "out", Target("hf")))
        assert ("own_mark" in config) == is_believed, entry.keys()
        assert config.keys().isdisjoint({"auto_map", "_name_or_path", "own_entry"})
        assert (config["model_type"], config["vocab_size"]) == ("llama", own["vocab_size"])


def test_megatron_bridge_finds_what_it_reads(tmp_path: Path) -> None:
    """It opens the folder of an iteration, and builds the tokenizer that args name."""
    make_hf(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "mid", "torch_dist", version="bridge")
    folder = tmp_path / "mid/iter_0000001"
    target = Target("torch_dist", version="bridge")
    side = assemble(open_checkpoint(tmp_path / "hf"))
    plan = plan_conversion(side, tmp_path / "mid", replace(target, overwrite=True))
    assert plan.launch is not None
    assert f"load_megatron_model({str(folder)!r}, model_type='gpt')" in plan.launch
    args = open_checkpoint(folder).config
    assert args is not None
    rows = config_of(tmp_path / "hf")["vocab_size"]
    assert (args["tokenizer_type"], args["vocab_size"]) == ("NullTokenizer", rows)
    assert args["init_model_with_meta_device"] is False
    back = planned(folder, tmp_path / "out")
    assert written(back)["vocab_size"] == rows


def test_it_comes_back_from_torch_dist_and_from_another_cut(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", "mistral")
    config = config_of(tmp_path / "hf")
    converted(tmp_path / "hf", tmp_path / "dist", "torch_dist")
    converted(tmp_path / "dist", tmp_path / "cut", "megatron", tp=2, pp=2)
    for source in ("dist", "cut"):
        converted(tmp_path / source, tmp_path / f"{source}-back", "hf")
        assert different(hf_tensors(tmp_path / f"{source}-back"), weights) == []
        assert config_of(tmp_path / f"{source}-back")["model_type"] == config["model_type"]


def test_the_guide_names_the_families_in_their_order() -> None:
    text = " ".join((Path(guide.__file__).parent / "formats.md").read_text().split())
    order = [
        one.name
        for one in ARCHITECTURES
        if all(p.is_shown for p in one.peculiarities) and one.name != "qwen3_vl_moe"
    ]
    assert f"in this order: {', '.join(order)}." in text
