"""Read config.json for the forward pass; an absent field has the default of transformers' class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import as_of_text
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward.hf_config import dense, experts, hybrids
from ckptdiff.forward.hf_config.base import llama

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.forward.hf_config.base import Config
    from ckptdiff.forward.model import Model

# By `model_type`.
FAMILIES: dict[str, Callable[[Config], Model]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "seed_oss"), llama),
    "mixtral": experts.mixtral,
    "qwen2_moe": experts.qwen2_moe,
    "qwen3_moe": experts.qwen3_moe,
    "olmoe": experts.olmoe,
    "deepseek_v2": experts.deepseek_v2,
    "deepseek_v3": experts.deepseek,
    "gpt_oss": experts.gpt_oss,
    "glm4_moe": experts.glm4_moe,
    "glm4_moe_lite": experts.glm4_moe_lite,
    "gemma": dense.gemma,
    "gemma2": dense.gemma2,
    "gemma3_text": dense.gemma3,
    "gpt2": dense.gpt2,
    "gpt_neox": dense.gpt_neox,
    "nemotron": dense.nemotron,
    "olmo2": dense.olmo2,
    "olmo3": dense.olmo3,
    "exaone4": dense.exaone4,
    "phi3": dense.phi3,
    "smollm3": dense.smollm3,
    "qwen3_next": hybrids.qwen3_next,
    "qwen3_5_text": hybrids.qwen3_5,
    "qwen3_5_moe_text": hybrids.qwen3_5_moe,
    "nemotron_h": hybrids.nemotron_h,
}

# Models that see pictures as well, by `model_type`: their text is computed by the model of their
# `text_config`.
WITH_PICTURES = ("gemma3", "qwen3_5", "qwen3_5_moe")


def read(config: Config) -> Model:
    """Return the model that transformers builds from a config.json.

    Raises UnsupportedLayout for a family or a setting that is not computed, UnknownConfig if a size
    is missing or makes no sense.
    """
    if config.get("model_type") in WITH_PICTURES and isinstance(config.get("text_config"), dict):
        model = read({**as_of_text(config), "text_config": None})
        note = "logits are of text alone: the part that sees pictures is not computed"
        return replace(model, notes=(*model.notes, note))
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UnsupportedLayout(
            f"logits of a {family} model are not yet possible: `ckptdiff help logits` lists those "
            "that are"
        )
    model = FAMILIES[family](config)
    code = config.get("auto_map")
    return _with_code(model, code) if isinstance(code, dict) and code else model


def _with_code(model: Model, code: Config) -> Model:
    """Return the model with a word on the code beside it, run where such code is trusted.

    Code of a class that transformers has by the same name is what that class was made from.
    """
    named = str(code.get("AutoModelForCausalLM", ", ".join(map(str, code.values()))))
    _, _, name = named.rpartition(".")
    if name.lower() == f"{model.family.replace('_', '')}forcausallm":
        note = f"auto_map names {named}: what is computed is transformers' own class of that name"
        return replace(model, notes=(*model.notes, note))
    said = f"auto_map names code of its own, {named}"
    return replace(model, not_computed=(*model.not_computed, said))
