"""How Megatron spells one parameter in its three naming schemes.

`mcore` is megatron-core's local layer spec, the spelling that the families' rules use. `te` is the
Transformer Engine spec, which fuses a norm into the linear layer behind it. `legacy` is the model
before megatron-core.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ckptdiff.arch.base import GATED_HALVES
from ckptdiff.arch.templates import MANY_NAMES, fill_template, split_name, template
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ckptdiff.arch.base import Architecture
    from ckptdiff.config.programs import Version

Names = Literal["mcore", "te", "legacy"]


@dataclass(frozen=True, slots=True)
class Spelling:
    """One parameter in each scheme; where `te` is None it is spelled like `mcore`."""

    mcore: str
    te: str | None = None
    legacy: tuple[str, ...] = ()  # the current spelling first, then older ones
    hybrid: str | None = None  # in models with Mamba layers, whatever the scheme
    newer: str | None = None  # in state dicts of newer releases, whatever the scheme


# The prefix of a layer's parameters: as the rules spell it, and other spellings. That of prediction
# layers is the newer releases'.
PREFIXES = {
    "decoder.layers.{layer}.": (
        "language_model.encoder.layers.{layer}.",
        "language_model.transformer.layers.{layer}.",
    ),
    "mtp.layers.{mtp}.transformer_layer.": ("mtp.layers.{mtp}.mtp_model_layer.",),
}

# Parameters of one layer, without the prefix.
LAYER = (
    *(
        Spelling(f"{norm}.{p}", f"{fused}.layer_norm_{p}", tuple(f"{old}.{p}" for old in legacy))
        for norm, fused, legacy in (
            (
                "input_layernorm",
                "self_attention.linear_qkv",
                ("input_norm", "input_layernorm"),
            ),
            (
                "pre_mlp_layernorm",
                "mlp.linear_fc1",
                ("post_attention_norm", "post_attention_layernorm"),
            ),
            ("self_attention.q_layernorm", "self_attention.linear_q_up_proj", ()),
            ("self_attention.kv_layernorm", "self_attention.linear_kv_up_proj", ()),
        )
        for p in ("weight", "bias")
    ),
    # Mamba and linear attention layers fuse the norm with another linear layer.
    Spelling("input_layernorm.weight", "self_attention.in_proj.layer_norm_weight"),
    Spelling("norm.weight", "mixer.in_proj.layer_norm_weight"),
    Spelling("mixer.conv1d.weight", newer="mixer.conv1d_weight"),
    Spelling("mixer.conv1d.bias", newer="mixer.conv1d_bias"),
    *(
        Spelling(f"{mcore}.{p}", legacy=(f"{legacy}.{p}",))
        for mcore, legacy in (
            ("self_attention.linear_qkv", "self_attention.query_key_value"),
            ("self_attention.linear_proj", "self_attention.dense"),
            ("mlp.linear_fc1", "mlp.dense_h_to_4h"),
            ("mlp.linear_fc2", "mlp.dense_4h_to_h"),
        )
        for p in ("weight", "bias")
    ),
    # SequentialMLP has layers for each expert, TEGroupedMLP one layer with numbered weights.
    *(
        Spelling(
            f"mlp.experts.local_experts.{{expert}}.{fc}.{p}", f"mlp.experts.{fc}.{p}{{expert}}"
        )
        for fc in ("linear_fc1", "linear_fc2")
        for p in ("weight", "bias")
    ),
    *(
        Spelling(
            f"mlp.experts.local_experts.{{expert}}.linear_fc1.weight{half}",
            f"mlp.experts.linear_fc1.weight{{expert}}{half}",
        )
        for half in GATED_HALVES
    ),
)

SPELLINGS = (
    Spelling(
        "embedding.word_embeddings.weight",
        legacy=("language_model.embedding.word_embeddings.weight",),
    ),
    Spelling(
        "embedding.position_embeddings.weight",
        legacy=("language_model.embedding.position_embeddings.weight",),
    ),
    *(
        Spelling(
            f"decoder.final_layernorm.{p}",
            hybrid=f"decoder.final_norm.{p}",
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
    for other in ((spelling.hybrid,) if spelling.hybrid else ()) + spelling.legacy
} | {
    template(front + other): template(prefix + spelling.mcore)
    for prefix, older in PREFIXES.items()
    for front in (prefix, *older)
    for spelling in LAYER
    for other in (spelling.mcore, spelling.te, spelling.newer, *spelling.legacy)
    if other
}

# For writing, by the template in local spelling: how a layer's parameter may be spelled for
# Transformer Engine, and how any parameter is in the legacy model.
_TE = [
    (template(prefix + spelling.mcore), template(prefix + spelling.te))
    for prefix in PREFIXES
    for spelling in LAYER
    if spelling.te
]
_LEGACY = {template(s.mcore): template(s.legacy[0]) for s in SPELLINGS if s.legacy} | {
    template(prefix + spelling.mcore): template(older[0] + spelling.legacy[0])
    for prefix, older in PREFIXES.items()
    if prefix.startswith("decoder.")
    for spelling in LAYER
    if spelling.legacy
}
_HYBRID = {template(s.mcore): template(s.hybrid) for s in SPELLINGS if s.hybrid}
# State dicts of these have the newer names. Distributed checkpoints keep the older ones: the
# sharded_state_dict of MultiTokenPredictionLayer and of MambaMixer maps them.
_NEWER_PROGRAMS: frozenset[Version] = frozenset({"0.19", "bridge"})
_NEWER = {
    template(prefix + spelling.mcore): template(prefix + spelling.newer)
    for prefix in PREFIXES
    for spelling in LAYER
    if spelling.newer
}
_NEWER_FRONTS = {
    template(prefix): template(newer[0])
    for prefix, newer in PREFIXES.items()
    if prefix.startswith("mtp.")
}
_MAMBA = template("decoder.layers.{layer}.mixer.in_proj.weight")
_ONLY_ENGINES = (
    _MAMBA,
    template("decoder.layers.{layer}.self_attention.in_proj.weight"),
    template("decoder.layers.{layer}.self_attention.linear_kv_up_proj.weight"),
)

DECODER_LAYER = template("decoder.layers.{layer}.")
PREDICTION_LAYER = template("mtp.layers.{mtp}.")
QUERY_NORM = template("decoder.layers.{layer}.self_attention.q_layernorm.weight")
KEY_NORM = template("decoder.layers.{layer}.self_attention.k_layernorm.weight")
_OUTPUT_LAYER = template("output_layer.weight")
_LOCAL_EXPERT = template(".local_experts.{expert}.")

_LOCAL_NORMS = (
    (".input_layernorm.", ".self_attention.linear_qkv.layer_norm_"),
    (".pre_mlp_layernorm.", ".mlp.linear_fc1.layer_norm_"),
)

_WRAPPERS = re.compile(r"^(?:module\.)+")
_FRONTS = tuple(
    (template(front), template(prefix)) for prefix, older in PREFIXES.items() for front in older
)
# A language model inside a larger one. Legacy names have `language_model.` too, but go on
# differently.
_MODELS = (
    ("language_model.decoder.", "decoder."),
    ("language_model.mtp.", "mtp."),
)


@lru_cache(maxsize=MANY_NAMES)
def split_native(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a native Megatron name as a template in local spelling, and its numbers in order.

    The `module.` that wrappers such as DistributedDataParallel put in front is left out.
    """
    name = _WRAPPERS.sub("", name)
    for prefix, ours in _MODELS:
        if name.startswith(prefix):
            name = ours + name[len(prefix) :]
    key, indices = split_name(name)
    if key not in _TO_MCORE:
        for front, prefix in _FRONTS:
            if key.startswith(front):
                key = prefix + key[len(front) :]
    return _TO_MCORE.get(key, key), indices


