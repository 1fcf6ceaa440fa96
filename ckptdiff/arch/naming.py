"""How Megatron spells one parameter in its three naming schemes.

`mcore` is megatron-core's local layer spec, the spelling that the families' rules use. `te` is the
Transformer Engine spec, which fuses a norm into the linear layer behind it. `legacy` is the model
before megatron-core.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptdiff.arch.base import split_name, template


@dataclass(frozen=True, slots=True)
class Spelling:
    """One parameter in each scheme; where `te` or `legacy` is None it is spelled like `mcore`."""

    mcore: str
    te: str | None = None
    legacy: tuple[str, ...] = ()  # the current spelling first, then older ones


_LAYER = "decoder.layers.{layer}."
_ENCODER = ("language_model.encoder.layers.{layer}.", "language_model.transformer.layers.{layer}.")


def _layer(mcore: str, te: str | None = None, legacy: tuple[str, ...] = ()) -> Spelling:
    old = tuple(prefix + name for prefix in _ENCODER for name in legacy)
    return Spelling(_LAYER + mcore, None if te is None else _LAYER + te, old)


SPELLINGS = (
    Spelling(
        "embedding.word_embeddings.weight",
        legacy=("language_model.embedding.word_embeddings.weight",),
    ),
    *(
        _layer(
            f"input_layernorm.{p}",
            f"self_attention.linear_qkv.layer_norm_{p}",
            (f"input_norm.{p}", f"input_layernorm.{p}"),
        )
        for p in ("weight", "bias")
    ),
    *(
        _layer(
            f"pre_mlp_layernorm.{p}",
            f"mlp.linear_fc1.layer_norm_{p}",
            (f"post_attention_norm.{p}", f"post_attention_layernorm.{p}"),
        )
        for p in ("weight", "bias")
    ),
    *(
        _layer(f"{mcore}.{p}", legacy=(f"{legacy}.{p}",))
        for mcore, legacy in (
            ("self_attention.linear_qkv", "self_attention.query_key_value"),
            ("self_attention.linear_proj", "self_attention.dense"),
            ("mlp.linear_fc1", "mlp.dense_h_to_4h"),
            ("mlp.linear_fc2", "mlp.dense_4h_to_h"),
        )
        for p in ("weight", "bias")
    ),
    *(
        Spelling(
            f"decoder.final_layernorm.{p}",
            legacy=(
                f"language_model.encoder.final_norm.{p}",
                f"language_model.encoder.final_layernorm.{p}",
                f"language_model.transformer.final_layernorm.{p}",
            ),
        )
        for p in ("weight", "bias")
    ),
    Spelling(
        "output_layer.weight",
        legacy=("language_model.output_layer.weight", "word_embeddings_for_head.weight"),
    ),
)

_TO_MCORE = {
    template(other): template(spelling.mcore)
    for spelling in SPELLINGS
    for other in ((spelling.te,) if spelling.te else ()) + spelling.legacy
}


_WRAPPERS = re.compile(r"^(?:module\.)+")


def split_native(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a native Megatron name as a template in local spelling, and its numbers in order.

    `module.` in front, which wrappers such as DistributedDataParallel add, is left out.
    """
    key, indices = split_name(_WRAPPERS.sub("", name))
    return _TO_MCORE.get(key, key), indices
