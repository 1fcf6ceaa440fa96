"""Names as wrappers leave them: read without what was added, and said so, never `in no file`."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.formats import open_checkpoint
from tests.support.pairs import edit_rank, noise, rank_file, write_plain
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Rename = Callable[[str], str]


def in_layers(part: str) -> Rename:
    return lambda name: re.sub(r"(layers\.\d+\.)", rf"\1{part}.", name)


# What wraps a model: the stored name by the plain one, and what is said of it.
WRAPPED: dict[str, tuple[Rename, str]] = {
    "compiled": (lambda n: f"_orig_mod.{n}", "every name of B has `_orig_mod.` in front"),
    "ddp": (lambda n: f"module.{n}", "every name of B has `module.` in front"),
    "twice": (lambda n: f"module.module.{n}", "every name of B has `module.module.` in front"),
    "both": (lambda n: f"_orig_mod.module.{n}", "every name of B has `_orig_mod.module.` in front"),
    "around": (
        lambda n: f"module._orig_mod.{n}",
        "every name of B has `module._orig_mod.` in front",
    ),
    "lightning": (lambda n: f"model.{n}", "every name of B has `model.` in front"),
    "peft": (lambda n: f"base_model.model.{n}", "every name of B has `base_model.model.` in front"),
    "other": (lambda n: f"student.{n}", "every name of B has `student.` in front"),
    "layers": (in_layers("_orig_mod"), "18 of 21 names of B have `_orig_mod.` inside"),
    "checkpointing": (
        in_layers("_checkpoint_wrapped_module"),
        "18 of 21 names of B have `_checkpoint_wrapped_module.` inside",
    ),
    "fsdp": (
        lambda n: "_fsdp_wrapped_module." + in_layers("_fsdp_wrapped_module")(n),
        "every name of B has `_fsdp_wrapped_module.` in front, and 18 of 21 names of B have "
        "`_fsdp_wrapped_module.` inside",
    ),
}


def renamed(source: Path, folder: Path, rename: Rename, more: Any = None) -> Path:
    """Write the tensors of a folder under other names, with the same config."""
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    tensors = {rename(name): tensor for name, tensor in stored(source).items()}
    save_file({**tensors, **(more or {})}, folder / "model.safetensors")
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def diff(a: Path, b: Path) -> tuple[int, dict[str, Any]]:
    done = ckptdiff("diff", a, b, "--json", "-")
    return done.returncode, document(done)


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapped_names_are_one_finding_and_the_weights_are_the_same(
    wrapper: str, tiny_hf: Make, tmp_path: Path
) -> None:
    rename, words = WRAPPED[wrapper]
    wrapped = renamed(tiny_hf(), tmp_path / "wrapped", rename)
    status, found = diff(tiny_hf(), wrapped)
    assert (status, found["verdict"], found["weights"]) == (1, "differ", "same")
    assert found["names_status"] == "wrapped"
    assert found["counts"]["same"] == len(found["tensors"]) == 21
    (finding,) = found["findings"]
    assert (finding["class"], finding["severity"]) == ("NAMES", "fault")
    assert finding["title"] == words
    assert "--to hf" in finding["fix"]


def test_the_reference_may_be_wrapped_and_so_may_both(tiny_hf: Make, tmp_path: Path) -> None:
    wrapped = renamed(tiny_hf(), tmp_path / "wrapped", WRAPPED["fsdp"][0])
    assert diff(wrapped, tiny_hf())[1]["verdict"] == "same"  # B is what is judged
    assert diff(wrapped, wrapped)[1]["verdict"] == "same"


@pytest.mark.parametrize("wrapper", ["compiled", "fsdp", "other"])
def test_a_wrapped_model_converts_to_plain_names(
    wrapper: str, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    wrapped = renamed(tiny_hf(), tmp_path / "wrapped", WRAPPED[wrapper][0])
    done = ckptdiff("convert", wrapped, tmp_path / "hf", "--to", "hf")
    assert done.returncode == 0, done.stderr
    assert "names are written without it" in done.stdout
    plain, written = stored(tiny_hf()), stored(tmp_path / "hf")
    assert written.keys() == plain.keys()
    assert all(torch.equal(written[name], plain[name]) for name in plain)
    done = ckptdiff("convert", wrapped, tmp_path / "megatron", "--to", "megatron", "--tp", "2")
    assert done.returncode == 0, done.stderr
    assert diff(tiny_megatron(tp=2, pp=1), tmp_path / "megatron")[1]["weights"] == "same"


@pytest.mark.oracle
def test_transformers_does_not_find_what_is_called_a_fault(
    tiny_hf: Make, ask_oracle: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wrapped = {
        name: renamed(tiny_hf(), tmp_path / name, rename)
        for name, (rename, _) in WRAPPED.items()
        # transformers 5 drops a second `model.`, older releases do not.
        if name != "lightning"
    }
    headless = renamed(tiny_hf(), tmp_path / "headless", lambda n: n.removeprefix("model."))
    folders = [tiny_hf(), headless, *wrapped.values()]
    unset = ask_oracle("oracle_names", [str(folder) for folder in folders])
    assert [unset[str(folder)] for folder in (tiny_hf(), headless)] == [0, 0]
    assert all(unset[str(folder)] >= 18 for folder in wrapped.values())


def test_a_missing_model_prefix_is_no_fault(tiny_hf: Make, tmp_path: Path) -> None:
    """So `AutoModel` saves it, and transformers adds it when it loads."""
    headless = renamed(tiny_hf(), tmp_path / "headless", lambda n: n.removeprefix("model."))
    status, found = diff(tiny_hf(), headless)
    assert (status, found["verdict"], found["names_status"]) == (0, "same", "known")
    (finding,) = found["findings"]
    assert (finding["class"], finding["severity"]) == ("NAMES", "info")
    assert finding["title"] == "20 of 21 names of B lack `model.` in front"


def test_a_head_beside_the_model_may_have_names_of_its_own(tiny_hf: Make, tmp_path: Path) -> None:
    head = {"v_head.summary.weight": noise(1, 32)}
    folder = renamed(tiny_hf(), tmp_path / "trl", lambda n: f"pretrained_model.{n}", head)
    _, found = diff(tiny_hf(), folder)
    assert (found["counts"]["same"], found["counts"]["only_b"]) == (21, 1)
    assert "21 of 22 names of B have `pretrained_model.` in front" in [
        finding["title"] for finding in found["findings"]
    ]


def test_a_side_without_a_config_takes_the_names_of_the_other(
    tiny_hf: Make, tmp_path: Path
) -> None:
    """Names that the rules know are never changed, though they are the longer ones."""
    headless = renamed(tiny_hf(), tmp_path / "headless", lambda n: n.removeprefix("model."))
    (headless / "config.json").unlink()
    plain = write_plain(tmp_path / "plain", stored(tiny_hf()))
    for a in (tiny_hf(), plain):
        _, found = diff(a, headless)
        assert found["verdict"] == "same"
        assert {row["name"] for row in found["tensors"]} == stored(tiny_hf()).keys()
        titles = [finding["title"] for finding in found["findings"]]
        assert titles == ["20 of 21 names of B lack `model.` in front"]
    _, found = diff(headless, tiny_hf())
    assert {row["name"] for row in found["tensors"]} == stored(tiny_hf()).keys()


def test_known_names_stay_as_they_are(tiny_hf: Make) -> None:
    checkpoint = open_checkpoint(tiny_hf())
    side = assemble(checkpoint)
    assert side.checkpoint is checkpoint
    assert side.wrapping is None
    assert side.notes == ()


def test_two_tensors_never_get_one_name(tiny_hf: Make, tmp_path: Path) -> None:
    """A teacher and a student in one file: neither is the model."""
    copies = {f"_orig_mod.{name}": t + 1 for name, t in stored(tiny_hf()).items()}
    folder = renamed(tiny_hf(), tmp_path / "two", lambda n: n, copies)
    side = assemble(open_checkpoint(folder))
    assert side.tensors.keys() == stored(folder).keys()
    both = {f"{who}.{n}": t.clone() for n, t in stored(tiny_hf()).items() for who in ("a", "b")}
    folder = renamed(tiny_hf(), tmp_path / "pair", lambda n: f"c.{n}", both)
    assert assemble(open_checkpoint(folder)).tensors.keys() >= both.keys()


def test_a_listing_has_plain_names_and_one_note(tiny_hf: Make, tmp_path: Path) -> None:
    wrapped = renamed(tiny_hf(), tmp_path / "wrapped", WRAPPED["compiled"][0])
    listed = ckptdiff("ls", wrapped).stdout
    head, _, *lines = listed.splitlines()
    assert "(every name has `_orig_mod.` in front)" in head
    assert [line.split()[0] for line in lines] == list(assemble(open_checkpoint(tiny_hf())).tensors)
    found = document(ckptdiff("ls", wrapped, "--json"))
    change = {"change": "front", "stored": "_orig_mod.", "read": "", "names": 21, "of": 21}
    assert found["names"] == [{**change, "severity": "fault"}]
    assert found["tensors"][0]["pieces"][0]["key"] == "_orig_mod.model.embed_tokens.weight"
    assert "_orig_mod.model.norm.weight" in ckptdiff("ls", wrapped, "--raw").stdout


# ── families without rules ───────────────────────────────────────────────────────────────────────

UNKNOWN = {
    "embed.weight": noise(12, 8),
    "blocks.0.mix.weight": noise(8, 8, seed=1),
    "blocks.1.mix.weight": noise(8, 8, seed=2),
    "tower.0.weight": noise(4, 8, seed=3),
}


def unknown(folder: Path, rename: Rename) -> Path:
    return write_plain(folder, {rename(name): t for name, t in UNKNOWN.items()})


@pytest.mark.parametrize("front", ["module.", "_orig_mod.", "student.", "module.net."])
def test_an_unknown_family_is_paired_without_what_stands_in_front(
    front: str, tmp_path: Path
) -> None:
    a = unknown(tmp_path / "a", lambda n: n)
    b = unknown(tmp_path / "b", lambda n: front + n)
    status, found = diff(a, b)
    assert (status, found["verdict"], found["weights"]) == (1, "differ", "same")
    assert [f["title"] for f in found["findings"]] == [f"every name of B has `{front}` in front"]
    assert diff(b, a)[1]["verdict"] == "same"


def test_names_of_unknown_families_pair_only_where_shapes_agree(tmp_path: Path) -> None:
    a = unknown(tmp_path / "a", lambda n: n)
    b = write_plain(
        tmp_path / "b", {f"module.{n}": noise(*t.shape, 3, seed=5) for n, t in UNKNOWN.items()}
    )
    _, found = diff(a, b)
    assert found["counts"]["only_a"] == len(UNKNOWN)


@pytest.mark.parametrize("crossed", [False, True])
def test_two_towers_of_equal_names_are_not_paired_by_chance(crossed: bool, tmp_path: Path) -> None:
    """Nothing says which of two fronts a tower of the same names and shapes had before."""
    other = {name: tensor.flip(0) for name, tensor in UNKNOWN.items()}
    one, two = (other, UNKNOWN) if crossed else (UNKNOWN, other)
    a = {f"module.{n}": t for n, t in UNKNOWN.items()}
    a |= {f"language_model.{n}": t for n, t in other.items()}
    b = {f"model.module.{n}": t for n, t in one.items()}
    b |= {f"state_dict.{n}": t for n, t in two.items()}
    _, found = diff(write_plain(tmp_path / "a", a), write_plain(tmp_path / "b", b))
    assert found["counts"]["same"] == 0
    assert [f["title"] for f in found["findings"]] == [
        f"{2 * len(UNKNOWN)} tensors of A are in B under other names"
    ]


def test_one_change_of_names_is_said_once(tmp_path: Path) -> None:
    """A head beside the model has a front of its own, and the same wrapper before it."""
    names = {"model.layers.0.mix.weight": noise(8, 8), "lm_head.weight": noise(12, 8, seed=1)}
    a = write_plain(tmp_path / "a", {**names, "extra.weight": noise(4)})
    b = write_plain(
        tmp_path / "b", {"extra.weight": noise(4), **{f"module.{n}": t for n, t in names.items()}}
    )
    _, found = diff(a, b)
    assert found["weights"] == "same"
    assert [f["title"] for f in found["findings"]] == ["2 of 3 names of B have `module.` in front"]


# ── models with a vision tower ───────────────────────────────────────────────────────────────────

TOWER = {f"visual.blocks.0.attn.{n}": noise(*s) for n, s in (("qkv.weight", (24, 8)),)}
SPELLINGS: dict[str, Rename] = {
    "resaved": lambda n: re.sub(r"^model\.", "model.language_model.", n).replace(
        "visual.", "model.visual."
    ),
    "llava": lambda n: n if n.startswith("visual.") else f"language_model.{n}",
}


@pytest.fixture
def with_tower(tiny_hf: Make, tmp_path: Path) -> Path:
    folder = renamed(tiny_hf(family="qwen2", tied=False), tmp_path / "hub", lambda n: n, TOWER)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Qwen2_5_VLForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_5_vl"}))
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_one_model_with_a_tower_are_the_same(
    spelling: str, with_tower: Path, tmp_path: Path
) -> None:
    other = renamed(with_tower, tmp_path / "other", SPELLINGS[spelling])
    for a, b in ((with_tower, other), (other, with_tower)):
        status, found = diff(a, b)
        assert (status, found["verdict"]) == (0, "same")
        assert found["counts"]["same"] == len(found["tensors"]) == len(stored(with_tower))
        assert {f["severity"] for f in found["findings"]} == {"info"}


def test_a_prefix_that_stands_three_times_is_a_fault(with_tower: Path, tmp_path: Path) -> None:
    def thrice(name: str) -> str:
        return re.sub(r"^model\.", f"model.{'language_model.' * 3}", name)

    _, found = diff(with_tower, renamed(with_tower, tmp_path / "thrice", thrice))
    assert (found["weights"], found["names_status"]) == ("same", "wrapped")
    (fault,) = [f for f in found["findings"] if f["severity"] == "fault"]
    assert "`language_model.language_model.` inside" in fault["title"]
    done = ckptdiff("convert", tmp_path / "thrice", tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.stderr
    once = {re.sub(r"^model\.", "model.language_model.", n) for n in stored(with_tower)}
    assert stored(tmp_path / "out").keys() == once


def test_factors_take_the_prefix_of_their_weight(with_tower: Path, tmp_path: Path) -> None:
    """A quantised weight's parts are named by no rule of their own."""

    spelled = SPELLINGS["llava"]
    folder = renamed(with_tower, tmp_path / "packed", spelled)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    rows, columns = weights.pop(spelled(name)).shape
    parts = {
        "packed": torch.ones(rows, columns // 8, dtype=torch.int32),
        "scale": torch.ones(rows, columns // 32, dtype=torch.bfloat16),
        "shape": torch.tensor([rows, columns], dtype=torch.int32),
    }
    weights |= {f"{spelled(name)}_{end}": part for end, part in parts.items()}
    save_file(weights, folder / "model.safetensors")
    assert assemble(open_checkpoint(folder)).packed.keys() == {name}


# ── Megatron ─────────────────────────────────────────────────────────────────────────────────────


def wrapped_ranks(source: Path, folder: Path, rename: Rename) -> Path:
    shutil.copytree(source, folder)

    def change(state: dict[str, Any]) -> None:
        state["model"] = {rename(name): value for name, value in state["model"].items()}

    for rank in ("00", "01"):
        edit_rank(rank_file(folder, rank), change)
    return folder


@pytest.mark.parametrize(
    ("rename", "severity"),
    [
        (lambda n: f"_orig_mod.{n}", "fault"),
        (in_layers("_orig_mod"), "fault"),
        (lambda n: f"model.module.{n}", None),  # as Megatron-FSDP saves it
        (lambda n: f"module.module.{n}", None),
    ],
)
def test_megatrons_names_are_read_without_wrappers(
    rename: Rename, severity: str | None, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    wrapped = wrapped_ranks(tiny_megatron(tp=2, pp=1), tmp_path / "wrapped", rename)
    assert len(assemble(open_checkpoint(wrapped)).tensors) == 21
    for reference in (tiny_hf(), tiny_megatron(tp=2, pp=1)):
        _, found = diff(reference, wrapped)
        assert (found["weights"], found["unmapped"]["b"]) == ("same", [])
        assert found["names_status"] == ("known" if severity is None else "wrapped")
        assert [f["severity"] for f in found["findings"]] == ([severity] if severity else [])
    done = ckptdiff("convert", wrapped, tmp_path / "hf", "--to", "hf", "--like", tiny_hf())
    assert done.returncode == 0, done.stderr
    assert diff(tiny_hf(), tmp_path / "hf")[1]["verdict"] == "same"


def test_both_sides_of_a_pair_are_unwrapped(tiny_hf: Make, tmp_path: Path) -> None:
    compiled = renamed(tiny_hf(), tmp_path / "compiled", WRAPPED["compiled"][0])
    ddp = renamed(tiny_hf(), tmp_path / "ddp", WRAPPED["ddp"][0])
    a, b = assemble_pair(open_checkpoint(compiled), open_checkpoint(ddp))
    assert a.tensors.keys() == b.tensors.keys() == stored(tiny_hf()).keys()
