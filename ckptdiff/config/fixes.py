"""What mends a setting that conflicts: arguments of Megatron-LM, or entries of a config file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ckptdiff.config.programs import PROGRAMS
from ckptdiff.text import shell_line

if TYPE_CHECKING:
    from ckptdiff.config.programs import Version

    Words = tuple[str, ...]  # a flag, and its value if it has one


@dataclass(frozen=True, slots=True)
class FlagFix:
    """Arguments that B's Megatron-LM is to be given, and those that it is not."""

    given: tuple[Words, ...] = ()
    left_out: tuple[str, ...] = ()  # flags
    release: Version | None = None  # that has these flags; None: the default release has

    @property
    def program(self) -> str:
        """The program whose arguments they are."""
        return "Megatron-LM" if self.release is None else PROGRAMS[self.release]

    @property
    def arguments(self) -> str:
        """What is given, as on a command line."""
        return shell_line(word for words in self.given for word in words)

    @property
    def text(self) -> str:
        """The fix in words: `leave out --swiglu, --squared-relu`."""
        parts = [f"leave out {flag}" for flag in self.left_out]
        words = ", ".join([*parts, self.arguments] if self.given else parts)
        return words if self.release is None else f"{words} ({self.program})"


@dataclass(frozen=True, slots=True)
class EntryFix:
    """Entries of a config file, as they are written there."""

    entries: str  # of JSON or YAML: `"rope_theta": 10000.0`
    file: str  # its name
    letter: Literal["", "A", "B"] = ""  # whose file, if the text is to say so; "": B's

    @property
    def text(self) -> str:
        """The fix in words: `"rope_theta": 10000.0 in config.json`."""
        whose = f"{self.letter}'s " if self.letter else ""
        return f"{self.entries} in {whose}{self.file}"


Fix = FlagFix | EntryFix
