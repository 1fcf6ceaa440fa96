"""A head that is stored, though the config ties it: listed, compared, converted, and judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.diagnosis.run import diagnosed
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.pairs import Comparison, compare, edit_rank, load_rank

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.results import Finding

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Return folders of one model: untied, tied, tied with a copy stored, with another head."""
    found = {name: tmp_path / name for name in ("untied", "tied", "copy", "other")}
    for name, folder in found.items():
        weights = make_hf(folder, tied=False, single=True)
        if name == "tied":
            del weights[HEAD]
        if name == "copy":
            weights[HEAD] = weights[EMBEDDING].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = name != "untied"
        (folder / "config.json").write_text(json.dumps(config))
    return found


def findings(found: Comparison) -> list[Finding]:
    found_, trouble = diagnosed(
        found.a, found.b, list(found.results.values()), found.summary.config, InlineExecutor()
    )
    assert trouble is None
    return [finding for finding in found_ if finding.kind != "CONFIG"]


@pytest.mark.parametrize("name", ["tied", "copy"])
def test_a_head_of_its_own_beside_a_tied_reference_is_not_lost(
    folders: dict[str, Path], name: str
) -> None:
    (found,) = findings(compare(folders[name], folders["untied"]))
    assert found.kind == "TIED"
    assert found.title == f"A's head is its embedding, B's {HEAD} is a matrix of its own"


@pytest.mark.parametrize("name", ["untied", "copy", "other"])
def test_a_stored_head_is_listed(folders: dict[str, Path], name: str) -> None:
    side = assemble(open_checkpoint(folders[name]))
    assert HEAD in side.tensors
    assert any(HEAD in note for note in side.notes) == (name != "untied")


@pytest.mark.parametrize("pair", [("tied", "copy"), ("copy", "tied"), ("copy", "copy")])
def test_a_copy_is_harmless(folders: dict[str, Path], pair: tuple[str, str]) -> None:
    found = compare(folders[pair[0]], folders[pair[1]])
    assert found[HEAD].status == "same"
    assert found.summary.verdict == "same"


@pytest.mark.parametrize("pair", [("untied", "other"), ("other", "untied")])
def test_the_head_of_the_file_counts_and_what_the_config_says_is_a_finding(
    folders: dict[str, Path], pair: tuple[str, str]
) -> None:
    found = compare(folders[pair[0]], folders[pair[1]])
    assert found.summary.weights == "same"
    assert found.summary.verdict == "differ"
    (finding,) = findings(found)
    assert (finding.kind, finding.tensors) == ("TIED", (HEAD,))
    assert "transformers 5 keeps the head of the file" in finding.evidence


@pytest.mark.parametrize("pair", [("tied", "other"), ("other", "tied"), ("untied", "tied")])
def test_an_embedding_in_the_place_of_a_head_is_one_finding(
    folders: dict[str, Path], pair: tuple[str, str]
) -> None:
    found = compare(folders[pair[0]], folders[pair[1]])
    assert found.statuses == {HEAD: "differ"}
    (finding,) = findings(found)
    assert (finding.kind, finding.tensors) == ("TIED", (HEAD,))


@pytest.mark.parametrize("pp", [1, 2])
def test_a_head_of_its_own_that_both_configs_tie_is_one_finding(
    folders: dict[str, Path], tmp_path: Path, pp: int
) -> None:
    converted(folders["untied"], tmp_path / "out", "megatron", pp=pp)
    for file in tmp_path.glob("out/*/*/model_optim_rng.pt"):
        edit_rank(
            file,
            lambda state: setattr(state["args"], "untie_embeddings_and_output_weights", False),
        )
    (finding,) = findings(compare(folders["other"], tmp_path / "out"))
    assert (finding.kind, set(finding.tensors)) == ("TIED", {HEAD, EMBEDDING})
    assert "though both configs tie it" in finding.title
    assert [rank.pp for rank in finding.ranks] == [pp - 1]


@pytest.mark.oracle
def test_transformers_keeps_the_head_of_the_file(
    folders: dict[str, Path], ask_oracle: Callable[..., dict[str, Any]]
) -> None:
    loaded = ask_oracle("oracle_files", [str(folder) for folder in folders.values()])
    for name, folder in folders.items():
        stored = load_file(folder / "model.safetensors")
        head = stored.get(HEAD, stored[EMBEDDING])
        assert loaded[str(folder)]["head"] == float(head[0, 0]), name


def test_to_hugging_face_the_stored_head_is_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("copy", "other"):
        converted(folders[name], tmp_path / f"{name}-out", "hf")
        assert torch.equal(
            hf_tensors(tmp_path / f"{name}-out")[HEAD], hf_tensors(folders[name])[HEAD]
        )


@pytest.mark.parametrize("pp", [1, 2])
def test_to_megatron_a_head_that_differs_makes_a_model_that_is_not_tied(
    folders: dict[str, Path], tmp_path: Path, pp: int
) -> None:
    plan, _ = converted(folders["other"], tmp_path / "out", "megatron", pp=pp)
    last = "00" if pp == 1 else f"00_{pp - 1:03d}"
    state = load_rank(tmp_path / "out" / "iter_0000001" / f"mp_rank_{last}" / "model_optim_rng.pt")
    assert state["args"].untie_embeddings_and_output_weights is True
    head = hf_tensors(folders["other"])[HEAD]
    assert torch.equal(state["model"]["output_layer.weight"][: len(head)], head)
    assert any(HEAD in note and "kept" in note for note in plan.notes)
    converted(tmp_path / "out", tmp_path / "back", "hf", like=folders["other"])
    assert torch.equal(hf_tensors(tmp_path / "back")[HEAD], head)


def test_to_megatron_a_head_that_repeats_the_embedding_is_not_written_twice(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    converted(folders["copy"], tmp_path / "out", "megatron")
    state = load_rank(tmp_path / "out" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt")
    assert state["args"].untie_embeddings_and_output_weights is False
    assert "output_layer.weight" not in state["model"]
    assert compare(folders["copy"], tmp_path / "out").summary.verdict == "same"


def test_a_folder_to_be_like_that_stores_the_copy_gets_it_again(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    converted(folders["tied"], tmp_path / "first", "torch_dist")
    converted(tmp_path / "first", tmp_path / "out", "hf", like=folders["copy"])
    written = hf_tensors(tmp_path / "out")
    assert torch.equal(written[HEAD], written[EMBEDDING])
