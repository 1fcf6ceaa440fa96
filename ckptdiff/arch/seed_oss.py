"""Seed-OSS: Llama's tensors; each part of a layer has a switch of its own for its biases."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.llama import LLAMA

SEED_OSS = replace(
    LLAMA,
    name="seed_oss",
    architectures=("SeedOssForCausalLM",),
    model_types=("seed_oss",),
)
