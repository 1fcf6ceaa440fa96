"""The rules of every family, property-based: nothing lost, nothing twice, all in its place."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdiff.arch import ARCHITECTURES
from ckptdiff.arch.llama import LLAMA
from ckptdiff.arch.scatter import scatter
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.config.model import from_huggingface
from ckptdiff.errors import UnsupportedLayout
from tests.support.numbered import (
    FAMILIES,
    Model,
    assert_equal,
    content,
    gathered,
    headers,
    models,
    numbered,
    oracle,
    scattered,
    whole,
)
from tests.support.oracle_state import megatron_args

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture

pytestmark = pytest.mark.mostly_slow(one_in=2)
# Those whose shapes and Megatron formulas are written down by hand; test_families has all.
BY_HAND = [family for family in ARCHITECTURES if family.name in FAMILIES]
every_family = pytest.mark.parametrize("family", BY_HAND, ids=lambda a: a.name)
examples = settings(max_examples=15, deadline=None)

# The legacy model has no norms on queries and keys.
SPELLED = [
    pytest.param(family, names, id=f"{family.name}-{names}")
    for family in BY_HAND
    for names in ("mcore", "te", "legacy")
    if (family.name, names) != ("qwen3", "legacy")
]


def test_the_hand_written_shapes_are_of_families_that_have_rules() -> None:
    assert set(FAMILIES) == {family.name for family in BY_HAND}


@pytest.mark.mostly_slow(one_in=6)
@every_family
@given(data=st.data())
@examples
def test_gathering_what_was_scattered_gives_the_tensors_back(
    family: Architecture, data: st.DataObject
) -> None:
    model = data.draw(models(family.name))
    ranks = scattered(model, family)
    states = {(t, 0, 0): tensors for t, tensors in enumerate(ranks)}
    single = Model(model.config, model.weights, model.tp, 1, 1, model.divisible_by, model.counts)
    args = vars(megatron_args(oracle(model), 1, 1, lies=(), distributed=False))
    checkpoint, stored = headers(single, states, args)
    _, side = assemble_pair(whole(model), checkpoint)
    assert side.unmapped == ()
    assert side.errors == {}
    assert_equal(gathered(side, stored), model.weights)


@pytest.mark.mostly_slow(one_in=4)
@every_family
@given(data=st.data())
@examples
def test_every_element_is_used_once_and_replicas_once_a_rank(
    family: Architecture, data: st.DataObject
) -> None:
    model = data.draw(models(family.name))
    uses: Counter[int] = Counter()
    for tensors in scattered(model, family):
        for shard in tensors.values():
            uses.update(shard.reshape(-1).tolist())
    padding = (model.padded_vocab - model.config["vocab_size"]) * model.config["hidden_size"]
    heads = 1 if model.config["tie_word_embeddings"] else 2
    assert uses.pop(-1, 0) == heads * padding
    for name, weight in model.weights.items():
        times = model.tp if "norm" in name else 1
        assert {uses.pop(n) for n in weight.reshape(-1).tolist()} == {times}, name
    assert not uses


@pytest.mark.mostly_slow(one_in=2)
@every_family
@given(data=st.data())
@examples
def test_scattering_gives_the_shards_that_megatrons_formulas_give(
    family: Architecture, data: st.DataObject
) -> None:
    model = data.draw(models(family.name))
    layout = oracle(model)
    layers = range(model.config["num_hidden_layers"])
    for rank, shards in enumerate(scattered(model, family)):
        wanted = layout.model(rank, 0, layers, first=True, last=True)
        assert set(shards) == set(wanted)
        for name, shard in shards.items():
            assert torch.equal(shard.clamp(min=0), wanted[name]), name


@pytest.mark.mostly_slow(one_in=12)
@pytest.mark.parametrize(("family", "names"), SPELLED)
@given(data=st.data())
@examples
def test_what_the_oracle_cut_is_put_together_right(
    family: Architecture, names: Literal["mcore", "te", "legacy"], data: st.DataObject
) -> None:
    model = data.draw(models(family.name))
    layout = oracle(model, names=names)
    args = vars(megatron_args(layout, model.pp, model.vpp, lies=(), distributed=False))
    states = {}
    for t in range(model.tp):
        for place, count in enumerate(model.counts):
            chunk, stage = divmod(place, model.pp)
            before = sum(model.counts[:place])
            layers = range(before, before + count)
            last = place == len(model.counts) - 1
            states[t, stage, chunk] = layout.model(t, 0, layers, first=place == 0, last=last)
    checkpoint, stored = headers(model, states, args)
    _, side = assemble_pair(whole(model), checkpoint)
    assert side.unmapped == ()
    assert side.errors == {}
    assert_equal(gathered(side, stored), model.weights)
    padding = model.padded_vocab - model.config["vocab_size"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in side.tensors:
            assert side.tensors[name].padding_rows == padding
            for piece in side.tensors[name].padding:
                assert not content(piece, stored).any()


# Biases that a few derivatives of Llama have: written down by hand, no family of the oracle's.


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_biases_of_llamas_derivatives_are_cut_like_their_weights(tp: int) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 6,
        "intermediate_size": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 2,
        "num_hidden_layers": 1,
    }
    q, k, v, o, gate, up, down = (f"model.layers.0.{x}_proj.bias" for x in (
        "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"
    ))  # fmt: skip
    weights = numbered({q: (16,), k: (8,), v: (8,), o: (6,), gate: (8,), up: (8,), down: (6,)})
    model = Model(config | {"vocab_size": 1}, weights, tp, 1, 1, 1, [1])
    grouped = torch.cat([weights[q].view(4, 4), weights[k].view(4, 2), weights[v].view(4, 2)], 1)
    halves = zip(weights[gate].chunk(tp), weights[up].chunk(tp), strict=True)
    fc1 = [torch.cat(pair) for pair in halves]
    layer = "decoder.layers.0."
    for rank, shards in enumerate(scattered(model, LLAMA)):
        wanted = {
            layer + "self_attention.linear_qkv.bias": grouped.reshape(-1).chunk(tp)[rank],
            layer + "self_attention.linear_proj.bias": weights[o],
            layer + "mlp.linear_fc1.bias": fc1[rank],
            layer + "mlp.linear_fc2.bias": weights[down],
        }
        assert_equal(shards, wanted)


@pytest.mark.parametrize(("groups", "tp"), [(1, 2), (2, 4), (1, 8), (2, 8)])
def test_with_fewer_groups_than_ranks_the_fused_rows_are_cut_evenly(groups: int, tp: int) -> None:
    heads, d = 8, 3
    names = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkv"]
    sizes = [heads * d, groups * d, groups * d]
    weights = numbered({name: (size, 2) for name, size in zip(names, sizes, strict=True)})
    config = {
        "hidden_size": 2,
        "intermediate_size": 8,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": d,
        "num_hidden_layers": 1,
        "vocab_size": 1,
    }
    parts = [weights[name].view(groups, -1, 2) for name in names]
    if (heads + 2 * groups) * d % tp:
        with pytest.raises(UnsupportedLayout, match="cannot be cut evenly"):
            scattered(Model(config, weights, tp, 1, 1, 1, [1]), LLAMA)
        return
    wanted = torch.cat(parts, 1).reshape(-1, 2).chunk(tp)
    for rank, shards in enumerate(scattered(Model(config, weights, tp, 1, 1, 1, [1]), LLAMA)):
        assert torch.equal(
            shards["decoder.layers.0.self_attention.linear_qkv.weight"], wanted[rank]
        )


def test_a_size_that_does_not_divide_is_refused() -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    config = {"hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
              "num_hidden_layers": 1}  # fmt: skip
    list(scatter(LLAMA, from_huggingface(config), {name: (4, 6)}, 3))
    with pytest.raises(UnsupportedLayout, match=r"linear_fc2\.weight: 6 .* TP 4"):
        list(scatter(LLAMA, from_huggingface(config), {name: (4, 6)}, 4))
