"""Folders of torch.distributed.checkpoint that other programs than Megatron write."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.arch import ARCHITECTURES
from ckptdiff.arch.templates import fill_name
from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import CorruptFile, NotACheckpoint
from ckptdiff.formats import open_checkpoint, read_entries
from tests.formats.test_torch_dist import write_dcp
from tests.support.conversions import converted, different, hf_tensors
from tests.support.pairs import compare
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.arch.base import Architecture
    from tests.support.oracle_client import Oracle

# Who saves, on how many ranks, how many of them hold the same, and what else is in the folder.
SAVES = [
    ("plain", 2, 1, ""),
    ("plain", 4, 1, ""),
    ("plain", 4, 2, ""),
    ("app", 2, 1, "app.optim, epoch"),
    ("titan", 2, 1, "optimizer, train_state, lr_scheduler, dataloader"),
    ("accelerate", 2, 1, ""),
    ("fsdp1", 4, 1, ""),
]
# Sizes that four ranks cannot share equally: the last holds fewer rows, or none.
MODEL: dict[str, Any] = {
    "family": "qwen3", "hidden": 24, "heads": 3, "groups": 1, "ffn": 54, "vocab": 61, "tied": False,
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize(("how", "world", "replicas", "beside"), SAVES)
def test_what_fsdp_saved_equals_its_source_and_is_converted_bit_for_bit(
    how: str,
    world: int,
    replicas: int,
    beside: str,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    oracle: Oracle,
    tmp_path: Path,
) -> None:
    source = tiny_hf(**MODEL)
    out = tmp_path / "checkpoint-7"
    oracle.compare(
        "oracle_dcp", ranks=world, world=world, how=how, hf=str(source), out=str(out),
        replicas=replicas,
    )  # fmt: skip
    shutil.copy(source / "config.json", out)
    side = assemble(open_checkpoint(out))
    assert (side.checkpoint.format, side.checkpoint.convention) == ("dcp", "hf")
    assert (side.family, side.checkpoint.iteration, side.wrapping) == ("qwen3", 7, None)
    assert len(side.checkpoint.files) == world
    assert sorted(note for note in side.checkpoint.notes if note.startswith("also in")) == (
        [f"also in checkpoint-7, not compared: {beside}"] if beside else []
    )
    comparison = compare(source, out)
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")
    assert len(comparison.results) == len(side.tensors)
    converted(out, tmp_path / "hf", "hf")
    assert different(hf_tensors(tmp_path / "hf"), tiny_weights(**MODEL)) == []
    converted(out, tmp_path / "megatron", "megatron", names="te")
    back = compare(source, tmp_path / "megatron")
    assert (back.statuses, back.summary.weights) == ({}, "same")


@pytest.mark.oracle
def test_the_folder_of_an_optimizer_says_where_the_weights_are(
    tiny_hf: Callable[..., Path], oracle: Oracle, tmp_path: Path
) -> None:
    oracle.compare(
        "oracle_dcp", ranks=2, world=2, how="accelerate", hf=str(tiny_hf()), out=str(tmp_path)
    )
    with pytest.raises(
        NotACheckpoint, match=r"no weights; the weights are in pytorch_model_fsdp_0"
    ):
        open_checkpoint(tmp_path / "optimizer_0")


@pytest.mark.parametrize("at", [".", "..", "../..", "huggingface", "../huggingface"])
def test_the_config_is_looked_for_in_the_folder_and_above(
    at: str, tiny_hf: Callable[..., Path], tiny_weights: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "checkpoint-3" / "pytorch_model_fsdp_0"
    write_dcp(folder, {"model": tiny_weights()})
    (folder / at).mkdir(exist_ok=True)
    shutil.copy(tiny_hf() / "config.json", folder / at)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.iteration, assemble(checkpoint).family) == (3, "llama")
    told = [note for note in checkpoint.notes if "config" in note]
    assert len(told) == (at != ".")
    assert all(str((folder / at).resolve()) in note for note in told)
    assert compare(tiny_hf(), folder).summary.verdict == "same"


def test_a_key_around_the_weights_is_no_part_of_their_names(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = tiny_weights(family="qwen3")  # the head is tied: every name begins with `model.`
    trees: list[dict[str, Any]] = [
        weights,
        {"model": weights},
        {"state_dict": weights, "epoch": torch.tensor(2)},
    ]
    for number, tree in enumerate(trees):
        folder = write_dcp(tmp_path / str(number), tree)
        (shard,) = open_checkpoint(folder).shards
        assert shard.tensors.keys() == weights.keys()


def test_a_module_of_the_model_is_no_optimizer_by_its_name(tmp_path: Path) -> None:
    weights = {"optimizer.proj.weight": torch.ones(2, 3), "dataloader.weight": torch.ones(2)}
    beside = {"step": torch.tensor(7), "state": {"optimizer.proj.weight": torch.zeros(2, 3)}}
    tree = {"model": weights, "optimizer": beside}
    checkpoint = open_checkpoint(write_dcp(tmp_path, tree))
    assert checkpoint.shards[0].tensors.keys() == weights.keys()
    assert any(note.endswith("not compared: optimizer") for note in checkpoint.notes)


def test_what_lies_beside_the_weights_is_listed_and_not_compared(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = tiny_weights()
    state = {name: {"exp_avg": torch.zeros(3)} for name in weights}
    tree = {"model": weights, "optimizer": {"state": state}, "ema": weights, "step": 7}
    checkpoint = open_checkpoint(write_dcp(tmp_path, tree))
    (note,) = (note for note in checkpoint.notes if note.startswith("also in"))
    assert note.endswith("not compared: ema, optimizer, step")
    entries = {entry.name: entry for entry in read_entries(checkpoint)}
    assert entries["step"].kind == "opaque"
    assert entries["optimizer.state.lm_head.weight.exp_avg"].text == "F32 3"
    assert entries["ema.lm_head.weight"].kind == "tensor"
    assert len(entries) == 2 * len(weights) + 1


@pytest.mark.parametrize(
    ("base", "verdict"), [(10000, "as a rotary base of 10000 makes it"), (500, "not what a rotary")]
)
def test_a_buffer_that_the_config_gives_is_checked_where_it_lies(
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., Any],
    tmp_path: Path,
    base: int,
    verdict: str,
) -> None:
    buffer = {"model.rotary_emb.inv_freq": base ** -(torch.arange(4) / 4)}
    folder = write_dcp(tmp_path, tiny_weights() | buffer)
    shutil.copy(tiny_hf() / "config.json", folder)
    found = compare(tiny_hf(), folder)
    assert found.summary.verdict == "same"
    (entry,) = found.b.derived
    assert verdict in entry.text


@pytest.mark.parametrize(
    "name", ["model.safetensors", "__7_0.distcp", "model_world_size_2_rank_0.pt"]
)
def test_weights_beside_that_are_not_read_are_named(
    plain_folder: Path, tiny_hf: Callable[..., Path], name: str
) -> None:
    (plain_folder / "__8_0.distcp").touch()  # of a rank that had nothing to save
    assert open_checkpoint(plain_folder).ignored == ()
    shutil.copy(tiny_hf(single=True) / "model.safetensors", plain_folder / name)
    checkpoint = open_checkpoint(plain_folder)
    assert (checkpoint.format, checkpoint.ignored) == ("dcp", (plain_folder / name,))
    assert f"also here, not read: {name}" in checkpoint.notes


def test_chunks_of_another_save_than_the_metadata_are_told(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    folder = write_dcp(tmp_path / "one", tiny_weights())
    (file,) = folder.glob("*.distcp")
    whole = file.read_bytes()
    other = write_dcp(tmp_path / "other", {"first": torch.zeros(5), **tiny_weights()})
    shutil.copy(other / file.name, file)
    said = "or is of another save than .metadata"
    with pytest.raises(CorruptFile, match=rf"at byte \d+ is (no|not the .*) chunk.*{said}"):
        open_checkpoint(folder)
    file.write_bytes(whole[:1000])
    with pytest.raises(CorruptFile, match=rf"has 1000 bytes, .*: the file was cut off.*{said}"):
        open_checkpoint(folder)


def test_a_plain_folder_is_no_checkpoint_of_megatron(plain_folder: Path) -> None:
    done = ckptdiff("ls", plain_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  dcp  llama  " in done.stdout
    assert "TP" not in done.stdout


@pytest.fixture
def plain_folder(
    tiny_hf: Callable[..., Path], tiny_weights: Callable[..., Any], tmp_path: Path
) -> Path:
    folder = write_dcp(tmp_path / "dcp", tiny_weights())
    shutil.copy(tiny_hf() / "config.json", folder)
    return folder


# ── torchtitan's Llama ───────────────────────────────────────────────────────────────────────────


def as_titan(weights: dict[str, Tensor], heads: int, groups: int, *, new: bool) -> dict[str, Any]:
    """Return weights as torchtitan has them, in which channels 2i and 2i + 1 rotate together."""
    names = {
        "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "model.layers.": "layers.",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        **({} if new else {"lm_head": "output"}),
        **{
            f"self_attn.{x}_proj": f"attention.{'qkv_linear.' if new else ''}w{x}" for x in "qkv"
        },
    }  # fmt: skip
    found = {}
    for name, weight in weights.items():
        for count, part in ((heads, "q_proj"), (groups, "k_proj")):
            if part in name:
                halves = weight.reshape(count, 2, -1, weight.shape[1])
                weight = halves.transpose(1, 2).reshape(weight.shape)
        for old, ours in names.items():
            name = name.replace(old, ours)
        found[name] = weight
    return found


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("config", ["there", "lent"])
def test_torchtitans_llama_is_read_in_the_order_of_hugging_face(
    new: bool,
    config: str,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "step-9"
    beside = {"train_state": {"step": torch.tensor(9)}, "optimizer": {"lr": 0.5}}
    write_dcp(folder, {**as_titan(tiny_weights(), 4, 2, new=new), **beside})
    if config == "there":
        shutil.copy(tiny_hf() / "config.json", folder)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.convention, checkpoint.iteration) == ("meta", 9)
    for pair in ((tiny_hf(), folder), (folder, tiny_hf())):
        comparison = compare(*pair)
        assert (comparison.statuses, comparison.summary.weights) == ({}, "same")
        assert len(comparison.results) == len(tiny_weights())
    like = None if config == "there" else tiny_hf()
    converted(folder, tmp_path / "hf", "hf", like=like)
    assert different(hf_tensors(tmp_path / "hf"), tiny_weights()) == []


def test_without_a_number_of_heads_only_queries_and_keys_of_torchtitan_are_not_read(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    side = assemble(open_checkpoint(write_dcp(tmp_path, as_titan(tiny_weights(), 4, 2, new=True))))
    assert {name.split(".")[-2] for name in side.errors} == {"q_proj", "k_proj"}
    assert {error.text for error in side.errors.values()} == {
        "nothing tells how many heads it has; put the model's config.json beside it"
    }
    assert len(side.tensors) + len(side.errors) == len(tiny_weights())


def test_other_models_of_torchtitan_keep_their_names(
    tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    weights = as_titan(tiny_weights(), 4, 2, new=True)
    weights["layers.0.attention.q_norm.weight"] = torch.ones(8)
    checkpoint = open_checkpoint(write_dcp(tmp_path, weights))
    assert checkpoint.convention == "hf"
    assert assemble(checkpoint).tensors.keys() == weights.keys()


@pytest.mark.parametrize("family", ARCHITECTURES, ids=lambda family: family.name)
def test_whose_names_they_are_is_told_for_every_family(
    family: Architecture, tmp_path: Path
) -> None:
    for convention, patterns in (
        ("hf", [pattern for mapping in family.mappings for pattern in mapping.hf]),
        ("megatron", [mapping.megatron for mapping in family.mappings]),
    ):
        names = {fill_name(pattern, (0,) * pattern.count("{")) for pattern in patterns}
        folder = tmp_path / convention
        write_dcp(folder, {name: torch.ones(1) for name in names})
        assert open_checkpoint(folder).convention == convention


def test_a_tensor_of_an_unknown_dtype_is_named_and_the_others_are_read(
    tiny_hf: Callable[..., Path], tiny_weights: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    angles = torch.ones(3, dtype=torch.complex128)
    folder = write_dcp(tmp_path, {"model": {**tiny_weights(), "freqs_cis": angles}, "step": 3})
    comparison = compare(tiny_hf(), folder)
    assert (comparison.statuses, len(comparison.results)) == ({}, len(tiny_weights()))
    notes = comparison.b.checkpoint.notes
    assert "not read, since their dtype is not known: 'model.freqs_cis' ('complex128')" in notes
    assert f"also in {folder.name}, not compared: step" in notes
