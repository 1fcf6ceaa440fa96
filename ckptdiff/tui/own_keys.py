"""Check the keys of the settings file against every binding, before Textual puts them in place."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys, key_to_character
from textual.widgets import Input

import ckptdiff.tui
from ckptdiff.text import printable
from ckptdiff.tui.keymap import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the ids of each screen's bindings begin with, and those of the widgets that take the focus.
SCREENS: dict[str, tuple[str, ...]] = {
    "tensors": ("list", "filter"),
    "detail": ("pane", "heat"),
    "entries": ("list", "filter"),
    "config": ("list",),
    "findings": (),
    "logits": ("taps", "next", "pane", "prompt", "choice"),
    "scores": ("list", "pane", "tasks", "choice"),
    "item": ("list", "pane"),
    "values": ("element",),
    "guide": (),
    "open": ("path",),
    "convert": ("choice", "path"),
    "conversion": (),
    "browse": (),
    "help": (),
    "ask": (),
    "report": ("path",),
}
EVERYWHERE = ("app", "screen")
# Terminals send them as Enter, Tab, Backspace and Esc.
INDISTINCT = {"ctrl+m", "ctrl+i", "ctrl+h", "ctrl+left_square_bracket"}
NAMED = {member.value for member in Keys}


@dataclass(frozen=True, slots=True)
class Known:
    """A binding of ours: the class that has it, and its keys."""

    owner: type[DOMNode]
    keys: frozenset[str]


@cache
def known_bindings() -> dict[str, Known]:
    """Return every binding by its id. Imports every screen."""
    found: dict[str, Known] = {}
    for module in pkgutil.walk_packages(ckptdiff.tui.__path__, "ckptdiff.tui."):
        for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(each, DOMNode) and each.__module__ == module.name:
                for binding in each.__dict__.get("BINDINGS", ()):
                    if isinstance(binding, Binding) and binding.id is not None:
                        known = Known(each, frozenset(binding.key.split(",")))
                        found.setdefault(binding.id, known)
    return found


def usable(wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the keymap for Textual, and for each entry that is left out a sentence why.

    What is left out keeps its own keys.
    """
    bindings = known_bindings()
    taken: dict[str, tuple[str, ...]] = {}
    troubles = []
    for name, keys in wanted.items():
        trouble = _no_binding(name) or _no_key(name, keys)
        if trouble:
            troubles.append(trouble)
        else:
            taken[name] = _normal(keys)
    while collision := _first_collision(taken):
        name, other, key = collision
        del taken[name]
        troubles.append(
            f"Keys: {shown(key)} is {other} already where {name} works, so {name} keeps "
            f"{_ours(name)}."
        )
    keymap = {name: ",".join(keys) for name, keys in taken.items()}
    # Textual drops what else has a key of a binding that is moved; naming it keeps it.
    for name in taken:
        for other in bindings:
            if other not in keymap and _share_a_key(name, other):
                keymap[other] = ",".join(sorted(bindings[other].keys))
    return keymap, troubles


def _no_binding(name: str) -> str:
    """Return a sentence if there is no such binding."""
    if name in known_bindings():
        return ""
    near = get_close_matches(name, known_bindings(), n=1)
    hint = f" Perhaps {near[0]}?" if near else " The guide's page keys lists all."
    return f"Keys: nothing is called {printable(name)}.{hint}"


def _no_key(name: str, keys: str) -> str:
    """Return a sentence if one of the keys cannot be pressed, or would be typed into a field."""
    for key in _normal(keys):
        character = key_to_character(key)
        if key in INDISTINCT:
            why = f"no terminal sends {key} as a key of its own"
        elif not key or (key not in NAMED and character is None):
            why = f"no key is called {printable(key) or 'nothing'}"
        elif character is not None and issubclass(known_bindings()[name].owner, Input):
            why = f"{printable(character)} would be typed into the field"
        else:
            continue
        return f"Keys: {why}, so {name} keeps {_ours(name)}."
    return ""


def _normal(keys: str) -> tuple[str, ...]:
    """Return Textual's names of keys that are separated by commas."""
    from textual.keys import _character_to_key

    names = [name.strip() for name in keys.split(",")]
    return tuple(_character_to_key(name) if len(name) == 1 else name for name in names)


def _ours(name: str) -> str:
    return " ".join(sorted(map(shown, known_bindings()[name].keys)))


def _first_collision(taken: Mapping[str, tuple[str, ...]]) -> tuple[str, str, str] | None:
    """Return a moved binding, one with which it would share a key, and the key; the last moved."""
    bindings = known_bindings()
    keys = {name: taken.get(name, known.keys) for name, known in bindings.items()}
    moved = list(taken)
    for name in reversed(moved):
        for other in bindings:
            if other == name or not _meet(name, other):
                continue
            # What shares a key by itself is never both at once.
            usual = bindings[name].keys & bindings[other].keys
            shared = [key for key in keys[name] if key in keys[other] and key not in usual]
            if shared:
                return name, other, shared[0]
    return None


def _meet(name: str, other: str) -> bool:
    """Return whether two bindings can be in use at once."""
    one, two = name.partition(".")[0], other.partition(".")[0]
    if one == two or one in EVERYWHERE or two in EVERYWHERE:
        return True
    return two in SCREENS.get(one, ()) or one in SCREENS.get(two, ())


def _share_a_key(name: str, other: str) -> bool:
    """Return whether one node has both bindings, on one key."""
    one, two = known_bindings()[name], known_bindings()[other]
    related = issubclass(one.owner, two.owner) or issubclass(two.owner, one.owner)
    return name != other and related and bool(one.keys & two.keys)
