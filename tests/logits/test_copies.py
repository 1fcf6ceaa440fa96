"""What a reader may pass over: a rank's own copy, a bias that is gone, a token that is cut off."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.errors import MissingShard
from tests.support.logit_runs import compare_logits
from tests.support.oracle_state import load, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
IDS = (3, 1, 4, 1, 5)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the weights of a Hugging Face folder of one file."""
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("decoder.layers.1.input_layernorm.weight", (1, "norm1")),
        ("decoder.layers.0.pre_mlp_layernorm.weight", (0, "norm2")),
        ("decoder.final_layernorm.weight", (None, "final_norm")),
    ],
)
def test_a_copy_that_drifted_on_another_rank_is_found(
    name: str, where: tuple[int | None, str], tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    megatron = copy_of(tiny_megatron(tp=2))
    (file,) = megatron.rglob("mp_rank_01/*.pt")
    stored = load(file)
    stored["model"][name] *= 2
    save(stored, file)
    found = compare_logits(tiny_hf(), megatron, IDS)
    assert found.verdict == "weights-or-config"
    assert [(t.layer, t.name) for t in found.taps if t.rel > found.threshold] == [where]
    assert found.first is not None
    assert "rank 1 has another copy" in found.first.hint


def test_a_bias_that_is_gone_from_a_is_no_arithmetic(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    model = {"family": "qwen2", "single": True}
    hf = changed(copy_of(tiny_hf(**model)), lambda w: w.pop("model.layers.1.self_attn.k_proj.bias"))
    found = compare_logits(hf, tiny_megatron({"family": "qwen2"}, tp=2), IDS)
    assert found.verdict == "weights-or-config"
    assert found.floor < 1e-6
    assert found.first is not None
    assert (found.first.layer, found.first.name) == (1, "k")
    assert found.sentence.endswith("model.layers.1.self_attn.k_proj.bias differs.")


def test_an_untied_head_that_is_missing_is_not_the_embedding(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    megatron = copy_of(tiny_megatron(tp=1))
    (file,) = megatron.rglob("*.pt")
    stored = load(file)
    del stored["model"]["output_layer.weight"]
    save(stored, file)
    with pytest.raises(MissingShard, match=r"B, logits: output_layer\.weight is missing: copy"):
        compare_logits(tiny_hf(), megatron, IDS)


def test_tokens_that_one_side_lacks_are_told(tiny_hf: Make, copy_of: Any, tmp_path: Path) -> None:
    whole = tiny_hf(single=True)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    config = json.loads((cut / "config.json").read_text())
    config["vocab_size"] -= 20
    (cut / "config.json").write_text(json.dumps(config))
    changed(cut, lambda w: w.update({n: v[:-20].clone() for n, v in w.items() if "embed" in n}))
    changed(cut, lambda w: w.update({n: v[:-20].clone() for n, v in w.items() if "lm_" in n}))
    found = compare_logits(whole, cut, IDS)
    assert found.verdict == "arithmetic"
    rows = config["vocab_size"]
    wanted = f"20 tokens, {rows} to {rows + 19}, of A are not compared: the other side has {rows}"
    assert any(wanted in note for note in found.notes)


def test_a_number_that_is_none_is_told_on_either_side(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    hf = copy_of(tiny_hf(single=True))
    changed(hf, lambda w: w["model.layers.1.mlp.down_proj.weight"][2].fill_(float("nan")))
    found = compare_logits(hf, tiny_megatron(tp=2), IDS)
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert (found.first.layer, found.first.name) == (1, "mlp_out")
    assert found.first.hint == "not finite on A"
    assert found.first.rest is None
    assert math.isnan(found.metrics.kl_max)
    both = compare_logits(hf, hf, IDS)
    assert both.verdict == "weights-or-config"
    assert "not finite on A and B" in both.sentence
    assert "mapping" not in both.sentence


def test_a_fault_of_weights_is_told_behind_one_of_the_config(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Any
) -> None:
    hf = copy_of(tiny_hf(single=True))
    changed(hf, lambda w: w["model.layers.1.mlp.down_proj.weight"].mul_(2))
    file = hf / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_theta": 500.0}))
    found = compare_logits(hf, tiny_megatron(tp=2), IDS)
    assert "so the configs are to blame: RoPE base" in found.sentence
    assert found.sentence.endswith("model.layers.1.mlp.down_proj.weight differs.")
