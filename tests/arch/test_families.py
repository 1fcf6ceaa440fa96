"""Every family: what transformers' own classes hold is in the rules, each element exactly once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.arch.templates import split_name
from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import contiguous
from tests.support.families import MODELS, WITHOUT_CLASS, Stored, cut, gathered, on_disk
from tests.support.numbered import numbered
from tests.support.verified import VERIFIED

pytestmark = pytest.mark.mostly_slow(one_in=4)
FAMILIES = {family.name for family in ARCHITECTURES}


def test_what_is_said_of_how_a_family_was_checked_is_of_one_that_there_is() -> None:
    assert set(VERIFIED) <= FAMILIES


def test_every_family_has_a_tiny_model() -> None:
    assert {name for name, _ in MODELS.values()} == FAMILIES - WITHOUT_CLASS


@pytest.mark.oracle
@pytest.mark.parametrize(("model", "ep"), [(m, ep) for m in MODELS for ep in (1, 2)])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_parameter_is_scattered_and_gathered_once(
    model: str, tp: int, ep: int, described: dict[str, Any]
) -> None:
    config, shapes = described[model]["config"], described[model]["shapes"]
    family = find_architecture(config)
    assert family is not None
    assert family.name == MODELS[model][0]
    stored: Stored = {}
    whole = assemble(on_disk(config, numbered(shapes), stored))
    assert whole.errors == {}
    assert [n for n in whole.tensors if family.order_of(split_name(n)[0]) is None] == []
    weights = gathered(whole, stored)
    elements = torch.cat([weight.reshape(-1) for weight in weights.values()])
    assert len(elements) == sum(len(flat) for flat in stored.values())
    assert len(elements) == len(set(elements.tolist()))
    side = assemble(cut(whole, weights, tp, ep, stored), like=whole)
    assert side.unmapped == ()
    assert side.errors == {}
    found = gathered(side, stored)
    assert set(found) == set(weights)
    assert [name for name in weights if not torch.equal(found[name], weights[name])] == []


# Without an oracle: what is written down by hand.

DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 3, "n_groups": 2, "ssm_state_size": 5}
TINY = {
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2,
    "num_hidden_layers": 1,
    "vocab_size": 4,
}


def test_mambas_rows_are_each_ranks_share_of_z_x_b_c_and_dt() -> None:
    inner, state = 12, 10
    layer = "model.layers.0.mixer."
    shapes = {layer + "in_proj.weight": (2 * inner + 2 * state + 4, 4),
              layer + "conv1d.weight": (inner + 2 * state, 1, 3)}  # fmt: skip
    weights = numbered(shapes)
    ranks = ranks_of({"model_type": "nemotron_h", **TINY, **MAMBA}, weights)
    runs = torch.split(weights[layer + "in_proj.weight"], [inner, inner, state, state, 4])
    convolved = torch.split(weights[layer + "conv1d.weight"], [inner, state, state])
    for rank, shards in enumerate(ranks):
        wanted = torch.cat([run.chunk(2)[rank] for run in runs])
        assert torch.equal(shards["decoder.layers.0.mixer.in_proj.weight"], wanted)
        wanted = torch.cat([run.chunk(2)[rank] for run in convolved])
        assert torch.equal(shards["decoder.layers.0.mixer.conv1d.weight"], wanted)


@pytest.mark.parametrize("whole", [False, True])
def test_norms_over_all_heads_of_minimax_m2_are_read_in_parts_and_whole(*, whole: bool) -> None:
    norms = {f"model.layers.0.self_attn.{x}_norm.weight": (n,) for x, n in (("q", 8), ("k", 4))}
    weights = numbered(norms)
    config = {"model_type": "minimax_m2", **TINY}
    for rank, shards in enumerate(ranks_of(config, weights)):
        for name, norm in zip("qk", weights.values(), strict=True):
            shard = shards[f"decoder.layers.0.self_attention.{name}_layernorm.weight"]
            assert torch.equal(shard, norm.chunk(2)[rank])
    stored: Stored = {}
    like = assemble(on_disk(config, weights, stored))
    checkpoint = cut(like, gathered(like, stored), 2, 1, stored)
    if whole:  # as ms-swift has them
        as_stored = tuple(
            replace(shard, tensors={
                name: replace(
                    ref, shape=(shape := norms[f"model.layers.0.self_attn.{x}_norm.weight"]),
                    stride=contiguous(shape), name=f"model.layers.0.self_attn.{x}_norm.weight",
                    file=Path("hf"),
                )
                for name, ref in shard.tensors.items()
                for x in (name[len("decoder.layers.0.self_attention.")],)
            })
            for shard in checkpoint.shards
        )  # fmt: skip
        checkpoint = replace(checkpoint, shards=as_stored)
    side = assemble(checkpoint, like=like)
    assert side.errors == {}
    found = gathered(side, stored)
    assert {name: norm.tolist() for name, norm in found.items()} == {
        name: norm.tolist() for name, norm in weights.items()
    }
    assert len(side.tensors[next(iter(norms))].pieces) == (1 if whole else 2)


def test_gated_attention_keeps_a_groups_gates_behind_its_queries() -> None:
    names = [f"model.language_model.layers.0.self_attn.{x}_proj.weight" for x in "qkv"]
    weights = numbered(dict(zip(names, [(16, 4), (4, 4), (4, 4)], strict=True)))
    text = {"model_type": "qwen3_5_text", **TINY, **DELTA}
    ranks = ranks_of({"model_type": "unheard_of", "text_config": text}, weights)
    q, k, v = (weights[name] for name in names)
    query, gate = q.view(2, 2, 2, 2, 4).unbind(2)  # group, head, [query or gate], d, hidden
    for rank, shards in enumerate(ranks):
        wanted = [query[rank].reshape(4, 4), gate[rank].reshape(4, 4)]
        wanted += [k[2 * rank : 2 * rank + 2], v[2 * rank : 2 * rank + 2]]
        name = "decoder.layers.0.self_attention.linear_qkv.weight"
        assert torch.equal(shards[name], torch.cat(wanted))


def test_experts_stored_with_inputs_as_rows_and_rows_that_take_turns_are_seen_upright() -> None:
    stored: Stored = {}
    layer = "model.layers.0.mlp.experts."
    weights = numbered({layer + "gate_up_proj": (3, 4, 16), layer + "gate_up_proj_bias": (3, 16)})
    config = {"model_type": "gpt_oss", **TINY, "num_local_experts": 3}
    found = gathered(assemble(on_disk(config, weights, stored)), stored)
    assert len(found) == 12
    for expert in range(3):
        both, bias = (weights[layer + f"gate_up_proj{tail}"][expert] for tail in ("", "_bias"))
        assert torch.equal(found[f"{layer}{expert}.gate_proj.weight"], both[:, ::2].T)
        assert torch.equal(found[f"{layer}{expert}.up_proj.weight"], both[:, 1::2].T)
        assert torch.equal(found[f"{layer}{expert}.up_proj.bias"], bias[1::2])


def test_a_fused_tensor_that_does_not_divide_is_an_error_of_that_tensor() -> None:
    weights = numbered({"model.layers.0.mlp.experts.gate_up_proj": (2, 5, 4)})
    side = assemble(on_disk({"model_type": "qwen3_moe", **TINY}, weights, {}))
    assert side.tensors == {}
    assert (
        "does not hold 2 equal parts" in side.errors["model.layers.0.mlp.experts.gate_up_proj"].text
    )


def test_a_part_without_a_rule_keeps_its_name() -> None:
    weights = numbered({"model.visual.blocks.0.attn.qkv.weight": (6, 2), "lm_head.weight": (4, 4)})
    side = assemble(on_disk({"model_type": "qwen3_vl", **TINY}, weights, {}))
    assert set(side.tensors) == set(weights)


@pytest.mark.parametrize("zero_centred", [False, True])
def test_a_norm_that_megatron_keeps_less_one_is_not_compared_as_it_is(zero_centred: bool) -> None:
    name = "model.layers.0.linear_attn.norm.weight"
    whole = assemble(
        on_disk({"model_type": "qwen3_next", **TINY, **DELTA}, numbered({name: (5,)}), {})
    )
    stored: Stored = {}
    checkpoint = cut(whole, numbered({name: (5,)}), 1, 1, stored)
    args = {"num_layers": 1, "hidden_size": 4, "num_attention_heads": 4,
            "apply_layernorm_1p": zero_centred}  # fmt: skip
    side = assemble(replace(checkpoint, config=args), like=whole)
    assert set(side.errors if zero_centred else side.tensors) == {name}


def ranks_of(
    config: dict[str, Any], weights: dict[str, torch.Tensor]
) -> list[dict[str, torch.Tensor]]:
    """Return what the rules make of these tensors at TP 2."""
    stored: Stored = {}
    whole = assemble(on_disk(config, weights, stored))
    shards: Stored = {}
    checkpoint = cut(whole, gathered(whole, stored), 2, 1, shards)
    return [
        {name: shards[ref.file, name].reshape(ref.shape) for name, ref in shard.tensors.items()}
        for shard in checkpoint.shards
    ]
