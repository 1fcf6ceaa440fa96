"""The config.json that Megatron's args were made from, carried in an arg of its own.

Megatron-LM reads the args of a checkpoint by name, ignores this one, and saves its own args: a
training run drops it. It holds what args cannot say, and is believed only while the args are still
those that it makes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ckptdiff.config.quantisation import without_quantisation

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "hf_config"
_LONGEST = 100_000  # characters
_DEEPEST = 12  # objects and lists inside each other
# Of the run that wrote it; and code to load, which no family that there are rules for needs.
_LEFT_OUT = ("_name_or_path", "transformers_version", "auto_map", "custom_pipelines")


def carried_text(config: Mapping[str, Any]) -> str | None:
    """Return a config.json as one line; None for one of a larger model, or one that is too long."""
    if isinstance(config.get("text_config"), dict):
        return None  # its class has parts that a Megatron checkpoint lacks
    plain, _ = without_quantisation(config)
    text = json.dumps({name: v for name, v in plain.items() if name not in _LEFT_OUT})
    return text if len(text) <= _LONGEST else None


def carried_config(args: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config.json in args; None if there is none."""
    text = args.get(NAME)
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("vocab_size")) is not int:
        return None
    if not _is_flat(found, _DEEPEST):
        return None
    return {name: value for name, value in found.items() if name not in _LEFT_OUT}


def _is_flat(value: Any, levels: int) -> bool:
    """Return whether a value has no more levels of objects and lists."""
    if not isinstance(value, (dict, list)):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inside)
