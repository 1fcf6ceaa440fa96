"""Meta's own files equal the Hugging Face and Megatron checkpoints of the same weights."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.views import place_of
from ckptdiff.errors import CorruptFile, MissingShard, MixedShards, UnknownConfig
from ckptdiff.formats import open_checkpoint, read_entries
from ckptdiff.report.ls import listing_document
from tests.support.oracle_meta import interleaved, make_meta
from tests.support.pairs import bits, compare, config_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]
    Weights = Callable[..., dict[str, Tensor]]

pytestmark = pytest.mark.mostly_slow(one_in=3)
MODELS: dict[str, dict[str, Any]] = {
    "multi-head": {"heads": 8, "groups": 8, "head_dim": 4, "vocab": 64},
    "grouped": {"heads": 8, "groups": 2, "head_dim": 4, "vocab": 64},
    "wide-heads": {"heads": 8, "groups": 4, "head_dim": 8, "vocab": 64, "dtype": torch.float16},
}


@pytest.fixture
def meta(tiny_hf: Make, tiny_weights: Weights, tmp_path: Path) -> Make:
    """Return `meta(model, **arguments of make_meta)`: a folder in Meta's format."""

    def make(model: dict[str, Any], **arguments: Any) -> Path:
        config = config_of(tiny_hf(**model))
        folder = tmp_path / f"meta-{len(list(tmp_path.iterdir()))}"
        return make_meta(folder, tiny_weights(**model), config, **arguments)

    return make


@pytest.mark.mostly_slow(one_in=6)
@pytest.mark.parametrize("embedding", ["llama2", "llama3"])
@pytest.mark.parametrize("mp", [1, 2, 8])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_all_three_formats_are_the_same(
    meta: Make,
    tiny_hf: Make,
    tiny_megatron: Make,
    tiny_weights: Weights,
    model: dict[str, Any],
    mp: int,
    embedding: str,
) -> None:
    native = meta(model, mp=mp, embedding=embedding)
    others = [tiny_hf(**model), tiny_megatron(model=model, tp=2, pp=2), native]
    for other in others:
        for pair in ((native, other), (other, native)):
            comparison = compare(*pair)
            assert comparison.statuses == {}
            assert comparison.results.keys() == tiny_weights(**model).keys()
            for name, tensor in tiny_weights(**model).items():
                assert comparison.numbers(name).numel == tensor.numel()
            assert comparison.summary.weights == "same"
            assert not comparison.a.unmapped
            assert not comparison.b.unmapped


@pytest.mark.parametrize("mp", [1, 2, 8])
def test_every_element_lies_where_metas_order_puts_it(
    meta: Make, tiny_weights: Weights, mp: int
) -> None:
    model = MODELS["grouped"]
    side = assemble(open_checkpoint(meta(model, mp=mp)))
    name = "model.layers.1.self_attn.q_proj.weight"
    weight = tiny_weights(**model)[name]
    for row in range(weight.shape[0]):
        place = place_of(side.tensors[name], (row, 5))
        assert place is not None
        content = place.piece.ref.file.read_bytes()[place.offset : place.offset + 2]
        assert int.from_bytes(content, "little", signed=True) == int(bits(weight)[row, 5])


def test_a_safetensors_file_is_read_like_a_pth_file(meta: Make, tiny_hf: Make) -> None:
    model = MODELS["grouped"]
    folder = meta(model, kind="safetensors")
    assert open_checkpoint(folder).format == "meta"
    assert compare(tiny_hf(**model), folder).statuses == {}
    assert compare(tiny_hf(**model), folder / "consolidated.safetensors").statuses == {}


def test_a_changed_element_is_found_where_huggingface_has_it(
    meta: Make, tiny_hf: Make, tiny_weights: Weights
) -> None:
    model = MODELS["multi-head"]
    folder = meta(model, mp=2)
    file = folder / "consolidated.01.pth"
    state = torch.load(file)
    bits(state["layers.0.attention.wk.weight"])[3, 7] ^= 0x40
    torch.save(state, file)
    comparison = compare(tiny_hf(**model), folder)
    name = "model.layers.0.self_attn.k_proj.weight"
    assert comparison.statuses == {name: "differ"}
    # Rank 1 holds heads 4 to 7; row 3 of a head of 4 is the second row of its second half.
    assert comparison.numbers(name).max_at == (4 * 4 + 3, 7)
    assert comparison.numbers(name).differing == 1


def test_rows_left_in_metas_order_are_different(
    tiny_hf: Make, tiny_weights: Weights, meta: Make, tmp_path: Path
) -> None:
    model = MODELS["multi-head"]
    weights = dict(tiny_weights(**model))
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = interleaved(weights[name], 4)
    folder = make_meta(tmp_path / "wrong", weights, config_of(tiny_hf(**model)))
    assert compare(tiny_hf(**model), folder).statuses == {name: "differ"}


def test_the_frequencies_are_derived_and_checked(meta: Make) -> None:
    side = assemble(open_checkpoint(meta(MODELS["grouped"])))
    assert not side.unmapped
    (entry,) = side.derived
    assert entry.name == "rope.freqs"
    assert "as a rotary base" in entry.text


def test_a_vocabulary_of_minus_one_is_counted_in_the_tensors(meta: Make, tiny_hf: Make) -> None:
    model = MODELS["multi-head"]
    folder = meta(model, vocab_size=-1, mp=2, embedding="llama2")
    side = assemble(open_checkpoint(folder))
    assert side.config is not None
    assert side.config.vocab_size == 64
    assert side.config.ffn_hidden_size == 48
    assert compare(tiny_hf(**model), folder).summary.weights == "same"


