"""States that are carried on in parts are those of one position after another; odd configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ckptdiff.errors import UnknownConfig, UnsupportedLayout
from ckptdiff.forward import hf_config
from ckptdiff.forward.megatron_args import model as megatron_args
from ckptdiff.forward.recurrence import convolve, recur

POSITIONS, HEADS = 150, 2  # of three parts


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(POSITIONS, *shape, dtype=torch.float64)


@pytest.mark.parametrize("has_beta", [True, False])
@pytest.mark.parametrize("least", [0.1, 30.0])
def test_a_state_is_carried_from_position_to_position(has_beta: bool, least: float) -> None:
    torch.manual_seed(1)
    q, k, v = numbers(HEADS, 3), numbers(HEADS, 3) / 2, numbers(HEADS, 4)
    decay, beta = -least * torch.rand(POSITIONS, HEADS).double(), torch.rand(POSITIONS, HEADS)
    beta = beta.double()
    state = torch.zeros(HEADS, 3, 4, dtype=torch.float64)
    read = []
    for t in range(POSITIONS):
        state = state * decay[t].exp()[:, None, None]
        added = v[t]
        if has_beta:
            added = beta[t][:, None] * (v[t] - torch.einsum("hk,hkv->hv", k[t], state))
        state = state + torch.einsum("hk,hv->hkv", k[t], added)
        read.append(torch.einsum("hk,hkv->hv", q[t], state))
    found = recur(q, k, v, decay, beta if has_beta else None)
    assert torch.allclose(found, torch.stack(read), rtol=1e-10, atol=1e-12)


def test_a_convolution_sees_a_position_and_those_before_it() -> None:
    x, weight, bias = numbers(5), torch.randn(5, 1, 3).double(), torch.randn(5).double()
    before = torch.cat((torch.zeros(2, 5, dtype=torch.float64), x))
    wanted = sum(before[i : i + POSITIONS] * weight[:, 0, i] for i in range(3)) + bias
    assert torch.allclose(convolve(x, weight, bias), wanted)


QWEN: dict[str, Any] = {
    "model_type": "qwen3_5_moe_text", "hidden_size": 32, "num_hidden_layers": 5,
    "num_attention_heads": 2, "num_experts": 4, "norm_topk_prob": False, "mlp_only_layers": [0],
}  # fmt: skip


def test_each_fourth_layer_of_a_qwen_has_attention_and_all_have_experts() -> None:
    model = hf_config.read(QWEN)
    assert [layer.mixer for layer in model.layers] == ["delta_net"] * 3 + ["attention", "delta_net"]
    assert all(layer.routing and layer.routing.normalized for layer in model.layers)
    assert [layer.rope and layer.rope.dim for layer in model.layers] == [None] * 3 + [64, None]


@pytest.mark.parametrize("kinds", [["full_attention"], ["chunked_attention"] * 5])
def test_layers_of_other_kinds_are_refused(kinds: list[str]) -> None:
    with pytest.raises(UnknownConfig, match="layer_types"):
        hf_config.read({**QWEN, "layer_types": kinds})


ARGS: dict[str, Any] = {
    "num_attention_heads": 4, "hidden_size": 32, "num_layers": 4, "squared_relu": True,
    "normalization": "RMSNorm", "position_embedding_type": "none", "is_hybrid_model": True,
    "window_size": [3, 0], "num_experts": 4, "mamba_head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        {"hybrid_override_pattern": "M*-E"},
        {"hybrid_layer_pattern": "M*|-E/M*", "is_hybrid_model": None},
    ],
)
def test_a_pattern_says_what_each_layer_is(args: dict[str, Any]) -> None:
    model = megatron_args.read({**ARGS, **args}, "nemotron_h")
    assert [layer.mixer for layer in model.layers] == ["mamba", "attention", None, None]
    assert [layer.mlp for layer in model.layers] == [False, False, True, True]
    assert [layer.window for layer in model.layers] == [None, 4, None, None]
    assert [layer.routing is not None for layer in model.layers] == [False, False, False, True]
    assert model.mamba is not None
    assert model.mamba.heads == 8


@pytest.mark.parametrize("pattern", [None, "M*", "M*-G"])
def test_a_hybrid_without_a_pattern_of_its_layers_is_refused(pattern: str | None) -> None:
    with pytest.raises(UnsupportedLayout, match="pattern"):
        megatron_args.read({**ARGS, "hybrid_override_pattern": pattern}, "nemotron_h")
