"""The demo's files are real checkpoints, and each planted fault is what a converter gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.demo import FAULTS, make_demo
from ckptdiff.errors import BadArgument, UnreadableFile
from tests.support.oracle import make_megatron
from tests.support.pairs import compare, config_of, load_rank, rank_file
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.mostly_slow(one_in=4)
DIVIDED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.2."
# What each fault makes different. `rope-base` is in the arguments alone.
TOUCHED = {
    "kv-swap": {f"{LAYER}self_attn.{x}_proj.weight" for x in "kv"},
    "gate-up": {f"{LAYER}mlp.{x}_proj.weight" for x in ("gate", "up")},
    "rope": {f"model.layers.{n}.self_attn.{x}_proj.weight" for n in range(4) for x in "qk"},
    "tp-swap": {
        *(f"model.layers.{n}.{m}.{x}.weight" for n in range(4) for x in DIVIDED
          for m in ("mlp" if x in ("gate_proj", "up_proj", "down_proj") else "self_attn",)),
        EMBEDDING, HEAD,
    },
    "rope-base": set(),
    "none": set(),
}  # fmt: skip


def hf_weights(folder: Path) -> dict[str, Tensor]:
    """Read the Hugging Face side by the safetensors library."""
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def test_every_fault_is_known_here() -> None:
    assert set(FAULTS) == {*TOUCHED, "stale"}


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("fault", sorted(TOUCHED))
def test_a_fault_touches_what_it_should_and_nothing_else(tmp_path: Path, fault: str) -> None:
    comparison = compare(*make_demo(tmp_path, fault=fault))
    assert comparison.statuses == dict.fromkeys(TOUCHED[fault], "differ")
    assert len(comparison.results) == 39
    assert not comparison.b.unmapped


def test_stale_shards_are_slightly_off_on_one_rank(tmp_path: Path) -> None:
    hf, megatron = make_demo(tmp_path, fault="stale")
    comparison = compare(hf, megatron)
    assert comparison.summary.counts["differ"] == 39
    for name in comparison.statuses:
        assert comparison.numbers(name).cosine > 0.999
    norm = comparison["model.layers.0.input_layernorm.weight"]
    assert "replica drift in B: mp_rank_01" in str(norm.note)


def test_the_clean_pair_is_what_the_oracle_writes(tmp_path: Path) -> None:
    hf, megatron = make_demo(tmp_path / "demo", fault="none")
    weights, config = hf_weights(hf), config_of(hf)
    wanted = make_megatron(tmp_path / "oracle", weights, config, tp=2, divisible_by=64)
    for rank in ("00", "01"):
        ours, theirs = (load_rank(rank_file(folder, rank)) for folder in (megatron, wanted))
        assert set(ours["model"]) == set(theirs["model"])
        for name, tensor in theirs["model"].items():
            assert ours["model"][name].dtype == torch.bfloat16
            assert torch.equal(ours["model"][name], tensor), name
        args, right = vars(ours["args"]), vars(theirs["args"])
        assert {k: v for k, v in args.items() if k in right and right[k] != v} == {}


@pytest.mark.parametrize(
    ("fault", "one", "other"),
    [("kv-swap", "self_attn.k", "self_attn.v"), ("gate-up", "mlp.gate", "mlp.up")],
)
def test_exchanged_projections_are_those_of_a_converter_that_mixes_them_up(
    tmp_path: Path, fault: str, one: str, other: str
) -> None:
    hf, megatron = make_demo(tmp_path / "demo", fault=fault)
    weights = hf_weights(hf)
    x, y = (f"{LAYER}{name}_proj.weight" for name in (one, other))
    weights[x], weights[y] = weights[y], weights[x]
    wrong = make_megatron(tmp_path / "wrong", weights, config_of(hf), tp=2, divisible_by=64)
    assert compare(wrong, megatron).summary.weights == "same"


def test_exchanged_ranks_are_the_clean_ones_exchanged(tmp_path: Path) -> None:
    _, clean = make_demo(tmp_path / "clean", fault="none")
    _, swapped = make_demo(tmp_path / "swapped", fault="tp-swap")
    for one, other in (("00", "01"), ("01", "00")):
        a, b = load_rank(rank_file(clean, one)), load_rank(rank_file(swapped, other))
        assert all(torch.equal(b["model"][name], t) for name, t in a["model"].items())


def test_the_rope_fault_interleaves_the_halves_of_each_head(tmp_path: Path) -> None:
    """Meta's order of rotary channels: 0, 4, 1, 5, … of eight."""
    hf, megatron = make_demo(tmp_path / "demo", fault="rope")
    weights = hf_weights(hf)
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:
            heads = weight.view(-1, 2, 4, 64)  # heads, halves, channels, hidden
            weights[name] = heads.transpose(1, 2).reshape(weight.shape).contiguous()
    wrong = make_megatron(tmp_path / "wrong", weights, config_of(hf), tp=2, divisible_by=64)
    assert compare(wrong, megatron).summary.weights == "same"


