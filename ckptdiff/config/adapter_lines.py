"""What the configs of two adapters state: ranks, factors and targets, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.peft import DEFAULT_ALPHA, DEFAULT_RANK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FACTOR = "The product of the adapter's matrices is multiplied by another factor: alpha / rank."
_PLACES = "The adapters change other modules."
# By the key in adapter_config.json: what it means, PEFT's default, and what a difference does.
_KEYS: dict[str, tuple[str, Any, str]] = {
    "peft_type": ("kind of adapter", "LORA", "The adapters compute different things."),
    "r": ("adapter rank", DEFAULT_RANK, _FACTOR),
    "lora_alpha": ("adapter alpha", DEFAULT_ALPHA, _FACTOR),
    "use_rslora": ("rank-stabilised factor", False, _FACTOR.replace("rank.", "root of the rank.")),
    "rank_pattern": ("adapter ranks by module", {}, _FACTOR),
    "alpha_pattern": ("adapter alphas by module", {}, _FACTOR),
    "fan_in_fan_out": ("adapted weights (in, out)", False, "The product is added transposed."),
    "use_dora": ("DoRA", False, "One adapter scales the rows of the weights as well."),
    "target_modules": ("adapter targets", None, _PLACES),
    "modules_to_save": ("modules saved whole", None, _PLACES),
}


def adapter_lines(
    a: Mapping[str, Any], b: Mapping[str, Any], *, same_names: bool
) -> Iterator[tuple[str, str, Any, Any, str | None]]:
    """Yield (meaning, key, A's value, B's value, consequence) of each setting that a side states.

    The consequence is None where the values are the same. Without `same_names` modules have other
    names on the two sides: which are adapted is told by the tensors.
    """
    for key, (meaning, default, consequence) in _KEYS.items():
        if key not in a and key not in b:
            continue
        if not same_names and key in ("target_modules", "modules_to_save"):
            continue
        one, other = (_plain(side.get(key), default) for side in (a, b))
        if one == other == default:
            continue
        yield meaning, key, one, other, None if one == other else consequence


def _plain(value: Any, default: Any) -> Any:
    """Return a value as it is compared: lists of modules have no order."""
    if value is None:
        return default
    return sorted(map(str, value)) if isinstance(value, list) else value
