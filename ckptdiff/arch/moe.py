"""Mixture of experts: rules that the families with experts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.base import gated, replicated, row, template
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import HF, MEGATRON
from ckptdiff.checkpoint import TensorRef
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.arch.base import ParamMapping


def router(hf: str) -> ParamMapping:
    """The router is whole on every rank."""
    return replicated(f"{MEGATRON}mlp.router.weight", f"{HF}{hf}", role="router")


def routed_experts(prefix: str, gate: str, up: str, down: str) -> tuple[ParamMapping, ...]:
    """One routed expert: a gated MLP, cut by expert tensor parallelism.

    `prefix` is the Hugging Face name of an expert behind the layer, with `{expert}`.
    """
    megatron = f"{MEGATRON}mlp.experts.local_experts.{{expert}}."
    return (
        gated(
            f"{megatron}linear_fc1.weight",
            f"{HF}{prefix}{gate}.weight",
            f"{HF}{prefix}{up}.weight",
            lambda c: c.moe_ffn_hidden_size,
        ),
        row(
            f"{megatron}linear_fc2.weight",
            f"{HF}{prefix}{down}.weight",
            lambda c: c.moe_ffn_hidden_size,
            role="fc2",
        ),
    )


def shared_experts(prefix: str) -> tuple[ParamMapping, ...]:
    """The experts that every token passes: one gated MLP, cut by tensor parallelism."""
    return (
        gated(
            f"{MEGATRON}mlp.shared_experts.linear_fc1.weight",
            f"{HF}{prefix}gate_proj.weight",
            f"{HF}{prefix}up_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
        ),
        row(
            f"{MEGATRON}mlp.shared_experts.linear_fc2.weight",
            f"{HF}{prefix}down_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
            role="fc2",
        ),
    )


QWEN_EXPERTS = (
    router("mlp.gate.weight"),
    *routed_experts("mlp.experts.{expert}.", "gate_proj", "up_proj", "down_proj"),
)

# What transformers keeps in memory, and some families on disk: all experts in one tensor.
FUSED_EXPERTS = (
    Fused(
        f"{HF}mlp.experts.gate_up_proj",
        (
            f"{HF}mlp.experts.{{expert}}.gate_proj.weight",
            f"{HF}mlp.experts.{{expert}}.up_proj.weight",
        ),
    ),
    Fused(f"{HF}mlp.experts.down_proj", (f"{HF}mlp.experts.{{expert}}.down_proj.weight",)),
)

# The legacy GroupedMLP keeps all experts of a rank in two matrices that are views of a raw run of
# numbers: expert e's first layer is `weight1.view(experts, hidden, -1)[e]` transposed, its second
# `weight2.view(experts, -1, hidden)[e]` transposed.
_GROUPED = {
    template(f"{MEGATRON}mlp.experts.weight1"): ("linear_fc1", 1),
    template(f"{MEGATRON}mlp.experts.weight2"): ("linear_fc2", 0),
}


def is_grouped(key: str) -> bool:
    """Return whether a Megatron name is that of a matrix of several experts."""
    return key in _GROUPED


def ungrouped(key: str, ref: TensorRef, routed_experts: int) -> list[tuple[str, int, TensorRef]]:
    """Return the tensors of single experts in a grouped one: template, expert and place.

    Empty for any other tensor. Raises UnsupportedLayout if the experts do not divide it.
    """
    if key not in _GROUPED:
        return []
    layer, dim = _GROUPED[key]
    if len(ref.shape) != 2 or routed_experts < 1 or ref.shape[dim] % routed_experts:
        raise UnsupportedLayout(
            f"{ref.file}: {ref.name} of shape {list(ref.shape)} does not hold "
            f"{routed_experts} experts"
        )
    rows, columns = ref.shape
    inner = (rows, columns // routed_experts) if dim == 1 else (rows // routed_experts, columns)
    single = template(f"{MEGATRON}mlp.experts.local_experts.{{expert}}.{layer}.weight")
    size = inner[0] * inner[1] * ITEMSIZE[ref.dtype]
    return [
        (
            single,
            expert,
            TensorRef(
                ref.name,
                inner[::-1],
                ref.dtype,
                ref.file,
                ref.offset + expert * size,
                (1, inner[1]),
            ),
        )
        for expert in range(routed_experts)
    ]
