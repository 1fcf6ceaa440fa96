"""OLMo 2 and 3 (post-norms and no pre-norms), EXAONE 4, which has their names, and OLMoE.

The query and key norms are whole on every rank. They span all heads together, in EXAONE 4 each head
by itself. Sources: transformers'
modeling_olmo2 and modeling_olmoe; Megatron-Bridge's olmoe_provider.py and, for the post-norms,
exaone4_bridge.py (it has no OLMo 2).
"""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.arch.base import Architecture
from ckptdiff.arch.gemma import POST_ATTENTION_NORM, POST_MLP_NORM
from ckptdiff.arch.hf_class import HfClass
from ckptdiff.arch.llama import ATTENTION, ATTENTION_BIASES, EMBEDDING, FINAL_NORM, HEAD, MLP
from ckptdiff.arch.peculiarity import Peculiarity
from ckptdiff.arch.qwen3 import QK_NORM
from ckptdiff.arch.qwen3_moe import QWEN3_MOE

WIDE_NORM = Peculiarity(
    "Queries and keys are normalised over all heads at once; Megatron's qk_layernorm does it head "
    "by head"
)
_NORMS_BEHIND = Peculiarity(
    "Norms stand behind attention and MLP alone, for which Megatron's args have no field"
)

OLMO2 = Architecture(
    name="olmo2",
    architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    model_types=("olmo2", "olmo3"),
    mappings=(
        EMBEDDING,
        *ATTENTION,
        *ATTENTION_BIASES,
        *QK_NORM,
        POST_ATTENTION_NORM,
        *MLP,
        POST_MLP_NORM,
        FINAL_NORM,
        HEAD,
    ),
    wide_qk_norm=True,
    marks=(POST_ATTENTION_NORM.megatron, QK_NORM[0].megatron),
    peculiarities=(WIDE_NORM, _NORMS_BEHIND),
    written_class=HfClass("Olmo3ForCausalLM", "olmo3", unless=("sliding_window", None)),
    computes_logits=True,
)
EXAONE4 = replace(
    OLMO2,
    name="exaone4",
    architectures=("Exaone4ForCausalLM",),
    model_types=("exaone4",),
    wide_qk_norm=False,
    peculiarities=(_NORMS_BEHIND,),
    written_class=None,
)
OLMOE = Architecture(
    name="olmoe",
    architectures=("OlmoeForCausalLM",),
    model_types=("olmoe",),
    mappings=QWEN3_MOE.mappings,
    wide_qk_norm=True,
    marks=QWEN3_MOE.marks,
    fused=QWEN3_MOE.fused,
    peculiarities=(WIDE_NORM,),
    computes_logits=True,
)
