"""Mixture of experts: rules that the families with experts share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import gated, replicated, row
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import HF, MEGATRON
from ckptdiff.arch.templates import template
from ckptdiff.checkpoint import TensorRef
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.config.model import ModelConfig


def router(hf: str) -> ParamMapping:
    """Return the rule of the router, which every rank holds whole."""
    return replicated(f"{MEGATRON}mlp.router.weight", f"{HF}{hf}", role="router")


def routed_experts(prefix: str, gate: str, up: str, down: str) -> tuple[ParamMapping, ...]:
    """Return the rules of a routed expert: a gated MLP, split by expert tensor parallelism.

    `prefix` is what Hugging Face puts between the layer and the weight's name, with `{expert}`.
    """
    megatron = f"{MEGATRON}mlp.experts.local_experts.{{expert}}."
    return (
        gated(
            f"{megatron}linear_fc1.weight",
            f"{HF}{prefix}{gate}.weight",
            f"{HF}{prefix}{up}.weight",
            lambda c: c.moe_ffn_hidden_size,
            lambda c: c.moe_mlp_glu_interleave_size,
        ),
        row(
            f"{megatron}linear_fc2.weight",
            f"{HF}{prefix}{down}.weight",
            lambda c: c.moe_ffn_hidden_size,
            role="fc2",
        ),
    )


def has_shared_experts(config: ModelConfig) -> bool:
    """Return whether a config promises shared experts."""
    return config.moe_shared_expert_intermediate_size > 0


def shared_experts(prefix: str) -> tuple[ParamMapping, ...]:
    """Return the rules of the shared experts: one gated MLP, split by tensor parallelism."""
    rules = (
        gated(
            f"{MEGATRON}mlp.shared_experts.linear_fc1.weight",
            f"{HF}{prefix}gate_proj.weight",
            f"{HF}{prefix}up_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
            lambda c: c.moe_shared_expert_glu_interleave_size,
        ),
        row(
            f"{MEGATRON}mlp.shared_experts.linear_fc2.weight",
            f"{HF}{prefix}down_proj.weight",
            lambda c: c.moe_shared_expert_intermediate_size,
            role="fc2",
        ),
    )
    return tuple(replace(rule, promised=has_shared_experts) for rule in rules)


QWEN_EXPERTS = (
    router("mlp.gate.weight"),
    *routed_experts("mlp.experts.{expert}.", "gate_proj", "up_proj", "down_proj"),
)

# All experts of a layer in one tensor: in memory in transformers 5, for some families on disk too.
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

# The legacy GroupedMLP (megatron.core.transformer.moe.experts) stores all experts of a rank in two
# matrices. Expert e's first layer is `weight1.view(experts, hidden, -1)[e]` transposed, its second
# `weight2.view(experts, -1, hidden)[e]` transposed. Here: the layer, and the dimension that grows
# with the number of experts.
_GROUPED = {
    template(f"{MEGATRON}mlp.experts.weight1"): ("linear_fc1", 1),
    template(f"{MEGATRON}mlp.experts.weight2"): ("linear_fc2", 0),
}


def is_grouped(key: str) -> bool:
    """Return whether a template is of one of GroupedMLP's matrices, which hold several experts."""
    return key in _GROUPED


def ungrouped(key: str, ref: TensorRef, routed_experts: int) -> list[tuple[str, int, TensorRef]]:
    """Return (template, expert number, view) of each expert in one of GroupedMLP's matrices.

    Empty for any other tensor. `routed_experts` is the number of experts on the rank. Raises
    UnsupportedLayout if they do not divide the matrix.
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
    stored_shape = (
        (rows, columns // routed_experts) if dim == 1 else (rows // routed_experts, columns)
    )
    single = template(f"{MEGATRON}mlp.experts.local_experts.{{expert}}.{layer}.weight")
    nbytes = stored_shape[0] * stored_shape[1] * ITEMSIZE[ref.dtype]
    return [
        (
            single,
            expert,
            TensorRef(
                ref.name,
                stored_shape[::-1],
                ref.dtype,
                ref.file,
                ref.offset + expert * nbytes,
                (1, stored_shape[1]),
            ),
        )
        for expert in range(routed_experts)
    ]
