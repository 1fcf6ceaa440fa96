"""What a config.json says about how its weights are quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = ("quantization_config", "quantization")  # the second is MLX's
DEFAULT_BLOCK = (128, 128)  # rows and columns that share a factor of fp8, if none are stated


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What a config says about quantisation."""

    is_stated: bool
    labels: tuple[str, ...]  # what says how it was packed, the narrowest first
    method: str | None  # the name of the program that packed, or of its method
    bits: int | None
    group: int | None  # columns that share a factor
    block: tuple[int, int]  # rows and columns that do
    of_module: Mapping[str, Any]  # MLX's exceptions, by module

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Quantisation:
        """Return the settings in a config.json, or in that of the language model inside it."""
        stated = _first_object(
            *(config.get(key) for key in _KEYS),
            *(plain_object(config.get("text_config")).get(key) for key in _KEYS),
        )
        groups = plain_object(stated.get("config_groups"))
        weights = next(
            (plain_object(plain_object(group).get("weights")) for group in groups.values()), {}
        )
        labels = [stated.get(key) for key in ("quant_algo", "format", "quant_method")]
        method = stated.get("quant_method")
        block = stated.get("weight_block_size") or weights.get("block_structure")
        is_block = isinstance(block, list) and len(block) == 2
        return cls(
            bool(stated),
            tuple(label for label in labels if isinstance(label, str)),
            method if isinstance(method, str) else None,
            size(stated.get("bits", weights.get("num_bits"))),
            size(stated.get("group_size", weights.get("group_size"))),
            (size(block[0]) or 1, size(block[1]) or 1) if block and is_block else DEFAULT_BLOCK,
            stated,
        )

    @property
    def label(self) -> str | None:
        """The narrowest word for how the weights were packed."""
        return self.labels[0] if self.labels else None


def without_quantisation(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a config.json of plain weights, and the keys that it lost."""
    left = [key for key in _KEYS if isinstance(config.get(key), dict)]
    plain = {key: value for key, value in config.items() if key not in left}
    inner = plain.get("text_config")
    if isinstance(inner, dict) and any(key in inner for key in _KEYS):
        plain["text_config"] = {key: value for key, value in inner.items() if key not in _KEYS}
        left = left or [key for key in _KEYS if key in inner]
    return plain, left


def plain_object(value: object) -> Mapping[str, Any]:
    """Return a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def size(value: object) -> int | None:
    """Return a positive integer, and None for anything else."""
    return value if type(value) is int and value > 0 else None


def _first_object(*values: object) -> Mapping[str, Any]:
    return next((value for value in values if isinstance(value, dict) and value), {})
