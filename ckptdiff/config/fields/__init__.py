"""The table of meanings: what config.json and Megatron's args call differently, line by line."""

from __future__ import annotations

from ckptdiff.config.fields.base import Kind, Meaning, Reading, Side, show
from ckptdiff.config.fields.dense import DENSE
from ckptdiff.config.fields.experts import EXPERTS
from ckptdiff.config.fields.hybrid import HYBRID
from ckptdiff.config.fields.latent import LATENT
from ckptdiff.config.fields.layers import LAYERS
from ckptdiff.config.fields.params import params_in_hf_words
from ckptdiff.config.fields.positions import POSITIONS
from ckptdiff.config.fields.rope import ROPE

__all__ = ["MEANINGS", "Kind", "Meaning", "Reading", "Side", "params_in_hf_words", "show"]

MEANINGS: tuple[Meaning, ...] = (*DENSE, *LAYERS, *POSITIONS, *ROPE, *LATENT, *EXPERTS, *HYBRID)
