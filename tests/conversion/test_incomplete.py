"""A source that is not what its config promises is refused, or written and said to be short."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.config.compare import ConfigDiff
from ckptdiff.conversion.command import against_line, closing_lines
from ckptdiff.conversion.run import Lost, convert
from ckptdiff.conversion.verify import compare_with_like
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.results import TensorDiff
from tests.support.conversions import converted, different, hf_tensors, rank_tensors
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.pairs import edit_rank

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.conversion.plan import Conversion

QUERY, KEY, VALUE = (f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkv")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def made(folder: Path, *gone: str, **arguments: Any) -> Path:
    """Write a model without the tensors `gone`."""
    weights = make_hf(folder, single=True, **arguments)
    kept = {name: weight for name, weight in weights.items() if name not in gone}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def said(conversion: Conversion) -> list[str]:
    """Convert, and return the lines that report it."""
    events = list(convert(conversion, InlineExecutor()))
    lost = [event for event in events if isinstance(event, Lost)]
    compared = [event for event in events if isinstance(event, TensorDiff)]
    return list(closing_lines(conversion, lost, compared))


@pytest.mark.parametrize("to", ["hf", "megatron", "torch_dist"])
@pytest.mark.parametrize("gone", [EMBEDDING, HEAD, "model.norm.weight", KEY])
def test_it_is_refused_by_name_and_nothing_is_written(tmp_path: Path, to: Any, gone: str) -> None:
    source = made(tmp_path / "hf", gone)
    with pytest.raises(UnsupportedLayout, match=re.escape(gone)) as error:
        converted(source, tmp_path / "out", to)
    assert error.value.hint == "allow-incomplete"
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_written_and_the_config_keeps_its_promise(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    source = made(tmp_path / "hf", EMBEDDING)
    conversion, _ = converted(source, tmp_path / "out", "megatron", tp=2, allow_incomplete=True)
    assert any(EMBEDDING in note for note in conversion.notes)
    converted(tmp_path / "out", tmp_path / "back", "hf", like=source, allow_incomplete=True)
    back = hf_tensors(tmp_path / "back")
    assert back.keys() == weights.keys() - {EMBEDDING}
    assert all(torch.equal(back[name], weights[name]) for name in back)
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["num_hidden_layers"] == 2


def test_parts_that_go_into_one_tensor_are_left_out_together(tmp_path: Path) -> None:
    source = made(tmp_path / "hf", QUERY)
    conversion, _ = converted(source, tmp_path / "out", "megatron", allow_incomplete=True)
    assert set(conversion.left) == {KEY, VALUE}
    names = {key.rpartition(" ")[2] for key in rank_tensors(tmp_path / "out")}
    assert "decoder.layers.0.self_attention.linear_qkv.weight" in names
    assert "decoder.layers.1.self_attention.linear_qkv.weight" not in names


def test_args_that_count_more_layers_than_there_are(tmp_path: Path) -> None:
    source = made(tmp_path / "hf", layers=2)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    with pytest.raises(
        UnsupportedLayout, match="6 layers in the config, 2 in the files: layers 2-5"
    ):
        converted(source, tmp_path / "out", "hf")
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(UnsupportedLayout, match="1 layer in the config, 2 in the files: layer 1"):
        converted(source, tmp_path / "out", "megatron", pp=1)


def test_a_config_that_is_lent_counts(tmp_path: Path) -> None:
    source = made(tmp_path / "hf", layers=2)
    converted(source, tmp_path / "mid", "megatron")
    lender = made(tmp_path / "like", layers=3)
    with pytest.raises(UnsupportedLayout, match="3 layers in the config, 2 in the files"):
        converted(tmp_path / "mid", tmp_path / "out", "hf", like=lender)


@pytest.mark.parametrize("to", ["megatron", "torch_dist"])
def test_a_shape_that_the_config_contradicts_is_refused(tmp_path: Path, to: Any) -> None:
    source = made(tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    half = weights[HEAD][:30].clone()
    save_file({**weights, HEAD: half}, source / "model.safetensors")
    with pytest.raises(UnsupportedLayout, match=r"lm_head\.weight is 30x32, by the config 61x32"):
        converted(source, tmp_path / "out", to)
    packed = weights["model.layers.0.mlp.down_proj.weight"][:, ::8].to(torch.int32)
    save_file(
        {**weights, "model.layers.0.mlp.down_proj.weight": packed.contiguous()},
        source / "model.safetensors",
    )
    with pytest.raises(UnsupportedLayout, match="packed weights cannot be cut"):
        converted(source, tmp_path / "out", to)


# ── what is said at the end ──────────────────────────────────────────────────────────────────


def plan(source: Path, out: Path, **options: Any) -> Conversion:
    """Return a plan that is not carried out yet."""
    from ckptdiff.assembly.assemble import assemble
    from ckptdiff.conversion.plan import Target, plan_conversion

    like = options.pop("like", None)
    lender = assemble(open_checkpoint(like)) if like is not None else None
    side = assemble(open_checkpoint(source), like=lender)
    return plan_conversion(side, out, Target("hf", **options), lender)


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, "verified: 21 of 21 tensors are the same, every byte compared"),
        ({"dtype": "fp32"}, "verified: all 21 tensors, every byte compared: 21 as cast to fp32"),
    ],
)
def test_what_was_verified_is_said(tmp_path: Path, options: dict[str, Any], last: str) -> None:
    assert said(plan(made(tmp_path / "hf"), tmp_path / "out", **options))[-1] == last


def test_what_is_short_is_said_beside_what_was_verified(tmp_path: Path) -> None:
    source = made(tmp_path / "hf", HEAD)
    short, verified = said(plan(source, tmp_path / "out", allow_incomplete=True))
    assert short.startswith("short  what was written is not what its config promises: ")
    assert HEAD in short
    assert verified == (
        "incomplete, as the source is: 20 of 20 tensors are the same, every byte compared"
    )


def test_the_result_is_held_against_the_folder_that_it_is_to_be_like(tmp_path: Path) -> None:
    source, like = made(tmp_path / "hf"), made(tmp_path / "like", seed=1)
    for lender, words in ((source, "same"), (like, "differ: 21 of 21 tensors are not the same")):
        conversion = plan(source, tmp_path / f"out-{lender.name}", like=lender)
        said(conversion)
        summary = compare_with_like(conversion, InlineExecutor())
        line = against_line(summary, conversion.like)
        assert line.startswith(f"against {lender}: {words}")


def test_a_config_that_is_lent_does_not_hide_what_the_own_one_promises(tmp_path: Path) -> None:
    like = made(tmp_path / "like")
    source = made(tmp_path / "hf")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    conversion = plan(source, tmp_path / "out", like=like)
    (note,) = [one for one in conversion.notes if "6 layers in the config, 2 in the files" in one]
    assert str(like) in note
    assert said(conversion)[-1].startswith("verified: 21 of 21 tensors")


def test_what_is_packed_in_the_folder_to_be_like_is_not_called_different() -> None:
    summary: Any = SimpleNamespace(weights="packed", conflicts=[], counts=Counter(same=5, packed=3))
    assert against_line(summary, None).endswith(
        ": 5 of 8 tensors are the same, 3 are packed there and not compared"
    )
    summary = SimpleNamespace(
        weights="differ", conflicts=[], counts=Counter(same=4, differ=1, packed=3)
    )
    assert against_line(summary, None).endswith(
        ": differ: 1 of 8 tensors are not the same there, 3 more packed and not compared"
    )


def test_a_conflict_of_the_configs_is_said_beside_equal_weights() -> None:
    theta = ConfigDiff("RoPE base", "conflict", "rope_theta", 500000, "rotary_base", 10000)
    summary: Any = SimpleNamespace(weights="same", conflicts=[theta], counts=Counter(same=5))
    assert against_line(summary, None) == "against : same; the configs conflict: RoPE base"


@pytest.mark.parametrize("classes", [["X"], ["XForCausalLM", "Y"], []])
@pytest.mark.parametrize("to", ["hf", "megatron"])
def test_a_class_of_another_name_is_promised_its_head(
    tmp_path: Path, to: Any, classes: list[str]
) -> None:
    source = made(tmp_path / "hf", HEAD)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": classes}))
    with pytest.raises(UnsupportedLayout, match=r"lm_head\.weight"):
        converted(source, tmp_path / "out", to)


def test_a_body_without_a_head_needs_leave_to_become_megatrons(tmp_path: Path) -> None:
    source = made(tmp_path / "hf", HEAD)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    converted(source, tmp_path / "copy", "hf")
    with pytest.raises(UnsupportedLayout, match="has no head over the vocabulary") as error:
        converted(source, tmp_path / "out", "megatron")
    assert error.value.hint == "allow-incomplete"
    converted(source, tmp_path / "out", "megatron", allow_incomplete=True)


def test_a_model_that_args_cannot_say_is_told_in_a_sentence(tmp_path: Path) -> None:
    """GPT-NeoX without attention biases: Megatron has one switch for all of its biases."""
    width, inner, words = 16, 32, 24
    norm: dict[str, tuple[int, ...]] = {"weight": (width,), "bias": (width,)}
    layer: dict[str, dict[str, tuple[int, ...]]] = {
        "input_layernorm": norm,
        "post_attention_layernorm": norm,
        "attention.query_key_value": {"weight": (3 * width, width)},
        "attention.dense": {"weight": (width, width)},
        "mlp.dense_h_to_4h": {"weight": (inner, width), "bias": (inner,)},
        "mlp.dense_4h_to_h": {"weight": (width, inner), "bias": (width,)},
    }
    modules: dict[str, dict[str, tuple[int, ...]]] = {
        "gpt_neox.embed_in": {"weight": (words, width)},
        **{f"gpt_neox.layers.0.{name}": shapes for name, shapes in layer.items()},
        "gpt_neox.final_layer_norm": norm,
        "embed_out": {"weight": (words, width)},
    }
    config = {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 4,
        "vocab_size": words, "max_position_embeddings": 32, "tie_word_embeddings": False,
        "attention_bias": False,
    }  # fmt: skip
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    named = ((f"{m}.{n}", shape) for m, shapes in modules.items() for n, shape in shapes.items())
    weights = {name: torch.rand(shape) for name, shape in named}
    save_file(weights, tmp_path / "hf/model.safetensors")
    found, _ = converted(tmp_path / "hf", tmp_path / "out", "megatron")
    assert any(one.startswith("Linear biases is true") for one in found.cannot)
    converted(tmp_path / "out", tmp_path / "back", "hf", like=tmp_path / "hf")
    assert different(hf_tensors(tmp_path / "hf"), hf_tensors(tmp_path / "back")) == []


def test_copies_that_differ_are_not_all_kept_and_the_last_line_says_so(tmp_path: Path) -> None:
    weights = make_hf(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    make_megatron(tmp_path / "mid", weights, config, tp=2)
    (file,) = (tmp_path / "mid").glob("**/mp_rank_01/model_optim_rng.pt")
    edit_rank(file, lambda state: state["model"]["decoder.final_layernorm.weight"].add_(1))
    last = said(plan(tmp_path / "mid", tmp_path / "out"))[-1]
    assert last.startswith("verified but for copies that differ: all 21 tensors, ")
