"""Tensors without a partner, or of another shape: what is said of them was looked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.diagnosis.numbers import experts_of, layers_of
from tests.support.pairs import compare_and_diagnose, noise, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ckptdiff.results import Finding

    Tensors = dict[str, Tensor]
    Make = Callable[..., Path]
    Weights = Callable[..., dict[str, Tensor]]


def findings(tmp_path: Path, a: Tensors, b: Tensors, model_type: str = "llama") -> list[Finding]:
    """Return what is found between two folders whose config says little more than a family."""
    for name, tensors in (("a", a), ("b", b)):
        folder = write_plain(tmp_path / name, {n: t.clone() for n, t in tensors.items()})
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return compare_and_diagnose(tmp_path / "a", tmp_path / "b")[1]


HEAD, UP, DOWN = "lm_head.weight", "model.layers.1.mlp.up_proj.weight", "x.down.weight"


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_ranks_rows_are_told_with_the_rank(
    tmp_path: Path, rank: int, dtype: torch.dtype
) -> None:
    whole = noise(32, 6)
    part = whole.chunk(4)[rank].to(dtype)
    (found,) = findings(tmp_path, {HEAD: whole}, {HEAD: part})
    rows = f"rows {8 * rank} to {8 * rank + 7}"
    assert found.kind == "PART"
    assert found.title == f"B's {HEAD} is {rows} of A's: the part of rank {rank} of 4"
    assert rows in found.evidence


def test_the_parts_of_a_mlp_are_one_finding(tmp_path: Path) -> None:
    a = {UP: noise(8, 6), "x.fused.weight": noise(8, 6, seed=1), DOWN: noise(6, 8, seed=2)}
    a["x.bias"] = noise(8, seed=3)
    gate, up = a["x.fused.weight"].chunk(2)
    b = {
        UP: a[UP][4:],
        "x.fused.weight": torch.cat([gate[2:], up[2:]]),  # rank 1's rows of each
        DOWN: a[DOWN][:, 4:],
        "x.bias": a["x.bias"][4:],
    }
    (found,) = findings(tmp_path, a, b)
    assert (found.kind, found.title) == (
        "PART",
        "4 tensors of B are the part of rank 1 of 2 of A's",
    )
    assert set(found.tensors) == set(a)
    assert found.layers == (1,)


def test_rows_that_no_rank_holds_are_no_part(tmp_path: Path) -> None:
    whole = noise(32, 6)
    (found,) = findings(tmp_path, {DOWN: whole}, {DOWN: whole[3:11]})
    assert found.kind == "SHAPE"
    assert "B's rows are rows 3 to 10 of A's, which has 32" in found.evidence


def test_a_vocabulary_of_another_size_is_called_so_where_its_rows_are_alike(
    tmp_path: Path,
) -> None:
    whole = noise(32, 6)
    (found,) = findings(tmp_path, {HEAD: whole}, {HEAD: whole[:21]})
    assert (found.kind, found.title) == ("VOCAB-TRUNC", "the vocabulary has 21 rows, A's has 32")
    assert found.evidence == "B's rows are rows 0 to 20 of A's, which has 32"
    (found,) = findings(tmp_path / "2", {HEAD: whole[:21]}, {HEAD: whole})
    assert found.kind == "VOCAB-PAD"
    assert found.evidence == "A's rows are rows 0 to 20 of B's, which has 32"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.zeros(0), "B's has no elements"),
        (torch.arange(32 * 2, dtype=torch.int32).reshape(32, 2), "F32 32x6 in A, I32 32x2 in B"),
        (noise(32, 6).T.contiguous(), "B's is the transpose of A's"),
        (noise(32, 7, seed=4), "each side has rows that the other lacks"),
    ],
)
def test_a_head_of_another_shape_is_no_other_vocabulary(
    tmp_path: Path, other: Tensor, words: str
) -> None:
    (found,) = findings(tmp_path, {HEAD: noise(32, 6)}, {HEAD: other})
    assert found.kind == "SHAPE"
    assert words in found.evidence


@pytest.mark.parametrize("model_type", ["llama", "nobody-knows"])
def test_a_tensor_under_another_name_is_not_missing(tmp_path: Path, model_type: str) -> None:
    a = {"model.norm.weight": noise(6), "x.gate": noise(4, 6, seed=1), "x.up": noise(4, 6, seed=2)}
    b = {
        "y.norm": a["model.norm.weight"],
        "y.both": torch.cat([a["x.gate"], a["x.up"]]).bfloat16(),
    }
    (found,) = findings(tmp_path, a, b, model_type)
    assert found.kind == "NAMES"
    assert set(found.tensors) == set(a)
    assert "`model.norm.weight` is B's `y.norm`" in found.evidence
    assert "`x.up` is rows 4 to 7 of B's `y.both`" in found.evidence


def test_a_vector_inside_another_one_is_found(tmp_path: Path) -> None:
    """A bias of queries, keys and values, group by group, is three biases of the reference."""
    q, k = noise(32, seed=1), noise(16, seed=2)
    fused = torch.cat([q[:16], k[:8], q[16:], k[8:]])
    (found,) = findings(tmp_path, {"q.bias": q, "k.bias": k}, {"fused.bias": fused})
    assert (found.kind, set(found.tensors)) == ("NAMES", {"q.bias", "k.bias"})
    assert "elements 16 to 23 of B's `fused.bias`" in found.evidence
    (found, _) = findings(tmp_path / "2", {"q.bias": q + 1}, {"fused.bias": fused})
    assert found.kind == "MISSING"


def test_parts_of_packed_weights_have_another_shape(tmp_path: Path) -> None:
    """Both sides are packed in one way, and the factors of one of them are half as wide."""
    a = {
        "model.layers.0.mlp.up_proj.weight": torch.zeros(8, 16, dtype=torch.uint8),
        "model.layers.0.mlp.up_proj.weight_scale": torch.ones(8, 2).to(torch.float8_e4m3fn),
        "model.layers.0.mlp.up_proj.weight_scale_2": torch.ones(()),
    }
    scale = "model.layers.0.mlp.up_proj.weight_scale"
    for one, other in ((a, {**a, scale: a[scale][:, :1]}), ({**a, scale: a[scale][:, :1]}, a)):
        (found,) = findings(tmp_path / str(one is a), one, other)
        assert (found.kind, found.tensors) == ("SHAPE", (scale,))
        assert "8x2" in found.evidence
        assert "8x1" in found.evidence


def test_missing_says_what_it_was_looked_for_in(tmp_path: Path) -> None:
    a = {HEAD: noise(8, 6), "model.norm.weight": noise(6), DOWN: noise(6, 4)}
    lost = {HEAD: a[HEAD]}
    (found,) = findings(tmp_path / "1", a, lost)
    assert (found.kind, found.evidence) == ("MISSING", "they are in nothing of B that is read")
    other = {**lost, "model.layers.7.x": noise(6, seed=9), "score.weight": noise(1, 6, seed=8)}
    absent, extra = findings(tmp_path / "2", a, other)
    assert (absent.kind, absent.title) == ("MISSING", "2 tensors of A are not in B")
    assert absent.evidence == (
        "not found by content among the 2 unpaired tensors of B; compare those by hand, since B "
        "may have them in another form. For 1 of them nothing of that size is there: convert again"
    )
    assert (extra.kind, extra.title) == ("EXTRA", "2 tensors of B are not in A")
    assert extra.layers == (7,)


def test_nothing_is_read_where_nothing_is_unpaired(tmp_path: Path) -> None:
    a = {HEAD: noise(8, 6)}
    assert findings(tmp_path, a, a) == []


def test_a_fresh_head_that_no_rule_knows_is_not_loaded(tmp_path: Path) -> None:
    a = {HEAD: noise(8, 64), "score.weight": noise(4, 64, seed=1)}
    (found,) = findings(tmp_path, a, {**a, "score.weight": noise(4, 64, seed=2) / 50})
    assert (found.kind, found.tensors) == ("NOT-LOADED", ("score.weight",))


def test_a_stored_tensor_that_no_rule_could_read_is_looked_through(
    tmp_path: Path, tiny_hf: Callable[..., Path], tiny_megatron: Callable[..., Path],
    tiny_weights: Weights,
) -> None:  # fmt: skip
    """A reward model's head of one row is no output layer, and the head of the reference."""
    import shutil

    from tests.support.pairs import edit_rank

    weights = tiny_weights()
    score = noise(1, weights["model.norm.weight"].shape[0], dtype=torch.bfloat16)
    hf = shutil.copytree(tiny_hf(), tmp_path / "hf")
    for file in hf.glob("model*.safetensors*"):
        file.unlink()
    kept = {n: t for n, t in weights.items() if n != HEAD}
    write_plain(hf, {**kept, "score.weight": score})
    megatron = shutil.copytree(tiny_megatron(tp=1, pp=1), tmp_path / "megatron")
    (file,) = megatron.glob("*/mp_rank_00/model_optim_rng.pt")
    edit_rank(file, lambda state: state["model"].update({"output_layer.weight": score}))
    found = compare_and_diagnose(hf, megatron)[1]
    (names,) = [f for f in found if f.kind not in ("CONFIG", "INCOMPLETE")]
    assert names.kind == "NAMES"
    assert "`score.weight` is B's `output_layer.weight`" in names.evidence