def test_a_head_that_huggingface_ties_is_compared_with_the_embedding(
    tiny_hf: Make, tiny_weights: Weights, tmp_path: Path
) -> None:
    model = {**MODELS["grouped"], "tied": True}
    weights = dict(tiny_weights(**model))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    folder = make_meta(tmp_path / "meta", weights, config_of(tiny_hf(**model)), mp=2)
    comparison = compare(tiny_hf(**model), folder)
    assert comparison.summary.weights == "same"
    state = torch.load(folder / "consolidated.01.pth")
    bits(state["output.weight"])[0, 0] ^= 1
    torch.save(state, folder / "consolidated.01.pth")
    comparison = compare(tiny_hf(**model), folder)
    assert comparison.statuses == {"lm_head.weight": "differ"}
    assert comparison.numbers("lm_head.weight").differing == 1


def test_a_norm_that_drifted_between_ranks_is_found(meta: Make, tiny_hf: Make) -> None:
    folder = meta(MODELS["grouped"], mp=2)
    state = torch.load(folder / "consolidated.01.pth")
    bits(state["norm.weight"])[3] ^= 1
    torch.save(state, folder / "consolidated.01.pth")
    comparison = compare(tiny_hf(**MODELS["grouped"]), folder)
    assert comparison.statuses == {"model.norm.weight": "differ"}
    assert "replica drift in B" in (comparison["model.norm.weight"].note or "")


def test_what_no_rule_knows_is_listed(
    tiny_hf: Make, tiny_weights: Weights, meta: Make, tmp_path: Path
) -> None:
    folder = meta(MODELS["grouped"])
    file = folder / "consolidated.00.pth"
    torch.save({**torch.load(file), "layers.0.attention.wz.weight": torch.zeros(2)}, file)
    comparison = compare(tiny_hf(**MODELS["grouped"]), folder)
    assert comparison.b.unmapped == ("layers.0.attention.wz.weight",)
    assert comparison.summary.weights == "differ"


def test_the_listing_says_which_rows_of_which_file(meta: Make) -> None:
    side = assemble(open_checkpoint(meta(MODELS["grouped"], mp=2)))
    document = listing_document(side, lambda name: "0.self_attn.q_proj" in name)
    assert (document["format"], document["family"]) == ("meta", "llama")
    assert document["parallelism"]["tp"] == 2
    (tensor,) = document["tensors"]
    first, second = tensor["pieces"][:2]
    assert first["key"] == second["key"] == "layers.0.attention.wq.weight"
    assert (first["box"][0], second["box"][0]) == ((0, 2), (2, 4))
    assert first["stride"] == second["stride"] == (64, 1)
    assert second["offset"] - first["offset"] == 32 * 2
    assert {e.name for e in read_entries(side.checkpoint)} >= {"params.dim", "params.rope_theta"}


@pytest.mark.parametrize(("gone", "words"), [(0, "consolidated.00"), (3, "consolidated.03")])
def test_a_missing_file_in_the_middle_is_named(meta: Make, gone: int, words: str) -> None:
    folder = meta(MODELS["multi-head"], mp=8)
    (folder / f"consolidated.{gone:02d}.pth").unlink()
    with pytest.raises(MissingShard, match=words):
        open_checkpoint(folder)


def test_missing_files_at_the_end_are_counted(meta: Make) -> None:
    folder = meta(MODELS["multi-head"], mp=8)
    for rank in range(4, 8):
        (folder / f"consolidated.{rank:02d}.pth").unlink()
    with pytest.raises(MissingShard, match="found 4 of 8 files"):
        assemble(open_checkpoint(folder))


def test_one_missing_file_at_the_end_is_an_error(meta: Make, tiny_hf: Make) -> None:
    folder = meta(MODELS["multi-head"], mp=8)
    (folder / "consolidated.07.pth").unlink()
    comparison = compare(tiny_hf(**MODELS["multi-head"]), folder)
    assert comparison["model.layers.0.self_attn.q_proj.weight"].status == "error"
    assert comparison["lm_head.weight"].status == "shape"
    assert comparison.summary.weights == "differ"


def test_damaged_folders_are_refused(meta: Make, tmp_path: Path) -> None:
    folder = meta(MODELS["grouped"], mp=2)
    (folder / "params.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"params\.json"):
        open_checkpoint(folder)
    (folder / "params.json").write_text(json.dumps({"dim": 32}))
    with pytest.raises(UnknownConfig, match=str(folder)):
        assemble(open_checkpoint(folder))
    folder = meta(MODELS["grouped"], mp=2)
    (folder / "consolidated.01.pth").write_bytes(b"PK\3\4")
    with pytest.raises(CorruptFile, match=r"consolidated\.01"):
        open_checkpoint(folder)
    folder = meta(MODELS["grouped"], mp=2)
    torch.save({"norm.weight": torch.ones(32)}, folder / "consolidated.01.pth")
    with pytest.raises(MixedShards, match=r"consolidated\.01"):
        open_checkpoint(folder)
    folder = meta(MODELS["grouped"], mp=2)
    shutil.copy(folder / "consolidated.01.pth", folder / "consolidated.1.pth")
    with pytest.raises(MixedShards, match="rank 1"):
        open_checkpoint(folder)


def test_a_folder_of_both_formats_is_opened_by_its_index(
    meta: Make, tiny_hf: Make, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(tiny_hf(**MODELS["grouped"]))
    native = meta(MODELS["grouped"], kind="safetensors")
    for name in ("params.json", "consolidated.safetensors"):
        shutil.copy(native / name, folder / name)
    assert open_checkpoint(folder).format == "hf"
    assert compare(folder, folder / "consolidated.safetensors").statuses == {}
