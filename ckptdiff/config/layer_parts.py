"""What parts each layer has, as a config says it: attention or DeltaNet, a dense MLP or experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.config.fields import ConfigSide

# By the letters of Megatron's hybrid pattern.
_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "experts"}
# Lines of the config table that list a number for each layer, and what 0 and 1 stand for.
_PATTERNS = {
    "DeltaNet layers": ("attention", "delta_net"),
    "Layers of experts": ("mlp", "experts"),
}
_BY_NAME = {field.name: field for field in FIELDS}


def stated_parts(side: ConfigSide, layers: Iterable[int]) -> dict[int, frozenset[str]]:
    """Return the parts of these layers that the config states; what it leaves open is not there."""
    letters = _listed(side, "Kinds of layers")
    if isinstance(letters, str):
        kinds = [_LETTERS.get(x) for x in letters.replace("|", "")]  # `|` ends a pipeline stage
        named = {i: kinds[i] for i in layers if i < len(kinds)}
        return {i: frozenset({kind}) for i, kind in named.items() if kind is not None}
    patterns = [(_listed(side, name), words) for name, words in _PATTERNS.items()]
    return {
        layer: frozenset(
            on if pattern[layer] else off
            for pattern, (off, on) in patterns
            if isinstance(pattern, list) and layer < len(pattern)
        )
        for layer in layers
    }


def _listed(side: ConfigSide, name: str) -> Any:
    """Return what a line of the table says of each layer; None if it says nothing."""
    field = _BY_NAME[name]
    stated = field.read(side) if field.has_effect(side) else None
    return None if stated is None else stated.value
