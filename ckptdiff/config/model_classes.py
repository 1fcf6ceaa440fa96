"""Classes of Megatron-Bridge and NeMo that build a model, and compute nothing beside its fields.

A config in YAML names the class, and the function that specifies a layer. Both are code: those that
are not known may scale embeddings, mask otherwise, or be anything. Source: the folders `models` of
Megatron-Bridge 0.3.1 and `llm/gpt/model` of NeMo 2.3 and 2.4, where none of those that are listed
has a method of its own that builds a model, but for the bases and NeMo's Llama 3.1, which scales
rotary positions by its fields.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ckptdiff.formats.plain_yaml import TARGET
from ckptdiff.formats.run_config import MODEL, TRANSFORMER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LAYER_SPEC = "transformer_layer_spec"
_BUILDER = "_builder_"
_HOMES = (
    *("megatron.bridge.", "megatron.core.", "megatron.training.models."),
    "nemo.collections.llm.",
)
# What names of classes begin with; behind it, they have a kind and a size.
_PLAIN = (
    *("GPT", "MLA", "Llama[23]?", "Llama3[1-3]", "CodeLlama", "Mistral", "MistralNeMo"),
    *("MistralSmall3", "Mixtral", "Qwen2", "Qwen25", "Qwen3", "Qwen3MoE", "Nemotron[34]?"),
    *("DeepSeek", "DeepSeekV2", "DeepSeekV2Lite", "DeepSeekV3", "GLMMoE", "GLM45", "GLM45Air"),
    *("Phi3", "Mamba", "NemotronH", "Transformer", "MLATransformer"),
)
_PLAIN_SPECS = (
    *("default_layer_spec", "transformer_engine_layer_spec", "local_layer_spec"),
    *("transformer_engine_full_layer_spec", "get_gpt_layer_with_transformer_engine_spec"),
    *("get_gpt_layer_local_spec", "get_gpt_decoder_block_spec"),
    "get_transformer_block_with_experimental_attention_variant_spec",
)
# Families whose classes compute more than args say, which is computed here.
_OWN = {
    "gemma": "(Code)?Gemma", "gemma2": "Gemma2", "gemma3": "Gemma3", "olmoe": "OlMoE",
    "gpt_oss": "GPTOSS", "exaone4": "Exaone4", "qwen3_next": "Qwen3Next",
    "minimax_m2": "MiniMaxM2",
}  # fmt: skip
_KIND = r"(Model)?(Provider|Config)(Base|Mini|\d[\dA-Zx]*(_A\d+B)?)?"


def unknown_classes(args: Mapping[str, Any], family: str) -> Iterator[str]:
    """Yield the classes and functions that a config names and that are not known, in words.

    A config that does not name the class of its model may be of any.
    """
    own = _OWN.get(family)
    stems = "|".join((*_PLAIN, *((own,) if own else ())))
    specs = "|".join((*_PLAIN_SPECS, *((f"{family}_layer_spec",) if own else ())))
    if args.get(TARGET) is None:
        yield "model, whose class its config does not name"
    for entry, names in (
        (TARGET, f"({stems}){_KIND}"),
        (TRANSFORMER, "(MLA)?TransformerConfig"),
        (MODEL, f"({stems})Model"),
        (_BUILDER, "(GPT|Mamba)ModelBuilder"),
    ):
        if (named := args.get(entry)) is not None and not _is_known(named, names):
            yield f"the class {named}, whose code is not known"
    if (named := args.get(LAYER_SPEC)) is not None and not _is_known(named, specs):
        yield f"{LAYER_SPEC} {named}, whose code is not known"


def _is_known(named: Any, names: str) -> bool:
    home, _, name = str(named).rpartition(".")
    return f"{home}.".startswith(_HOMES) and re.fullmatch(names, name) is not None
