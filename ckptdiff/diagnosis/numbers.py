"""The decoder layers and routed experts that some tensors belong to, by the numbers in names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAYERS = ("layers", "h", "blocks")  # what stands in front of the number of a layer
# Modules beside the decoder, such as `visual` or `audio_tower`, number layers of their own.
_BESIDE = ("vis", "audio", "image", "encoder", "speech", "merger", "projector", "mtp")


def layers_of(names: Iterable[str]) -> tuple[int, ...]:
    """Return the decoder layers of some tensors; names of other modules have none."""
    found = set()
    for name in names:
        key, numbers = split_name(name)
        words = key.partition(".#")[0].split(".")
        if numbers and words[-1] in _LAYERS and not any(w.startswith(_BESIDE) for w in words):
            found.add(numbers[0])
    return tuple(sorted(found))


def experts_of(names: Iterable[str]) -> tuple[int, ...]:
    """Return the routed experts of some tensors."""
    found = set()
    for name in names:
        key, numbers = split_name(name)
        for before, number in zip(key.split("#"), numbers, strict=False):
            if before.endswith((".experts.", "weight", "bias")):
                found.add(number)
    return tuple(sorted(found))
