"""The sizes of a tensor that a config promises, beside that along which ranks split it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.config.model import ModelConfig

    Size = Callable[[ModelConfig, Architecture], int]


def _hidden(c: ModelConfig, _family: Architecture) -> int:
    return c.hidden_size


def _experts(c: ModelConfig, _family: Architecture) -> int:
    return c.num_experts


def _query_norm(c: ModelConfig, family: Architecture) -> int:
    if c.kv_lora_rank:
        return c.q_lora_rank or 0
    return c.kv_channels * (c.num_attention_heads if family.wide_qk_norm else 1)


def _key_norm(c: ModelConfig, family: Architecture) -> int:
    return c.kv_channels * (c.num_query_groups if family.wide_qk_norm else 1)


# By how Megatron's name ends, the first that fits: a size for each dimension of a weight (out, in)
# that the config gives; None where it gives none, or the rule's own partition does.
_SIZES: tuple[tuple[str, tuple[Size | None, ...]], ...] = (
    (r"q_layernorm\.weight", (_query_norm,)),
    (r"k_layernorm\.weight", (_key_norm,)),
    (r"kv_layernorm\.weight", (lambda c, _family: c.kv_lora_rank,)),
    (r"out_norm\.weight", (lambda c, _family: c.linear_value_head_dim,)),
    (r"mixer\.norm\.weight", ()),
    (r"\w*norm\.(weight|bias)", (_hidden,)),
    (r"word_embeddings\.weight|output_layer\.weight", (None, _hidden)),
    (r"position_embeddings\.weight", (None, _hidden)),
    (r"router\.weight", (_experts, _hidden)),
    (r"router\.(expert_)?bias", (_experts,)),
    (r"shared_experts\.gate_weight", (lambda _c, _family: 1, _hidden)),
    (r"linear_q_up_proj\.weight", (None, lambda c, _family: c.q_lora_rank or 0)),
    (r"linear_kv_up_proj\.weight", (None, lambda c, _family: c.kv_lora_rank)),
    (r"(linear_qkv|linear_q_proj|linear_q_down_proj|linear_kv_down_proj)\.weight", (None, _hidden)),
    (r"(self_attention|mixer)\.in_proj\.weight", (None, _hidden)),
    (r"eh_proj\.weight", (None, lambda c, _family: 2 * c.hidden_size)),
    (r"linear_fc1\.weight(_w|_v)?", (None, _hidden)),
    (r"(linear_proj|linear_fc2|out_proj)\.(weight|bias)", (_hidden,)),
)
_RULED = tuple((re.compile(rf"(.*\.)?({ending})"), sizes) for ending, sizes in _SIZES)
# A tower beside the language model has sizes of its own.
_OF_LANGUAGE = re.compile(r"(embedding|decoder|mtp|output_layer)\..*")
# What the words of a family's names alone do not tell: each head by itself, or all together.
_BY_WORDS = re.compile(r".*\.[qk]_layernorm\.weight")


def promised_sizes(
    architecture: Architecture, rule: ParamMapping, config: ModelConfig
) -> dict[int, int]:
    """Return the sizes that the config gives for a rule's tensor, by dimension of (out, in).

    A dimension whose size is not certain is left out.
    """
    name = rule.megatron
    if not _OF_LANGUAGE.fullmatch(name):
        return {}
    if architecture.by_words and _BY_WORDS.fullmatch(name):
        return {}
    found: dict[int, int] = {}
    for pattern, sizes in _RULED:
        if pattern.fullmatch(name):
            for dim, size in enumerate(sizes):
                value = size(config, architecture) if size is not None else 0
                if value > 0 and dim != rule.dim:
                    found[dim] = value
            break
    return found
