"""Mistral: Llama's tensors; what differs (the sliding window) is in the config alone."""

from __future__ import annotations

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.llama import ATTENTION, EMBEDDING, FINAL_NORM, HEAD, INPUT_NORM, MLP, MLP_NORM

MISTRAL = Architecture(
    name="mistral",
    architectures=("MistralForCausalLM",),
    model_types=("mistral",),
    mappings=(EMBEDDING, INPUT_NORM, *ATTENTION, MLP_NORM, *MLP, FINAL_NORM, HEAD),
    computes_logits=True,
)
