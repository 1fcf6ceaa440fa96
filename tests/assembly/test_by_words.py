"""A family without rules, read by the words that other families have for its tensors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckptdiff.arch.naming import split_native
from ckptdiff.arch.vocabulary import Shards, rules_by_words
from tests.support import unknown_family as made
from tests.support.pairs import compare_and_diagnose, config_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from tests.support.unknown_family import Tensors

HEAD, FFN = made.HEAD, made.FFN


def exchanged(model: Tensors, one: str, other: str) -> None:
    """Exchange every tensor with `one` in its name and the one with `other` there instead."""
    for name in [name for name in model if one in name]:
        twin = name.replace(one, other)
        model[name], model[twin] = model[twin], model[name]


def layers(model: Tensors) -> None:
    exchanged(model, ".layers.0.", ".layers.1.")


def experts(model: Tensors) -> None:
    exchanged(
        model, "layers.1.mlp.experts.local_experts.1.", "layers.1.mlp.experts.local_experts.3."
    )


def indexers(model: Tensors) -> None:
    exchanged(model, "layers.0.self_attention.indexer.", "layers.2.self_attention.indexer.")


def keys_and_values(model: Tensors) -> None:
    """Exchange K and V, which stand behind the two query heads of each group, in every layer."""
    for name in [name for name in model if "linear_qkv" in name]:
        rows = model[name].view(-1, 4, HEAD, made.HIDDEN)  # groups of q, q, k, v
        model[name] = rows[:, [0, 1, 3, 2]].reshape(-1, made.HIDDEN).clone()


def gate_and_up(model: Tensors) -> None:
    for name in [name for name in model if "layers.1." in name and "linear_fc1" in name]:
        model[name] = torch.cat(model[name].chunk(2)[::-1])


def folders(tmp_path: Path, tp: int, change: Callable[[Tensors], None] | None) -> tuple[Path, Path]:
    hf = made.tensors()
    return (
        made.write_huggingface(tmp_path / "hf", hf),
        made.write_megatron(tmp_path / "megatron", hf, tp=tp, change=change),
    )


@pytest.mark.parametrize("tp", [1, 2])
def test_a_right_checkpoint_of_an_unknown_family_is_same(tmp_path: Path, tp: int) -> None:
    compared, findings = compare_and_diagnose(*folders(tmp_path, tp, None))
    assert compared.statuses == {}
    assert set(compared.results) == set(made.tensors())
    assert compared.summary.weights == "same"
    assert findings == []
    assert compared.a.family is None
    assert compared.b.notes == ("read by other families' rules: there are none for nobody-knows",)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(
    ("change", "kind", "touched"),
    [
        (layers, "LAYER-ORDER", {0, 1}),
        (experts, "EXPERT-ORDER", {1}),
        (indexers, "LAYER-ORDER", {0, 2}),
        (keys_and_values, "QKV-SWAP", {0, 1, 2}),
        (gate_and_up, "FC1-SWAP", {1}),
    ],
)
def test_no_exchange_in_an_unknown_family_is_same(
    tmp_path: Path, tp: int, change: Callable[[Tensors], None], kind: str, touched: set[int]
) -> None:
    compared, findings = compare_and_diagnose(*folders(tmp_path, tp, change))
    assert compared.summary.weights == "differ"
    assert [(f.kind, set(f.layers), f.undo, f.fix) for f in findings] == [
        (kind, touched, None, None)
    ]
    assert set(compared.statuses) == set(findings[0].tensors)


def test_a_word_with_two_meanings_gives_no_rule() -> None:
    hf = {f"model.layers.#.{part}.q_proj.weight": (8, 8) for part in ("one", "two")}
    megatron = {"decoder.layers.#.cross.q_proj.weight": Shards((8, 8), 1)}
    assert rules_by_words(hf, megatron, None) == ()


def test_one_tensor_of_queries_keys_and_values_may_be_in_two_orders() -> None:
    """Hugging Face has all queries first, Megatron goes group by group: equal words say nothing."""
    hf = {"visual.blocks.#.attn.qkv.weight": (24, 8)}
    megatron = {"vision_model.layers.#.self_attention.linear_qkv.weight": Shards((12, 8), 2)}
    assert rules_by_words(hf, megatron, None) == ()


def test_words_whose_shapes_do_not_fit_give_no_rule() -> None:
    hf = {"model.layers.#.self_attn.o_proj.weight": (8, 6)}
    megatron = {"decoder.layers.#.self_attention.linear_proj.weight": Shards((8, 5), 2)}
    assert rules_by_words(hf, megatron, None) == ()


@pytest.mark.parametrize(
    ("native", "key"),
    [
        ("decoder.layers.3.mlp.linear_fc1.weight_w", "decoder.layers.#.mlp.linear_fc1.weight_w"),
        (
            "decoder.layers.3.mlp.experts.linear_fc1.weight12_v",
            "decoder.layers.#.mlp.experts.local_experts.#.linear_fc1.weight_v",
        ),
    ],
)
def test_the_halves_of_megatron_fsdp_are_names_of_their_own(native: str, key: str) -> None:
    assert split_native(native)[0] == key


@pytest.mark.parametrize("swapped", [False, True])
def test_a_folder_of_megatron_fsdp_is_read_by_its_halves(
    tmp_path: Path,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    swapped: bool,
) -> None:
    """_w is gate and _v is up: exchanged in layer 1, they are no longer the same."""
    hf, config = tiny_weights(), config_of(tiny_hf())
    groups = config["num_key_value_heads"]
    stored = {
        "embedding.word_embeddings.weight": hf["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": hf["model.norm.weight"],
    }
    if "lm_head.weight" in hf:
        stored["output_layer.weight"] = hf["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        h, m = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        q, k, v = (hf[f"{h}self_attn.{x}_proj.weight"].chunk(groups) for x in "qkv")
        gate, up = (hf[f"{h}mlp.{x}_proj.weight"] for x in ("gate", "up"))
        if swapped and layer == 1:
            gate, up = up, gate
        stored |= {
            f"{m}self_attention.linear_qkv.weight": torch.cat(
                [torch.cat([q[g], k[g], v[g]]) for g in range(groups)]
            ),
            f"{m}self_attention.linear_qkv.layer_norm_weight": hf[f"{h}input_layernorm.weight"],
            f"{m}self_attention.linear_proj.weight": hf[f"{h}self_attn.o_proj.weight"],
            f"{m}mlp.linear_fc1.layer_norm_weight": hf[f"{h}post_attention_layernorm.weight"],
            f"{m}mlp.linear_fc1.weight_w": gate,
            f"{m}mlp.linear_fc1.weight_v": up,
            f"{m}mlp.linear_fc2.weight": hf[f"{h}mlp.down_proj.weight"],
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed
        dcp.state_dict_saver.save(stored, checkpoint_id=tmp_path / "fsdp", no_dist=True)
    compared, findings = compare_and_diagnose(tiny_hf(), tmp_path / "fsdp")
    if not swapped:
        assert (compared.statuses, findings) == ({}, [])
        return
    assert [(f.kind, f.layers) for f in findings] == [("FC1-SWAP", (1,))]
    assert compared.summary.weights == "differ"
