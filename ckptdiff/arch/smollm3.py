"""SmolLM3: Llama's tensors; what differs (layers without RoPE) is in the config alone."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.llama import LLAMA

SMOLLM3 = replace(
    LLAMA,
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    model_types=("smollm3",),
    tied_by_default=True,
)
