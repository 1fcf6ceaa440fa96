"""The model families that ckptdiff has rules for. A new one is a file here and an entry below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.arch.deepseek import DEEPSEEK
from ckptdiff.arch.ernie4_5 import ERNIE4_5
from ckptdiff.arch.gemma import GEMMA, GEMMA2, GEMMA3
from ckptdiff.arch.glm4_moe import GLM4_MOE
from ckptdiff.arch.gpt2 import GPT2
from ckptdiff.arch.gpt_neox import GPT_NEOX
from ckptdiff.arch.gpt_oss import GPT_OSS
from ckptdiff.arch.llama import LLAMA
from ckptdiff.arch.minimax_m2 import MINIMAX_M2
from ckptdiff.arch.mistral import MISTRAL
from ckptdiff.arch.mixtral import MIXTRAL
from ckptdiff.arch.nemotron import NEMOTRON
from ckptdiff.arch.nemotron_h import NEMOTRON_H
from ckptdiff.arch.olmo import EXAONE4, OLMO2, OLMOE
from ckptdiff.arch.phi3 import PHI3
from ckptdiff.arch.qwen2 import QWEN2
from ckptdiff.arch.qwen2_moe import QWEN2_MOE
from ckptdiff.arch.qwen3 import QWEN3
from ckptdiff.arch.qwen3_moe import QWEN3_MOE, QWEN3_VL_MOE
from ckptdiff.arch.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from ckptdiff.arch.seed_oss import SEED_OSS
from ckptdiff.arch.smollm3 import SMOLLM3
from ckptdiff.arch.templates import template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.arch.base import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    SEED_OSS,
    SMOLLM3,
    ERNIE4_5,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    DEEPSEEK,
    GPT2,
    NEMOTRON,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GPT_OSS,
    GLM4_MOE,
    OLMO2,
    EXAONE4,
    OLMOE,
    MINIMAX_M2,
    PHI3,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_VL_MOE,
    GPT_NEOX,
    NEMOTRON_H,
)


def find_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Return the family that a config.json names: by `architectures`, else by `model_type`."""
    classes = config.get("architectures")
    model_type = config.get("model_type")
    for architecture in ARCHITECTURES:
        if isinstance(classes, list) and any(c in architecture.architectures for c in classes):
            return architecture
    for architecture in ARCHITECTURES:
        if model_type in architecture.model_types:
            return architecture
    # A multimodal model is known by the language model inside it.
    text_config = config.get("text_config")
    return find_architecture(text_config) if isinstance(text_config, dict) else None


def guess_architecture(
    templates: set[str], *, wide_qk_norm: bool | None = None
) -> Architecture | None:
    """Return the family whose marks are all there and whose rules know most of these names.

    `templates` are Megatron's names: its args do not name a family. `wide_qk_norm` says whether the
    query and key norms span all heads together; None if that is not known. Families whose tensors
    are the same (Llama and Mistral) have the same layout, and the first of them is returned.
    """
    fitting = fitting_architectures(templates, wide_qk_norm=wide_qk_norm)
    return max(fitting, key=lambda family: len(family.marks), default=None)


def fitting_architectures(
    templates: set[str], *, wide_qk_norm: bool | None = None
) -> list[Architecture]:
    """Return the families of `guess_architecture` that know the most names, in the table's order.

    The table has the plainer family first: of two that compute the same, the first is meant.
    """
    found = []
    for architecture in ARCHITECTURES:
        if wide_qk_norm not in (None, architecture.wide_qk_norm):
            continue
        if all(template(mark) in templates for mark in architecture.marks):
            known = sum(architecture.rule_for(name) is not None for name in templates)
            found.append((known, architecture))
    most = max((known for known, _ in found), default=0)
    return [family for known, family in found if known == most > 0]