def spelled(
    name: str,
    names: Names,
    beside: Collection[str],
    *,
    grouped: bool = False,
    tied: bool = False,
    version: Version | None = None,
) -> str:
    """Return the name that the scheme `names` has for a name in local spelling.

    `beside` are the templates of its layer, or of the whole model for a tensor in no layer: a norm
    is fused into a linear layer only where there is one. `grouped` is for experts of TEGroupedMLP,
    `tied` for a head that copies the embedding. `version` is of the program whose state dict it is
    in, None for a distributed checkpoint. Raises UnsupportedLayout for a tensor that the legacy
    model does not have.
    """
    key, indices = split_name(name)
    if key in _HYBRID and is_hybrid(beside):
        return fill_template(_HYBRID[key], indices)
    if names == "legacy":
        if tied:
            return "word_embeddings_for_head.weight"
        if key not in _LEGACY:
            raise UnsupportedLayout(f"{name}: Megatron's legacy model has no such tensor")
        return fill_template(_LEGACY[key], indices)
    if names == "te":
        key = _fused(key, beside, grouped=grouped)
    if version in _NEWER_PROGRAMS:
        key = _NEWER.get(key, key)
        for front, newer in _NEWER_FRONTS.items():
            if key.startswith(front):
                key = newer + key[len(front) :]
    return fill_template(key, indices)