def test_heads_of_both_sides_that_are_parts_do_not_stop_the_diagnosis(
    tmp_path: Path, tiny_hf: Make
) -> None:
    """Both have 30 of the 61 rows that the config and the embedding promise."""
    sides = [Path(shutil.copytree(tiny_hf(), tmp_path / name)) for name in "ab"]
    for side, rows in zip(sides, (slice(0, 30), slice(30, 60)), strict=True):
        (file,) = [f for f in side.glob("*.safetensors") if HEAD in load_file(f)]
        tensors = load_file(file)
        save_file({**tensors, HEAD: tensors[HEAD][rows].clone()}, file, {"format": "pt"})
    found, said = compare_and_diagnose(*sides)
    assert found[HEAD].status == "differ"
    assert {finding.kind for finding in said} == {"INCOMPLETE"}


EMBEDDING = "model.embed_tokens.weight"


def test_a_head_alone_that_is_short_is_a_part_on_either_side(tmp_path: Path) -> None:
    whole = {EMBEDDING: noise(32, 6), HEAD: noise(32, 6, seed=1)}
    part = {**whole, HEAD: whole[HEAD][16:]}
    for a, b, short in ((whole, part, "B"), (part, whole, "A")):
        (found,) = findings(tmp_path / short, a, b)
        other = "A" if short == "B" else "B"
        assert found.title == (
            f"{short}'s {HEAD} is rows 16 to 31 of {other}'s: the part of rank 1 of 2"
        )


