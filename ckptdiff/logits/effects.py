"""Whether a setting that two configs state differently was really computed on each side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.config.compare import config_side
from ckptdiff.config.fields import FIELDS
from ckptdiff.config.mending import settings_like
from ckptdiff.errors import CkptDiffError
from ckptdiff.logits.sides import forward_side

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.config.fields import ConfigField
    from ckptdiff.forward.model import Model

    Pair = tuple[Assembled, Assembled]


# What became of a setting: computed, not computed, or the other side takes it over, as its own
# config cannot say it.
Effect = Literal["computed", "none", "taken"]


def effects(line: ConfigDiff, pair: Pair, reference: str) -> list[Effect]:
    """Return, for each side that can be given the other's value, what that changes.

    The list is empty if it cannot be tried, as for a setting of no field of the table.
    """
    field = next((field for field in FIELDS if field.name == line.meaning), None)
    if field is None:
        return []
    found: list[Effect] = []
    for own, other in (pair, pair[::-1]):
        changed = _like(field, other, own)
        if changed is None:
            continue
        if _model(other, changed, reference) != _model(other, own, reference):
            found.append("taken")
        elif _model(changed, other, reference) != _model(own, other, reference):
            found.append("computed")
        else:
            found.append("none")
    return found


def _like(field: ConfigField, one: Assembled, side: Assembled) -> Assembled | None:
    """Return a side with a field's value as `one` has it; None if it cannot have it."""
    config = side.checkpoint.config
    if config is None or side.checkpoint.convention == "meta":
        return None
    like, own = config_side(one), config_side(side)
    stated = field.read(like)
    settings = None if stated is None else settings_like(field, like, own, stated)
    if settings is None:
        return None
    config = {**config, **settings}
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = {**config["text_config"], **settings}
    changed = replace(side, checkpoint=replace(side.checkpoint, config=config))
    # A class of transformers may not read what its config.json states.
    found = field.read(config_side(changed))
    is_like = stated is not None and found is not None and field.same(found.value, stated.value)
    return changed if is_like else None


def _model(side: Assembled, other: Assembled, reference: str) -> Model | str:
    """Return the model of a side, or why it has none."""
    try:
        return forward_side(side, other, reference).model
    except CkptDiffError as error:
        return str(error)
