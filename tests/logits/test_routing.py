"""Experts: what is chosen and how it is weighted, who holds them, and what a fault there shows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward.arithmetic import MEGATRON, TRANSFORMERS
from ckptdiff.forward.model import Routing
from ckptdiff.forward.routing import route
from ckptdiff.logits.run import compare_logits
from tests.support.logit_runs import compare_logits as compare_folders
from tests.support.logit_runs import free_run, tokens
from tests.support.pairs import open_pair

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import LogitDiff

pytestmark = pytest.mark.mostly_slow(one_in=4)
IDS = tokens(12, 200)
TWO_OF_FOUR = Routing(experts=4, chosen=2, wide_weights=True)
LOGITS = torch.tensor([[1.0, 3.0, 2.0, 0.0]])


@pytest.mark.parametrize("how", [TRANSFORMERS, MEGATRON])
def test_the_best_are_chosen_and_their_weights_sum_to_one(how: Any) -> None:
    first = 1 / (1 + torch.exp(torch.tensor(-1.0)))
    expected = torch.tensor([[0.0, first, 1 - first, 0.0]])
    assert torch.allclose(route(LOGITS, None, TWO_OF_FOUR, how), expected)


@pytest.mark.parametrize("how", [TRANSFORMERS, MEGATRON])
def test_weights_that_are_not_normalised_are_those_of_all_experts(how: Any) -> None:
    rules = replace(TWO_OF_FOUR, normalized=False, scaling=2.0)
    expected = 2 * LOGITS.softmax(-1) * torch.tensor([[0, 1, 1, 0]])
    assert torch.allclose(route(LOGITS, None, rules, how), expected)


@pytest.mark.parametrize("how", [TRANSFORMERS, MEGATRON])
def test_a_bias_is_for_the_choice_alone(how: Any) -> None:
    rules = replace(TWO_OF_FOUR, score="sigmoid", normalized=False)
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0])
    expected = LOGITS.sigmoid() * torch.tensor([[0, 1, 0, 1]])
    assert torch.allclose(route(LOGITS, bias, rules, how), expected)


def test_groups_are_ranked_by_so_many_of_their_experts() -> None:
    logits = torch.tensor([[5.0, -9.0, 4.0, 3.0]])  # the best is in one group, two good in another
    rules = replace(TWO_OF_FOUR, groups=2, chosen_groups=1, score="sigmoid")
    for ranking, chosen in ((1, [0, 1]), (2, [2, 3])):
        weights = route(logits, None, replace(rules, ranking=ranking), TRANSFORMERS)
        assert weights[0].nonzero()[:, 0].tolist() == chosen


def test_a_tie_is_decided_as_the_reference_decided_it() -> None:
    tied = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    own = route(tied, None, TWO_OF_FOUR, TRANSFORMERS)
    other = own[:, [0, 2, 1, 3]]
    assert not torch.equal(own, other)
    for theirs in (own, other):
        assert torch.equal(route(tied, None, TWO_OF_FOUR, MEGATRON, (tied, theirs)), theirs)


def test_a_choice_that_is_no_tie_is_the_rules_own() -> None:
    wrong = route(-LOGITS, None, TWO_OF_FOUR, TRANSFORMERS)
    own = route(LOGITS, None, TWO_OF_FOUR, MEGATRON)
    assert torch.equal(route(LOGITS, None, TWO_OF_FOUR, MEGATRON, (LOGITS, wrong)), own)


def test_experts_are_those_of_the_reference_where_noise_would_choose_others() -> None:
    """Weights are of the side's own logits, experts of the reference's."""
    theirs = route(LOGITS, None, TWO_OF_FOUR, TRANSFORMERS)
    noisy = torch.tensor([[2.1, 3.0, 2.0, 0.0]])
    found = route(noisy, None, TWO_OF_FOUR, MEGATRON, (LOGITS, theirs))
    assert found[0].nonzero()[:, 0].tolist() == [1, 2]
    assert float(found[0, 1]) == pytest.approx(float(noisy[0, 1:3].softmax(-1)[0]))


# ── in whole models ──────────────────────────────────────────────────────────────────────────────

QWEN = "qwen2moe", "megatron-tp2-pp1-ep2-torch"
DEEPSEEK = "deepseek-v3", "megatron-tp2-pp1-ep2-torch"


def changed(
    corpus: Path, where: tuple[str, str], hf: dict[str, Any], args: dict[str, Any]
) -> LogitDiff:
    """Compare a checkpoint of the corpus with its source, under other settings."""
    sides = []
    for folder, settings in (("hf", hf), (where[1], args)):
        side = open_checkpoint(corpus / where[0] / folder)
        sides.append(replace(side, config={**(side.config or {}), **settings}))
    *_, found = compare_logits(*assemble_pair(*sides), IDS, InlineExecutor(), device="cpu")
    assert not hasattr(found, "doing")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "hf", "args", "first", "word"),
    [
        (QWEN, {"norm_topk_prob": True}, {}, "routing", "Router weights sum to one"),
        (QWEN, {}, {"moe_router_pre_softmax": False}, "routing", "Router weights sum to one"),
        (QWEN, {}, {"moe_router_score_function": "sigmoid"}, "routing", "Router scores"),
        (QWEN, {}, {"moe_router_topk_scaling_factor": 2.0}, "routing", "Router scaling"),
        (QWEN, {}, {"moe_router_topk": 3}, "routing", "Experts per token"),
        (DEEPSEEK, {}, {"moe_router_num_groups": None, "moe_router_group_topk": None}, "routing",
            "Router groups"),
        (DEEPSEEK, {"n_group": 4, "topk_group": 2},
            {"moe_router_num_groups": 4, "moe_router_group_topk": 2}, "routing", "neither"),
        (DEEPSEEK, {}, {"moe_router_topk_scaling_factor": None}, "routing", "Router scaling"),
        (DEEPSEEK, {}, {"mscale_all_dim": 0.5}, "q_rope", "YaRN mscale_all_dim"),
        (DEEPSEEK, {"rope_interleave": False}, {}, "q_rope", "Rotary pairs"),
        (DEEPSEEK, {}, {"rotary_base": 1000}, "q_rope", "RoPE base"),
    ],
)  # fmt: skip
def test_another_rule_shows_where_it_acts(
    where: tuple[str, str],
    hf: dict[str, Any],
    args: dict[str, Any],
    first: str,
    word: str,
    corpus: Path,
) -> None:
    assert changed(corpus, where, {}, {}).verdict == "arithmetic"
    found = changed(corpus, where, hf, args)
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert found.first.name == first
    assert word in found.sentence
    bad = {tap.name for tap in found.taps if tap.judged > found.threshold}
    assert bad <= {first, first.replace("q_", "k_"), "ctx"}


@pytest.mark.parametrize(
    ("args", "word"),
    [({"moe_layer_freq": 1}, "has experts"), ({"q_lora_rank": None}, "has compressed queries")],
)
def test_other_structures_are_refused(args: dict[str, Any], word: str, corpus: Path) -> None:
    with pytest.raises(UnsupportedLayout, match=f"only [AB] {word}"):
        changed(corpus, DEEPSEEK, {}, args)


@pytest.mark.slow
def test_experts_that_a_broken_converter_wrote_show_as_such(corpus: Path) -> None:
    broken = "mixtral-tp1-ep2-core_r0.12-converter-bug-expert-weights-garbage"
    sides = [open_checkpoint(f) for f in (corpus / "mixtral" / "hf", corpus / "broken" / broken)]
    sides[1] = replace(sides[1], config={**(sides[1].config or {}), "rotary_base": 1000000})
    *_, found = compare_logits(*assemble_pair(*sides), IDS, InlineExecutor(), device="cpu")
    assert found.first.name == "experts_act"  # type: ignore[union-attr]
    bad = {t.name for t in found.taps if not t.judged <= found.threshold}  # type: ignore[union-attr]
    assert bad == {"experts_act", "mlp_out"}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["qwen3moe", "deepseek-v3"])
def test_experts_in_one_tensor_are_those_in_many(source: str, corpus: Path, tmp_path: Path) -> None:
    hf = corpus / source / "hf"
    weights: dict[str, Any] = {}
    for file in hf.glob("*.safetensors"):
        weights |= load_file(file)
    fused = {name: value for name, value in weights.items() if ".experts." not in name}
    fronts = {name.partition("experts.")[0] for name in weights if ".experts." in name}
    for front in fronts:
        count = sum(name.startswith(front) and "up_proj" in name and ".experts." in name
                    for name in weights)  # fmt: skip
        each = [
            {
                part: weights[f"{front}experts.{e}.{part}_proj.weight"]
                for part in ("gate", "up", "down")
            }
            for e in range(count)
        ]
        fused[f"{front}experts.gate_up_proj"] = torch.stack(
            [torch.cat((one["gate"], one["up"])) for one in each]
        )
        fused[f"{front}experts.down_proj"] = torch.stack([one["down"] for one in each])
    (tmp_path / "config.json").write_text(json.dumps(json.loads((hf / "config.json").read_text())))
    save_file(fused, tmp_path / "model.safetensors")
    one, other = free_run(hf, tmp_path, IDS, "fp32")
    assert torch.equal(one, other)
    found = compare_folders(hf, tmp_path, IDS)
    assert max(tap.rel for tap in found.taps) == 0


@pytest.mark.slow
def test_one_expert_of_another_place_shows_in_that_layer_alone(
    corpus: Path, tmp_path: Path
) -> None:
    hf = corpus / "qwen3moe" / "hf"
    weights: dict[str, Any] = {}
    for file in hf.glob("*.safetensors"):
        weights |= load_file(file)
    for part in ("gate", "up", "down"):
        names = [f"model.layers.2.mlp.experts.{e}.{part}_proj.weight" for e in (0, 1)]
        weights[names[0]], weights[names[1]] = weights[names[1]], weights[names[0]]
    (tmp_path / "config.json").write_text((hf / "config.json").read_text())
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        tmp_path / "model.safetensors",
    )
    found = compare_folders(hf, tmp_path, tokens(40, 300))
    bad = [(tap.layer, tap.name) for tap in found.taps if tap.judged > found.threshold]
    assert bad == [(2, "experts_act"), (2, "mlp_out")]
    a, _ = open_pair(hf, tmp_path)
    reads = next(tap.reads for tap in found.taps if (tap.layer, tap.name) == (2, "experts_act"))
    assert set(reads) <= set(a.tensors)
    assert "model.layers.2.mlp.experts.0.gate_proj.weight" in reads
