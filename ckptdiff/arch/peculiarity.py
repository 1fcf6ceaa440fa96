"""What the models of a family compute and Megatron's args have no field for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peculiarity:
    """One such thing."""

    text: str  # a sentence without a full stop
    is_shown: bool = True  # names of tensors show it
