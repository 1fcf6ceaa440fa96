"""What a config promises and the files do not hold, in every family and format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.recipe import Shortfall
from ckptdiff.assembly.shortfall_words import shortfall_lines, way_out
from ckptdiff.checkpoint import Checkpoint, Parallelism, Rank, Shard, TensorRef, contiguous
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted
from tests.support.families import MODELS
from tests.support.oracle_hf import make_hf
from tests.support.pairs import edit_rank, rank_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from ckptdiff.assembly.recipe import Assembled

    Make = Callable[..., Path]

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
LAYER = (
    "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
    "self_attn.v_proj.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight",
    "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
)  # fmt: skip


def headers(config: dict[str, Any], shapes: dict[str, Any]) -> Checkpoint:
    """Return a Hugging Face folder of these shapes, as its headers would state it."""
    refs = {
        name: TensorRef(name, tuple(shape), "BF16", Path("hf"), 0, contiguous(tuple(shape)))
        for name, shape in shapes.items()
    }
    return Checkpoint(Path(), "hf", "hf", config, Parallelism(), (Shard(Rank(), 0, refs),), ())


def without(folder: Path, out: Path, gone: Callable[[str], bool]) -> Path:
    """Write a Hugging Face folder anew, without the tensors whose names are `gone`."""
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    out.mkdir()
    shutil.copy(folder / "config.json", out)
    kept = {name: tensor for name, tensor in tensors.items() if not gone(name)}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def opened(folder: Path) -> Assembled:
    return assemble(open_checkpoint(folder))


def layer_of(name: str) -> int:
    """Return the number of a name's layer; -1 for one of no layer."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] in ("layers", "h") else -1


def of_layers(*layers: int) -> set[str]:
    return {f"model.layers.{layer}.{name}" for layer in layers for name in LAYER}


# ── every family, by the shapes of transformers' own classes ─────────────────────────────────

# Of Nemotron-H a single layer has these here, and neither config nor another layer promises them.
OPTIONAL = ("e_score_correction_bias", "latent_proj", "shared_experts")


@pytest.mark.oracle
@pytest.mark.parametrize("model", MODELS)
def test_a_whole_model_of_every_family_lacks_nothing(model: str, described: Any) -> None:
    side = assemble(headers(described[model]["config"], described[model]["shapes"]))
    assert not side.shortfall, shortfall_lines(side)


@pytest.mark.oracle
@pytest.mark.parametrize("model", MODELS)
def test_each_parameter_of_every_family_is_missed(model: str, described: Any) -> None:
    config, shapes = described[model]["config"], described[model]["shapes"]
    whole = assemble(headers(config, shapes))
    for gone in shapes:
        if model == "nemotron_h" and any(word in gone for word in OPTIONAL):
            continue
        side = assemble(headers(config, {n: s for n, s in shapes.items() if n != gone}))
        assert set(side.shortfall.lacking) == set(whole.tensors) - set(side.tensors), gone
    last = max(map(layer_of, shapes))
    rest = {n: s for n, s in shapes.items() if layer_of(n) != last}
    side = assemble(headers(config, rest))
    assert side.shortfall.absent_layers == (last,)
    lacking = set(side.shortfall.lacking)
    assert lacking <= set(whole.tensors) - set(side.tensors)
    assert lacking == {n for n in whole.tensors if layer_of(n) == last} or model == "nemotron_h"


@pytest.mark.oracle
@pytest.mark.parametrize("model", MODELS)
def test_a_config_of_another_width_is_not_what_the_files_hold(model: str, described: Any) -> None:
    config, shapes = described[model]["config"], described[model]["shapes"]
    name = "n_embd" if model == "gpt2" else "hidden_size"
    side = assemble(headers({**config, name: 2 * config[name]}, shapes))
    assert side.shortfall.misfits


# ── one family, by hand ──────────────────────────────────────────────────────────────────────


def test_layers_that_are_not_there_are_counted_and_named(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", layers=6)
    gone = without(
        tmp_path / "hf", tmp_path / "two", lambda n: any(f".{i}." in n for i in (2, 3, 4, 5))
    )
    side = opened(gone)
    assert set(side.shortfall.lacking) == of_layers(2, 3, 4, 5)
    assert shortfall_lines(side) == [
        "incomplete: 6 layers in the config, 2 in the files: layers 2-5 are missing"
    ]


@pytest.mark.parametrize(
    "name",
    [EMBEDDING, HEAD, NORM, "model.layers.1.input_layernorm.weight",
     "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"],
)  # fmt: skip
def test_one_tensor_is_named(tmp_path: Path, tiny_hf: Make, name: str) -> None:
    side = opened(without(tiny_hf(), tmp_path / "b", lambda n: n == name))
    assert side.shortfall.lacking == (name,)
    (line,) = shortfall_lines(side)
    assert line == f"incomplete: 1 tensor of the config is not in the files: {name}"


def test_a_tied_model_needs_no_head_and_one_without_a_head_has_a_class_of_its_own(
    tmp_path: Path, tiny_hf: Make
) -> None:
    assert not opened(tiny_hf(tied=True)).shortfall
    folder = without(tiny_hf(), tmp_path / "b", lambda n: n == HEAD)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    assert not opened(folder).shortfall


def test_names_of_no_rule_may_be_what_is_missing(tmp_path: Path, tiny_hf: Make) -> None:
    folder = without(tiny_hf(), tmp_path / "b", lambda n: n == NORM)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "odd.norm.weight": torch.ones(32)}, folder / "model.safetensors")
    said = "; ".join(shortfall_lines(opened(folder)))
    assert "not in the files under the names of its rules: model.norm.weight" in said
    assert "no rule knows 1 name in the files, such as odd.norm.weight" in said