def test_a_reference_of_zeros_is_the_side_that_lacks_values(tmp_path: Path) -> None:
    values = noise(32, 6)
    (found,) = findings(tmp_path, {DOWN: torch.zeros(32, 6)}, {DOWN: values})
    assert (found.kind, found.tensors) == ("NOT-LOADED", (DOWN,))
    assert "0 in A" in found.title
    (found,) = findings(tmp_path / "2", {DOWN: values}, {DOWN: torch.zeros(32, 6)})
    assert found.title == "all elements are 0"


def test_whole_tensors_under_other_names_are_so_in_both_directions(tmp_path: Path) -> None:
    both = noise(8, 6)
    halves = {"visual.blocks.3.gate": both[:4], "visual.blocks.3.up": both[4:]}
    for a, b, title in (
        (halves, {"x.both": both}, "2 tensors of A are in B under other names"),
        ({"x.both": both}, halves, "1 tensor of A is in B under another name"),
    ):
        (found,) = findings(tmp_path / title[:1], a, b)
        assert (found.kind, found.title) == ("NAMES", title)
        assert found.layers == ()  # blocks of a vision tower are no decoder layers
        assert "a loader of A's class looks for" in (found.fix or "")


@pytest.mark.parametrize(
    ("name", "layers", "experts"),
    [
        ("model.layers.3.mlp.experts.5.up_proj.weight", (3,), (5,)),
        ("decoder.layers.3.mlp.experts.linear_fc1.weight5", (3,), (5,)),
        ("transformer.h.7.attn.c_attn.weight", (7,), ()),
        ("visual.blocks.2.attn.qkv.weight", (), ()),
        ("vision_model.decoder.layers.2.mlp.linear_fc1.weight", (), ()),
        ("mm_projector.proj.0.weight", (), ()),
        ("visual.merger.mlp.2.weight", (), ()),
        ("model.norm.weight", (), ()),
    ],
)
def test_layers_and_experts_are_those_of_the_decoder(
    name: str, layers: tuple[int, ...], experts: tuple[int, ...]
) -> None:
    assert (layers_of([name]), experts_of([name])) == (layers, experts)
