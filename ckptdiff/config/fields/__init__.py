"""The table of config fields, which config.json and Megatron's args name differently."""

from __future__ import annotations

from ckptdiff.config.fields.base import ConfigField, ConfigSide, Kind, Stated, show
from ckptdiff.config.fields.class_only import CLASS_ONLY
from ckptdiff.config.fields.dense import DENSE
from ckptdiff.config.fields.experts import EXPERTS
from ckptdiff.config.fields.hybrid import HYBRID
from ckptdiff.config.fields.latent import LATENT
from ckptdiff.config.fields.layers import LAYERS
from ckptdiff.config.fields.params import params_in_hf_words
from ckptdiff.config.fields.positions import POSITIONS
from ckptdiff.config.fields.rope import ROPE
from ckptdiff.config.fields.tokens import TOKENS
from ckptdiff.config.fields.training import TRAINING

__all__ = [
    "FIELDS",
    "TOKENS",
    "TRAINING",
    "ConfigField",
    "ConfigSide",
    "Kind",
    "Stated",
    "params_in_hf_words",
    "show",
]

FIELDS: tuple[ConfigField, ...] = (
    *(*DENSE, *LAYERS, *POSITIONS, *ROPE, *LATENT, *EXPERTS, *HYBRID),
    *CLASS_ONLY,
)