def test_a_layer_beyond_the_config_is_said(tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", layers=3)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    side = opened(tmp_path / "hf")
    assert set(side.shortfall.beyond) == of_layers(2)
    assert shortfall_lines(side) == [
        "2 layers in the config, 3 in the files: layer 2 is not counted"
    ]


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("intermediate_size", 40, "mlp.up_proj.weight are 48x32, by the config 40x32"),
        ("vocab_size", 64, f"{EMBEDDING}, {HEAD} are 61x32, by the config 64x32"),
    ],
)  # fmt: skip
def test_a_shape_that_the_config_contradicts_is_said(
    tmp_path: Path, tiny_hf: Make, entry: str, value: int, said: str
) -> None:
    folder = without(tiny_hf(vocab=61, ffn=48), tmp_path / "b", lambda _: False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, entry: value}))
    assert any(said in line for line in shortfall_lines(opened(folder)))


def test_fused_experts_that_are_transposed_are_held_against_the_whole_shape() -> None:
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64,
        "intermediate_size": 96, "moe_intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 32,
        "num_experts": 4,
    }  # fmt: skip
    moe = "model.layers.0.mlp.experts."
    down = f"{moe}0-3.down_proj.weight"
    shapes = {f"{moe}gate_up_proj": (4, 48, 64), f"{moe}down_proj": (4, 64, 24)}
    assert not assemble(headers(config, shapes)).shortfall.misfits
    turned = assemble(headers(config, {**shapes, f"{moe}down_proj": (4, 24, 64)}))
    assert f"{down} are 24x64, by the config 64x24" in shortfall_lines(turned)
    assert way_out(Shortfall(misfits=turned.shortfall.misfits)).startswith("Mend the config")
    # Experts of Nemotron 3 may work in a smaller width, which the config states.
    narrow = {f"{moe}gate_up_proj": (4, 48, 16), f"{moe}down_proj": (4, 16, 24)}
    latent = headers({**config, "moe_latent_size": 16}, narrow)
    assert not assemble(latent).shortfall.misfits


def test_a_config_that_promises_too_much_to_list_is_counted(tmp_path: Path, tiny_hf: Make) -> None:
    folder = without(tiny_hf(), tmp_path / "b", lambda _: False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    side = opened(folder)
    assert side.shortfall
    assert shortfall_lines(side) == ["incomplete: 1000000000 layers in the config, 2 in the files"]


# ── Megatron ─────────────────────────────────────────────────────────────────────────────────


def drop(folder: Path, ranks: Iterable[str], word: str) -> None:
    def edit(state: dict[str, Any]) -> None:
        for name in [name for name in state["model"] if word in name]:
            del state["model"][name]

    for rank in ranks:
        edit_rank(rank_file(folder, rank), edit)


def test_args_that_count_more_layers_than_the_stages_hold(
    tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron(tp=2, model={"layers": 4}))
    drop(folder, ("00", "01"), "layers.3.")
    side = opened(folder)
    assert set(side.shortfall.lacking) == of_layers(3)
    assert shortfall_lines(side) == [
        "incomplete: 4 layers in the config, 3 in the files: layer 3 is missing"
    ]


def test_the_last_layer_of_an_even_stage_keeps_the_numbers_of_the_next_right(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Make
) -> None:
    folder = copy_of(tiny_megatron(pp=2, model={"layers": 4}))
    drop(folder, ("00_000",), "layers.1.")
    side = opened(folder)
    assert set(side.shortfall.lacking) == of_layers(1)
    assert "model.layers.3.input_layernorm.weight" in side.tensors


def test_a_distributed_checkpoint_that_lacks_a_norm(tmp_path: Path, tiny_hf: Make) -> None:
    lacking = "model.layers.1.post_attention_layernorm.weight"
    source = without(tiny_hf(), tmp_path / "hf", lambda n: n == lacking)
    converted(source, tmp_path / "out", "torch_dist", allow_incomplete=True)
    assert opened(tmp_path / "out").shortfall.lacking == (lacking,)


@pytest.mark.oracle
def test_a_dense_layer_of_qwen3_next_is_no_gap(described: Any) -> None:
    config, shapes = described["qwen3_next"]["config"], described["qwen3_next"]["shapes"]
    front, hidden, ffn = "model.layers.1.mlp.", config["hidden_size"], config["intermediate_size"]
    dense = {n: s for n, s in shapes.items() if not n.startswith(front)}
    dense |= {f"{front}{x}_proj.weight": (ffn, hidden) for x in ("gate", "up")}
    dense[f"{front}down_proj.weight"] = (hidden, ffn)
    config = {**config, "mlp_only_layers": [1]}
    side = assemble(headers(config, dense))
    assert not side.shortfall, shortfall_lines(side)
    assert not side.unmapped
    del dense[f"{front}up_proj.weight"]
    assert assemble(headers(config, dense)).shortfall.lacking == (f"{front}up_proj.weight",)
