"""Sides that are nothing but settings, and the fields of theirs that decide what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.assembly.recipe import Assembled, Assembly
from ckptdiff.checkpoint import Checkpoint, Parallelism
from ckptdiff.config import model as configs
from ckptdiff.config.huggingface_config import huggingface_config
from ckptdiff.config.megatron_args import megatron_args
from tests.support.families import MODELS, SIZES

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
    config = {
        "architectures": architectures,
        "model_type": model_type,
        **SIZES,
        "rotary_emb_base" if model_type == "gpt_neox" else "rope_theta": 12345.0,
        **differing,
    }
    if "kv_lora_rank" in config:
        config |= {"num_key_value_heads": config["num_attention_heads"], "rms_norm_eps": 1e-6}
        del config["head_dim"]
    if "n_routed_experts" in config and model_type != "nemotron_h":
        config |= {"num_nextn_predict_layers": 0, "routed_scaling_factor": 1.5}
    return config


def hf_side(config: dict[str, Any], tensors: Collection[str] = ()) -> Assembled:
    family = find_architecture(config)
    assert family is not None
    sizes = configs.from_huggingface(config, tied_by_default=family.tied_by_default)
    opened = Checkpoint(Path("/hf"), "hf", "hf", config, Parallelism(), (), ())
    recipes = {name: Assembly(name, (), "BF16", ()) for name in tensors}
    return Assembled(opened, family, sizes, recipes, (), {})


def megatron_side(
    args: dict[str, Any], family: Architecture, tensors: Collection[str] = ()
) -> Assembled:
    opened = Checkpoint(Path("/megatron"), "megatron", "megatron", args, Parallelism(), (), ())
    recipes = {name: Assembly(name, (), "BF16", ()) for name in tensors}
    return Assembled(opened, family, configs.from_megatron(args), recipes, (), {})


def to_args(
    source: Assembled, parallelism: Parallelism | None = None, **given: Any
) -> tuple[dict[str, Any], list[str]]:
    wanted: dict[str, Any] = {
        "names": "mcore",
        "dtype": "BF16",
        "ckpt_format": "torch",
        "padded_vocab_size": source.config.vocab_size if source.config else 0,
        **given,
    }
    restated = megatron_args(source, parallelism or Parallelism(), **wanted)
    return vars(restated.settings), restated.notes + restated.cannot


def to_config(source: Assembled, dtype: str = "BF16") -> tuple[dict[str, Any], list[str]]:
    restated = huggingface_config(source, dtype=dtype)
    return restated.settings, restated.notes + restated.cannot


def there_and_back(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a config.json that went through Megatron's args, and what was said on the way."""
    source = hf_side(config)
    args, notes = to_args(source)
    assert source.architecture is not None
    back, more = to_config(megatron_side(args, source.architecture))
    return back, notes + more


# Model types whose config.json comes back under another: args do not tell them apart.
SIBLINGS = {"glm4_moe_lite": "deepseek_v3", "olmo3": "olmo2"}
SIZES_OF = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "hidden_act"),
    *("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "rope_theta", "tie_word_embeddings"),
    *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "n_shared_experts", "shared_expert_intermediate_size"),
    *("first_k_dense_replace", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"),
    *("n_group", "topk_group", "topk_method", "scoring_func", "routed_scaling_factor"),
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("sliding_window", "use_sliding_window", "attention_bias", "mlp_bias", "rope_interleave"),
    *("partial_rotary_factor", "activation_function", "n_embd", "n_layer", "n_head", "n_positions"),
    *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "model_type"),
    *("linear_value_head_dim", "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size"),
    *("layers_block_type", "moe_latent_size", "moe_shared_expert_intermediate_size", "use_qk_norm"),
)


def lost_on_the_way(config: dict[str, Any], back: dict[str, Any]) -> dict[str, Any]:
    stated = [name for name in SIZES_OF if name in config and config[name] is not None]
    return {n: (config[n], back.get(n)) for n in stated if back.get(n) != config[n]}


def without_effect(config: dict[str, Any]) -> set[str]:
    """Return fields that are there and change nothing in this model."""
    found = set()
    if not config.get("use_sliding_window", True):
        found.add("sliding_window")
    if "kv_lora_rank" in config:  # has neither head size nor groups of its own
        found |= {"head_dim", "num_key_value_heads"}
    if config["model_type"] == "nemotron_h":  # layer by layer in its list
        found |= {"num_hidden_layers", "rope_theta", "first_k_dense_replace", "n_shared_experts"}
    if config["model_type"] == "gpt_neox":  # where it has another name
        found |= {"rope_theta", "head_dim", "num_key_value_heads"}
    if config["model_type"] in SIBLINGS:
        found.add("model_type")
    return found
