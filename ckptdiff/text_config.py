"""The fields that count of a config.json whose model sees pictures as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def as_of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config.json with the fields of its `text_config`, if it has one, over its own.

    Only `tie_word_embeddings` counts where it stands outside: the class that holds both parts ties
    the head. And the mask is made by the inner class alone, so an outer `is_causal` is left out.
    """
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config
    outer = {name: value for name, value in config.items() if name != "is_causal"}
    tie = {name: value for name, value in config.items() if name == "tie_word_embeddings"}
    return {**outer, **inner, **tie}
