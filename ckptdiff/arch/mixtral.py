"""Mixtral: Llama's attention, and experts with weights named w1 (gate), w2 (down) and w3 (up)."""

from __future__ import annotations

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.fused import Fused
from ckptdiff.arch.llama import ATTENTION, EMBEDDING, FINAL_NORM, HEAD, HF, INPUT_NORM, MLP_NORM
from ckptdiff.arch.moe import routed_experts, router

_EXPERT = f"{HF}block_sparse_moe.experts.{{expert}}."
ROUTER = router("block_sparse_moe.gate.weight")

MIXTRAL = Architecture(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    model_types=("mixtral",),
    mappings=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        MLP_NORM,
        ROUTER,
        *routed_experts("block_sparse_moe.experts.{expert}.", "w1", "w3", "w2"),
        FINAL_NORM,
        HEAD,
    ),
    marks=(ROUTER.megatron,),
    # transformers 5 fuses the experts in memory; its files have the names of the rules.
    fused=(
        Fused(f"{HF}mlp.gate.weight", (f"{HF}block_sparse_moe.gate.weight",)),
        Fused(f"{HF}mlp.experts.gate_up_proj", (f"{_EXPERT}w1.weight", f"{_EXPERT}w3.weight")),
        Fused(f"{HF}mlp.experts.down_proj", (f"{_EXPERT}w2.weight",)),
    ),
    computes_logits=True,
)
