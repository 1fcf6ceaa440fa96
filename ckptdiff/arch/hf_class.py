"""What Hugging Face calls a model and its parts: classes of transformers, beginnings of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# How a language model inside a larger one (with a vision tower, say) begins its names, and how the
# rules begin them.
LANGUAGE_PARTS = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)


@dataclass(frozen=True, slots=True)
class HfClass:
    """A class of transformers: the `architectures` and `model_type` of its config.json."""

    architecture: str
    model_type: str
    unless: tuple[str, object] | None = None  # a field, and its value in a model of another class

    def fits(self, config: Mapping[str, object]) -> bool:
        """Return whether a model with this config.json is of the class."""
        return self.unless is None or config.get(self.unless[0]) != self.unless[1]
