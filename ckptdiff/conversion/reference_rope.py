"""The rotary positions of a checkpoint that is mended: those of its reference.

Megatron-LM's --use-checkpoint-args takes the RoPE base of the checkpoint's args, whatever the
command line says (`_set_arg("rotary_base", force=True)` in megatron/training/checkpointing.py), so
it has to be right in the args that are written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.compare import compare_sides, config_side, field_text
from ckptdiff.config.fields.rope import ROPE
from ckptdiff.config.fields.scaling import SCALING
from ckptdiff.config.mending import settings_like

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff

_FIELDS = {field.name: field for field in (ROPE[0], *SCALING)}


def rope_of_reference(
    source: Assembled, like: Assembled | None
) -> list[tuple[ConfigDiff, dict[str, Any]]]:
    """Return the lines of RoPE that conflict with the reference, with the args that mend each."""
    config = source.checkpoint.config
    is_of_args = (
        source.checkpoint.convention == "megatron" and source.checkpoint.config_file is None
    )
    if like is None or not is_of_args or not config or not like.checkpoint.config:
        return []
    a, b = config_side(like), config_side(source)
    found = []
    for line in compare_sides(a, b):
        field = _FIELDS.get(line.meaning)
        stated = None if field is None or line.status != "conflict" else field.read(a)
        if field is None or stated is None:
            continue
        settings = settings_like(field, a, b, stated)
        if settings:
            found.append((line, dict(settings)))
    return found


def with_rope_of_reference(
    source: Assembled, like: Assembled | None, notes: list[str]
) -> tuple[Assembled, tuple[str, ...]]:
    """Return a source with the RoPE of its reference, and the names of the args that changed.

    Adds to `notes` what they were.
    """
    settings: dict[str, Any] = {}
    for line, changes in rope_of_reference(source, like):
        settings |= changes
        notes.append(
            f"{line.meaning}: {field_text(line, 'A')} is written, as in the reference; the source "
            f"has {field_text(line, 'B')}"
        )
    config = {**(source.checkpoint.config or {}), **settings}
    changed = replace(source, checkpoint=replace(source.checkpoint, config=config))
    return (changed if settings else source), tuple(settings)
