"""Where a config.json states its rotary embeddings: the objects of transformers 4 and 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD = "rope_scaling"  # of transformers 4, beside `rope_theta`
NEW = "rope_parameters"  # of transformers 5, with the base inside
# Of models whose windowed layers have another base: the object of the other layers.
FULL = "full_attention"
# Of a class that scales if config.json has neither object (GptOssConfig of transformers 5).
_OF_CLASS: Mapping[str, Mapping[str, Any]] = {
    "gpt_oss": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}


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


def with_class_scaling(config: Mapping[str, Any], family: str | None) -> Mapping[str, Any]:
    """Return a config.json with the scaling of its family's class where it says none itself."""
    by_class = _OF_CLASS.get(family or "")
    if by_class is None or config.get(OLD) or config.get(NEW) is not None:
        return config
    return {**config, NEW: by_class}


def unscaled(family: str | None) -> dict[str, Any] | None:
    """Return the `rope_scaling` with which a family's class does not scale."""
    return {"rope_type": "default"} if family in _OF_CLASS else None
