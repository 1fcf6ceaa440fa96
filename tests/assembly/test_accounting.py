"""Every stored tensor is in a list of `ls`, or in a line that counts it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from ckptdiff.assembly.accounting import repeated, unlisted
from ckptdiff.assembly.assemble import assemble
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.ls import listing_document, listing_lines
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_copies_under_other_names_are_counted_in_a_line(tmp_path: Path) -> None:
    """DeepSeek's prediction layers store embedding and head once more."""
    weights = make_hf(tmp_path, single=True)
    copies = {
        "model.layers.2.embed_tokens.weight": "model.embed_tokens.weight",
        "model.layers.2.shared_head.head.weight": "lm_head.weight",
    }
    stored = {**weights, **{name: weights[of].clone() for name, of in copies.items()}}
    save_file(stored, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1}
    config["architectures"] = ["DeepseekV3ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    side = assemble(open_checkpoint(tmp_path))
    assert repeated(side) == copies
    lines = list(listing_lines(side, bool))
    (line,) = [line for line in lines if line.startswith("2 stored tensors repeat another one")]
    assert all(name in line for name in copies)
    document = listing_document(side, bool)
    assert {row["name"]: row["of"] for row in document["repeated"]} == copies
    assert document["unlisted"] == []
    listed = [*document["repeated"], *document["tensors"]]
    assert sorted(row["name"] for row in listed) == sorted(stored)


def test_a_tied_head_of_the_last_stage_is_counted_too(
    tiny_megatron: Callable[..., Path],
) -> None:
    side = assemble(open_checkpoint(tiny_megatron(model={"family": "qwen2"}, pp=2)))
    assert repeated(side) == {"output_layer.weight": "model.embed_tokens.weight"}
    assert unlisted(side) == []


def test_a_tensor_that_no_recipe_reads_is_named(tmp_path: Path) -> None:
    make_hf(tmp_path, single=True)
    side = assemble(open_checkpoint(tmp_path))
    assert unlisted(side) == []
    name = "model.norm.weight"
    lost = replace(side, tensors={n: t for n, t in side.tensors.items() if n != name})
    assert unlisted(lost) == [name]
    assert f"1 stored tensors belong to no tensor above: {name}" in list(listing_lines(lost, bool))
