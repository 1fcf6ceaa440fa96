"""What a family computes that one side's settings cannot say, and which class of it a model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCALED_EMBEDDING = (
    "Gemma multiplies embeddings by the root of the hidden size; Megatron's args have no field "
    "for it"
)
_NORMS_BEHIND = "There are norms behind attention and MLP; Megatron's args have no field for them"
_WIDE_NORM = (
    "Queries and keys are normalised over all heads at once; Megatron's qk_layernorm does it head "
    "by head"
)
# Said of every model of the family, whichever way its settings go.
PECULIAR: dict[str, tuple[str, ...]] = {
    "gemma": (_SCALED_EMBEDDING,),
    "gemma2": (
        _SCALED_EMBEDDING,
        _NORMS_BEHIND,
        "Gemma 2 caps attention scores and logits; Megatron's args have no field for it",
    ),
    "gemma3": (
        _SCALED_EMBEDDING,
        _NORMS_BEHIND,
        "Windowed layers have a RoPE base of their own; Megatron's args hold one base",
    ),
    "gpt_oss": ("Experts add 1 to what the gate multiplies; Megatron's args have no field for it",),
    "olmo2": (
        _WIDE_NORM,
        "Norms stand behind attention and MLP alone; Megatron's args have no field for it",
    ),
    "olmoe": (_WIDE_NORM,),
    "gpt_neox": (
        "Attention and MLP may read the same input (use_parallel_residual); Megatron's args have "
        "no field for it",
    ),
}


def class_of(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class of transformers where a family has several and the settings decide."""
    if family == "deepseek" and config.get("scoring_func") != "sigmoid":
        return {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
    if family in _TEXT:
        return {"architectures": [_TEXT[family]], "model_type": f"{family}_text"}
    return {}


# The language models of these have a class and a model type of their own.
_TEXT = {"qwen3_5": "Qwen3_5ForCausalLM", "qwen3_5_moe": "Qwen3_5MoeForCausalLM"}
