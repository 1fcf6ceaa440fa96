"""Names with numbers in them: `model.layers.3.mlp` as a template and its numbers, and back."""

from __future__ import annotations

import re
import sys
from functools import lru_cache

MANY_NAMES = 1 << 17  # size of a cache of names: more than the largest models have

# A number in a name is a whole dotted part, or an expert's number at the end (`fc1.weight0`, and
# `fc1.weight0_w` where FSDP halves it). It is below a billion and has no leading zero: `01` is part
# of the name.
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_INDEX = re.compile(_NUMBER)
_EXPERT_INDEX = re.compile(rf"(fc\d\.(?:weight|bias)){_NUMBER}(_[wv])?$")
_FIELD = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=MANY_NAMES)
def split_name(name: str) -> tuple[str, tuple[int, ...]]:
    """Return a name with each layer and expert number as `#`, and the numbers in order."""
    indices = []
    parts = name.split(".")
    for at, part in enumerate(parts):
        if at and part.isdecimal() and _INDEX.fullmatch(part):
            indices.append(int(part))
            parts[at] = "#"
    key = ".".join(parts)
    may_end = key[-1:].isdecimal() or key.endswith(("_w", "_v"))
    if may_end and (expert := _EXPERT_INDEX.search(key)):
        indices.append(int(expert[2]))
        key = f"{key[: expert.start(2)]}#{expert[3] or ''}"
    return sys.intern(key), tuple(indices)


def shown(pattern: str) -> str:
    """Return a pattern as it is shown, with `*` for the numbers of layers and experts."""
    return template(pattern).replace("#", "*")


def fill_name(pattern: str, indices: tuple[int, ...]) -> str:
    """Return a pattern with its fields filled in order; fields beyond the numbers become 0."""
    fields, text = _fields(pattern)
    return text.format(*indices, *(0,) * (fields - len(indices)))


@lru_cache(maxsize=1000)
def _fields(pattern: str) -> tuple[int, str]:
    """Return how many fields a pattern has, and the pattern with nameless fields: `{}`."""
    return len(_FIELD.findall(pattern)), _FIELD.sub("{}", pattern)


def fill_template(key: str, indices: tuple[int, ...]) -> str:
    """Return the name that `split_name` splits into the template `key` and these numbers."""
    numbers = iter(indices)
    return re.sub("#", lambda _: str(next(numbers)), key)


def template(pattern: str) -> str:
    """Return a pattern with each field as `#`, as `split_name` returns the names that match it."""
    return _FIELD.sub("#", pattern)
