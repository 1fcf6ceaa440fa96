"""Fields that may stand in a config.json though the model's class in transformers reads others.

Tools that write a config.json leave fields of other models in it. Source: what the configuration
and modeling files of transformers 5 name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.rope_holder import with_class_scaling

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_DENSE = (
    *("llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "nemotron", "phi3"),
    *("gemma", "gemma2", "gemma3", "olmo2", "exaone4", "seed_oss", "smollm3", "ernie4_5"),
)
_WITH_EXPERTS = (
    *("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_vl_moe", "olmoe", "gpt_oss", "glm4_moe"),
    *("deepseek", "nemotron_h", "qwen3_next", "qwen3_5_moe", "minimax_m2"),
)
_ALL = (*_DENSE, "qwen3_5", *_WITH_EXPERTS)
# Fields, and the families whose classes do not read them.
_UNREAD: tuple[tuple[tuple[str, ...], Collection[str]], ...] = (
    (
        (
            *("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"),
            *("n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace"),
            *("decoder_sparse_step", "mlp_only_layers"),
        ),
        _DENSE,
    ),
    (("kv_lora_rank", "q_lora_rank"), set(_ALL) - {"deepseek"}),
    (
        ("sliding_window", "use_sliding_window", "layer_types"),
        (
            *("llama", "gpt2", "gpt_neox", "nemotron", "gemma", "glm4_moe", "deepseek"),
            *("seed_oss", "minimax_m2", "ernie4_5"),
        ),
    ),
    (("layer_types",), ("mixtral", "phi3", "qwen3_moe")),
    (("num_key_value_heads", "head_dim"), ("gpt2", "gpt_neox")),
    (("intermediate_size", "hidden_act"), ("gpt2",)),
    (("hidden_activation",), ("gpt2", "gemma")),
    (("scale_attn_weights", "scale_attn_by_inverse_layer_idx"), set(_ALL) - {"gpt2"}),
    (("attention_multiplier",), _ALL),
)


_FIELDS = {
    name: frozenset(field for fields, families in _UNREAD if name in families for field in fields)
    for name in _ALL
}


def as_read(fields: Mapping[str, Any], family: str | None) -> Mapping[str, Any]:
    """Return the fields of a config.json that the family's class reads, its scaling among them."""
    fields = with_class_scaling(fields, family)
    unread = _FIELDS.get(family or "", frozenset())
    if unread.isdisjoint(fields):
        return fields
    return {name: value for name, value in fields.items() if name not in unread}
