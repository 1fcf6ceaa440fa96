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
_OF_THE_RUN = ("_name_or_path", "transformers_version")


def carried_text(config: Mapping[str, Any]) -> str | None:
    """Return a config.json as one line; None for one of a larger model, or one that is too long."""
    if isinstance(config.get("text_config"), dict):
        return None  # its class has parts that a Megatron checkpoint lacks
    plain, _ = without_quantisation(config)
    text = json.dumps({name: v for name, v in plain.items() if name not in _OF_THE_RUN})
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
    has_rows = isinstance(found, dict) and type(found.get("vocab_size")) is int
    return found if has_rows else None
