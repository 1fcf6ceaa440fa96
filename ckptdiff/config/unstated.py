"""What a config in YAML leaves out: what tensors show of it, and the defaults in its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.config.fields import ConfigSide


def shown_by_tensors(side: ConfigSide, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the args, (name, value), that a config in YAML leaves out and the tensors show.

    Adds notes of them. Without these, Megatron's args would read as their defaults.
    """
    for field in FIELDS:
        reading = field.read(side) if field.has_effect(side) else None
        if reading is None or reading.name is not None or not reading.weak:
            continue
        if reading.value is None:
            continue  # it is not known
        settings = field.settings(reading.value, side, "megatron")
        if settings and not settings.keys() <= side.fields.keys():
            notes.append(f"{field.name} is taken as {reading.raw}: {reading.source}")
            yield from settings.items()


def left_out(side: ConfigSide, written: ConfigSide) -> list[str]:
    """Return a note of what a config in YAML does not state, and what is read in its place."""
    if side.yaml is None:
        return []
    unsaid = []
    for field in FIELDS:
        if not field.has_effect(side) or field.read(side) is not None:
            continue
        default = field.read(written)
        if default is not None and default.name is not None:
            continue  # it is written: another source tells it
        value = None if default is None else default.value
        entries = field.settings(value, written, written.kind)
        if entries == {}:
            continue  # the family's class fixes it
        if entries is None:
            unsaid.append(field.name)
        elif value is None:
            unsaid += entries
        else:
            unsaid += [f"{name} {json.dumps(one)}" for name, one in entries.items()]
    if not unsaid:
        return []
    is_hf = written.kind == "hf"
    where, whose = ("config.json", "transformers") if is_hf else ("args", "Megatron")
    more = "; a Hugging Face folder to be like knows" if is_hf else ""
    return [
        f"{side.yaml} does not state these, and the class with defaults for them is not loaded. "
        f"They are left out of {where}, so {whose} takes its own defaults: "
        f"{', '.join(unsaid)}{more}"
    ]