def test_the_rope_base_fault_is_in_the_arguments_alone(tmp_path: Path) -> None:
    hf, megatron = make_demo(tmp_path, fault="rope-base")
    args = load_rank(rank_file(megatron, "00"))["args"]
    assert args.rotary_base != config_of(hf)["rope_theta"]


def test_the_weights_are_the_same_at_every_run(tmp_path: Path) -> None:
    one, other = (make_demo(tmp_path / name, fault="stale") for name in "ab")
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.*"))
    assert len(files) >= 5
    for file in files:
        if (tmp_path / "a" / file).is_file():
            a, b = ((tmp_path / side / file).read_bytes() for side in "ab")
            assert a == b, file
    assert one[0].name == other[0].name


def test_an_older_demo_is_replaced(tmp_path: Path) -> None:
    make_demo(tmp_path, fault="tp-swap")
    assert compare(*make_demo(tmp_path, fault="none")).summary.weights == "same"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadArgument, match="is not empty and not a demo"):
        make_demo(tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_of_the_demos_names_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    """Anybody may keep a model in a folder called hf."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/model.safetensors").write_bytes(b"somebody's weights")
    with pytest.raises(BadArgument):
        make_demo(tmp_path)
    assert (tmp_path / "hf/model.safetensors").read_bytes() == b"somebody's weights"


def test_a_file_in_the_place_of_the_folder_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises((BadArgument, UnreadableFile), match="file"):
        make_demo(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_fault_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="knows kv-swap, tp-swap"):
        make_demo(tmp_path / "demo", fault="gremlins")
    assert not (tmp_path / "demo").exists()


# Through the program


@pytest.mark.slow
def test_the_program_writes_the_pair_and_says_how_to_go_on(tmp_path: Path) -> None:
    done = ckptdiff("demo", "--no-tui", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    hf, megatron = "ckptdiff-demo/hf", "ckptdiff-demo/megatron-tp2"
    assert done.stdout.splitlines() == [f"A  {hf}", f"B  {megatron}", f"ckptdiff {hf} {megatron}"]
    found = ckptdiff("diff", hf, megatron, "--json", "-", cwd=tmp_path)
    assert (found.returncode, document(found)["counts"]["differ"]) == (1, 2)


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_can_be_asked_for(tmp_path: Path, fault: str) -> None:
    done = ckptdiff("demo", tmp_path / "demo", "--fault", fault, "--no-tui")
    assert (done.returncode, done.stderr) == (0, "")
    comparison = compare(tmp_path / "demo/hf", tmp_path / "demo/megatron-tp2")
    assert comparison.summary.weights == ("same" if fault in ("none", "rope-base") else "differ")
    assert fault == "stale" or set(comparison.statuses) == TOUCHED[fault]


def test_an_unknown_fault_is_trouble(tmp_path: Path) -> None:
    done = ckptdiff("demo", tmp_path / "demo", "--fault", "gremlins", "--no-tui")
    assert (done.returncode, done.stdout) == (2, "")
    assert "fault 'gremlins'" in done.stderr
