"""Mixture of experts: rules that the families with experts share."""

from __future__ import annotations

from ckptdiff.arch.base import ParamMapping, gated, replicated, row
from ckptdiff.arch.llama import HF, MEGATRON


def router(hf: str) -> ParamMapping:
    """The router is whole on every rank."""
    return replicated(f"{MEGATRON}mlp.router.weight", f"{HF}{hf}")


def experts(prefix: str, gate: str, up: str, down: str) -> tuple[ParamMapping, ...]:
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
        ),
    )


QWEN_EXPERTS = (
    router("mlp.gate.weight"),
    *experts("mlp.experts.{expert}.", "gate_proj", "up_proj", "down_proj"),
)
