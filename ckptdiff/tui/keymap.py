"""The keys that the user has put in the place of ours, and how keys are named in texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.keys import format_key

if TYPE_CHECKING:
    from collections.abc import Mapping

# Words in the place of Textual's symbols, which not every font has.
WORDS = {"escape": "esc", **{name: name for name in ("enter", "tab", "space")}}
ARROWS = ("up", "down", "left", "right")

_own: dict[str, str] = {}  # by binding; of this process, which runs one app


def use(keymap: Mapping[str, str]) -> None:
    """Name these keys from now on: for the ids of bindings their keys, separated by commas."""
    _own.clear()
    _own.update(keymap)


def key(binding: str, ours: str) -> str:
    """Return how texts name the key of a binding: `ours`, unless the user has chosen another."""
    own = _own.get(binding)
    return ours if own is None else shown(own.partition(",")[0], arrows=False)


def shown(name: str, *, arrows: bool = True) -> str:
    """Return Textual's name of a key as the screen shows it: `/` for slash, `esc`, `ctrl+d`."""
    modifiers, plus, last = name.rpartition("+")
    if last in WORDS or (last in ARROWS and not arrows):
        return modifiers + plus + WORDS.get(last, last)
    return modifiers + plus + format_key(last)