def _fused(key: str, beside: Collection[str], *, grouped: bool) -> str:
    """Return a template in Transformer Engine's spelling."""
    for mcore, te in _TE:
        host = f"{te.rpartition('.')[0]}.weight"
        if mcore == key and (grouped if ".experts." in te else host in beside):
            return te
    return key


def distributed(name: str, names: Names, beside: Collection[str], model: Collection[str]) -> str:
    """Return the name that a distributed checkpoint has for a name in local spelling.

    `beside` are the templates of its layer, `model` those of all. Both layer specs write the fused
    names of norms. The local spec does so whatever layer follows the norm:
    sharded_state_dict_keys_map in megatron.core's get_gpt_layer_local_spec. Models without one keep
    their names, as in ModelOpt's specs of local parts.
    """
    if names != "mcore":
        return spelled(name, names, beside)
    if has_local_spec(model):
        for norm, fused in _LOCAL_NORMS:
            name = name.replace(norm, fused)
    return name


def has_local_spec(model: Collection[str]) -> bool:
    """Return whether Megatron-LM builds a model with these templates of local parts too.

    Mamba layers and gated DeltaNet are in Transformer Engine's specs alone. Latent attention is in
    get_gpt_layer_local_spec, but gives its attention arguments that only Transformer Engine's takes
    (`k_channels` in multi_latent_attention, 0.14 to 0.19).
    """
    return not any(key in model for key in _ONLY_ENGINES)


def is_hybrid(beside: Collection[str]) -> bool:
    """Return whether a model with these templates has Mamba layers."""
    return _MAMBA in beside


def is_head(name: str) -> bool:
    """Return whether a native name is that of the output layer, in any scheme."""
    return split_native(name)[0].endswith(_OUTPUT_LAYER)


def is_of_local_expert(key: str) -> bool:
    """Return whether a template is of a routed expert, which each rank numbers from 0."""
    return _LOCAL_EXPERT in key


def in_decoder_layer(name: str) -> bool:
    """Return whether a native name is that of a tensor in a layer of the decoder."""
    return split_native(name)[0].startswith(DECODER_LAYER)


def layer_prefix(name: str) -> str:
    """Return `decoder.layers.3` for a name that begins so; an empty text for one of no layer."""
    words = name.split(".")
    return ".".join(words[:3]) if words[1:2] == ["layers"] else ""


def templates_of(architecture: Architecture) -> frozenset[str]:
    """Return the templates of all names that models of a family can have."""
    return frozenset(template(rule.megatron) for rule in architecture.mappings)


def templates_by_layer(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the templates of each layer's names by `layer_prefix`; those of all names under ""."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        key, _ = split_name(name)
        found[""].add(key)
        found[layer_prefix(name)].add(key)
    return {layer: frozenset(keys) for layer, keys in found.items()}


def are_fused(names: Iterable[str]) -> bool:
    """Return whether native names are Transformer Engine's, which fuse norms."""
    return any("layer_norm_weight" in name for name in names)


def are_grouped(names: Iterable[str]) -> bool:
    """Return whether native names are TEGroupedMLP's, which number the weights of one module."""
    return any(".experts.linear_fc1.weight0" in name for name in names)


def is_expert(name: str) -> bool:
    """Return whether a native name is a routed expert's; experts have an optimizer of their own."""
    return ".mlp.experts." in name


def is_buffer(name: str) -> bool:
    """Return whether a native name is a buffer's: saved with the weights, but never trained."""
    return name.endswith(("expert_bias", "local_tokens_per_expert", "inv_freq"))
