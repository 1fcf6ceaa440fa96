"""Sides that are nothing but settings, and the fields of theirs that decide what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from families import MODELS, SIZES

from ckptdiff import config as configs
from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.assemble import Assembled
from ckptdiff.restate import huggingface_config, megatron_args
from ckptdiff.tensors import Checkpoint, Parallelism

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptdiff.arch.base import Architecture

# Model type to transformers' class, where it is not the first of the family.
CLASSES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
}
GPT2_SIZES = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}


def family_of(name: str) -> Architecture:
    return next(family for family in ARCHITECTURES if family.name == name)


def tiny_config(model_type: str) -> dict[str, Any]:
    """Return the least that a config.json of this model type says."""
    name, differing = MODELS[model_type]
    architectures = [CLASSES.get(model_type, family_of(name).architectures[0])]
    if model_type == "gpt2":
        return {
            "architectures": architectures,
            "model_type": "gpt2",
            **GPT2_SIZES,
            "vocab_size": 64,
        }
    return {
        "architectures": architectures,
        "model_type": model_type,
        **SIZES,
        "rope_theta": 12345.0,
        **differing,
    }


def hf_side(config: dict[str, Any], tensors: Collection[str] = ()) -> Assembled:
    family = find_architecture(config)
    assert family is not None
    sizes = configs.from_huggingface(config, tied_by_default=family.tied_by_default)
    opened = Checkpoint(Path("/hf"), "hf", config, Parallelism(), (), ())
    recipes: Any = dict.fromkeys(tensors)
    return Assembled(opened, family, sizes, recipes, (), {})


def megatron_side(
    args: dict[str, Any], family: Architecture, tensors: Collection[str] = ()
) -> Assembled:
    opened = Checkpoint(Path("/megatron"), "megatron", args, Parallelism(), (), ())
    recipes: Any = dict.fromkeys(tensors)
    return Assembled(opened, family, configs.from_megatron(args), recipes, (), {})


def to_args(
    source: Assembled, parallelism: Parallelism | None = None, **given: Any
) -> tuple[dict[str, Any], list[str]]:
    wanted: dict[str, Any] = {
        "names": "mcore",
        "dtype": "bf16",
        "ckpt_format": "torch",
        "padded_vocab_size": source.config.vocab_size if source.config else 0,
        **given,
    }
    args, notes = megatron_args(source, parallelism or Parallelism(), **wanted)
    return vars(args), notes


def there_and_back(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a config.json that went through Megatron's args, and what was said on the way."""
    source = hf_side(config)
    args, notes = to_args(source)
    assert source.architecture is not None
    back, more = huggingface_config(megatron_side(args, source.architecture), dtype="bf16")
    return back, notes + more
