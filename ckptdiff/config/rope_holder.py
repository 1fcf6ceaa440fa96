"""Where a config.json states its rotary embeddings: the objects of transformers 4 and 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD = "rope_scaling"  # of transformers 4, beside `rope_theta`
NEW = "rope_parameters"  # of transformers 5, with the base inside
# Of models whose windowed layers have another base: the object of the other layers.
FULL = "full_attention"


def holder_name(config: Mapping[str, Any]) -> str:
    """Return the path of the object that transformers 5 reads.

    That is `rope_scaling` if it says anything, and then nothing of `rope_parameters` is read.
    Source: RotaryEmbeddingConfigMixin.convert_rope_params_to_dict of transformers 5.
    """
    new = config.get(NEW)
    if (isinstance(config.get(OLD), dict) and config[OLD]) or not isinstance(new, dict):
        return OLD
    return f"{NEW}.{FULL}" if isinstance(new.get(FULL), dict) else NEW


def held(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object that transformers 5 reads; empty if there is none."""
    value: Any = config
    for part in holder_name(config).split("."):
        value = value.get(part)
    return value if isinstance(value, dict) else {}
