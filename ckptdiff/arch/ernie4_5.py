"""Ernie 4.5 without experts: Llama's tensors; neighbouring channels are rotated as pairs."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.llama import LLAMA

ERNIE4_5 = replace(
    LLAMA,
    name="ernie4_5",
    architectures=("Ernie4_5ForCausalLM",),
    model_types=("ernie4_5",),
    tied_by_default=True,
    computes_logits=False,
)
