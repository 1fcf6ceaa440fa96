"""What the models of a family compute and Megatron's args have no field for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Peculiarity:
    """One such thing."""

    text: str  # a sentence without a full stop
    field: str | None = None  # the entry of config.json that decides on it
    off: Any = None  # the value of that entry without it
    is_shown: bool = True  # names of tensors show it

    def clause(self, config: Mapping[str, Any]) -> str | None:
        """Return the sentence, behind the entry's value; None if a config.json has it off."""
        if self.field is None or self.field not in config:
            return self.text
        value = config[self.field]
        return None if value == self.off else f"{self.field} is {value}: {self.text}"
