"""The table of meanings: what config.json and Megatron's args call differently, line by line."""

from __future__ import annotations

from ckptdiff.meanings.base import Meaning, Reading, Side, show
from ckptdiff.meanings.dense import DENSE
from ckptdiff.meanings.experts import EXPERTS
from ckptdiff.meanings.latent import LATENT
from ckptdiff.meanings.positions import POSITIONS
from ckptdiff.meanings.rope import ROPE

__all__ = ["MEANINGS", "Meaning", "Reading", "Side", "show"]

MEANINGS: tuple[Meaning, ...] = (*DENSE, *POSITIONS, *ROPE, *LATENT, *EXPERTS)
