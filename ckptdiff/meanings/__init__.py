"""The table of meanings: what config.json and Megatron's args call differently, line by line."""

from __future__ import annotations

from ckptdiff.meanings.base import Kind, Meaning, Reading, Side, show
from ckptdiff.meanings.dense import DENSE
from ckptdiff.meanings.experts import EXPERTS
from ckptdiff.meanings.hybrid import HYBRID
from ckptdiff.meanings.latent import LATENT
from ckptdiff.meanings.layers import LAYERS
from ckptdiff.meanings.params import params_in_hf_words
from ckptdiff.meanings.positions import POSITIONS
from ckptdiff.meanings.rope import ROPE

__all__ = ["MEANINGS", "Kind", "Meaning", "Reading", "Side", "params_in_hf_words", "show"]

MEANINGS: tuple[Meaning, ...] = (*DENSE, *LAYERS, *POSITIONS, *ROPE, *LATENT, *EXPERTS, *HYBRID)
