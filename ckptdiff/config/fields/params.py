"""Meta's params.json, translated to the fields of config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.config.model import ModelConfig

# `use_scaled_rope` of params.json is only on or off; these are the constants of Meta's code
# (meta-llama/llama-models, models/llama3/model.py, apply_scaling).
SCALED: dict[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SMALL = 4096  # hidden size below which a model is one of Llama 3.2's, scaled by 32; others by 8


def assumed_factor(hidden_size: int) -> float:
    """Return the factor of RoPE scaling of a Llama of this size, if params.json states none.

    Source: transformers' convert_llama_weights_to_hf.
    """
    return 32.0 if hidden_size < SMALL else 8.0


def params_in_hf_words(params: Mapping[str, Any], config: ModelConfig | None) -> dict[str, Any]:
    """Return the config.json of a Llama; `config` has the sizes that only the tensors show."""
    if config is None:
        return {}
    scaling = dict(SCALED) if config.rope_is_scaled else None
    if scaling is not None and params.get("rope_scaling_factor") is not None:
        scaling["factor"] = params["rope_scaling_factor"]
    words = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_query_groups,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": config.rotary_base,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": config.vocab_size,
    }
    if params.get("sliding_window"):
        words |= {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": params["sliding_window"],
        }
    return words
