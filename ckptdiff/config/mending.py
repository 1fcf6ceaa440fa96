"""What mends a conflict: the flag or the entry that gives B what A has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ckptdiff.config.fields.base import guarded
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.rope import ROPE
from ckptdiff.config.fields.scaling import SCALING
from ckptdiff.config.fixes import EntryFix
from ckptdiff.config.rope_holder import FULL, NEW, OLD, held
from ckptdiff.formats.run_config import TIED, UNTIED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.config.fields import ConfigField, ConfigSide, Stated
    from ckptdiff.config.fixes import Fix

_HEADS = ("lm_head.weight", "embed_out.weight")
_BASE = ROPE[0]
_OF_HOLDER = (_BASE, *SCALING)  # the fields that one object of config.json states together
_KINDS = ("rope_type", "type")


def mending(
    field: ConfigField, a: ConfigSide, b: ConfigSide, stated_a: Stated, stated_b: Stated
) -> Fix | None:
    """Return the setting that gives B the value of A; None if there is none.

    None is also returned where the setting would lose a head that B stores, or promise one that it
    does not. The entry of a config.json is read again before it is returned.
    """
    if _concerns_head(stated_a, stated_b) and b.tensors:
        holds_head = any(name.endswith(_HEADS) for name in b.tensors)
        if bool(stated_a.value) is holds_head:
            return None
    if b.kind != "hf":
        return field.flag(stated_a.value, b)
    if a.kind == "hf" and field not in _OF_HOLDER:
        name = stated_a.name or stated_b.name
        found_in = stated_b.file if stated_b.name is not None else stated_a.file
        is_listed = stated_a.name is None and isinstance(stated_a.raw, list)
        if name is None or found_in is None or is_listed:
            return None
        mended = field.read(replace(b, fields={**b.fields, name: stated_a.raw}))
        is_flat = found_in == "config.json" and "." not in name
        if is_flat and not (mended and field.same(mended.value, stated_a.value)):
            return None  # B's class does not read it, or another key decides as well
        return _in_json({name: stated_a.raw}, found_in)
    if stated_a.name == "padded_vocab_size":
        return None  # rows of padding are no tokens
    entries = settings_like(field, a, b, stated_a)
    return None if entries is None else _in_json(entries, "config.json")


def settings_like(
    field: ConfigField, a: ConfigSide, b: ConfigSide, stated_a: Stated
) -> Mapping[str, Any] | None:
    """Return the fields that give B's file the value of A; None if B cannot be given it."""
    if b.kind == "hf" and field in _OF_HOLDER:
        settings = guarded(_rope_entries, field, a, b, stated_a)
    else:
        settings = field.settings(stated_a.value, b, b.kind)
    if not settings:
        return None
    found = field.read(replace(b, fields={**b.fields, **settings}))
    if found is None or not field.same(found.value, stated_a.value):
        return None
    return cast("Mapping[str, Any]", settings)


def _concerns_head(*found: Stated) -> bool:
    return any(one.name in ("tie_word_embeddings", TIED, UNTIED) for one in found)


def _in_json(entries: Mapping[str, Any], file: str) -> EntryFix | None:
    words = guarded(json.dumps, dict(entries))
    return None if words is None else EntryFix(words[1:-1], file)


def _rope_entries(
    field: ConfigField, a: ConfigSide, b: ConfigSide, stated_a: Stated
) -> Mapping[str, Any] | None:
    """Return the entries that give B's config.json the base and the scaling of A.

    They are in B's own form: `rope_parameters` of transformers 5 holds the whole, or `rope_theta`
    stands beside `rope_scaling`. A field that shares neither object is set alone.
    """
    base = _BASE.read(a)
    scaling = _scaling_of(a, b)
    theta = None if base is None else float(base.value)
    inside_b, new = held(b.fields), b.get(NEW)
    if _is_in_new_form(a, b):
        if scaling is None or theta is None:
            return None
        whole = {**scaling, "rope_theta": theta}
        whole.setdefault("rope_type", "default")
        if "partial_rotary_factor" in inside_b:
            whole["partial_rotary_factor"] = inside_b["partial_rotary_factor"]
        whole = {"rope_type": whole.pop("rope_type"), "rope_theta": whole.pop("rope_theta")} | whole
        if isinstance(new, dict) and isinstance(new.get(FULL), dict):
            whole = {**new, FULL: whole}
        # Beside it, an object of transformers 4 would be read in its place.
        beside = {OLD: None} if b.get(OLD) else {}
        return {NEW: whole, **beside}
    if field is _BASE:
        if "rope_theta" in inside_b:
            return {OLD: {**inside_b, "rope_theta": theta}}
        return field.settings(stated_a.value, b, "hf")
    if scaling is None:
        return None
    own = {"rope_theta": inside_b["rope_theta"]} if "rope_theta" in inside_b else {}
    return {OLD: {**scaling, **own} or None}


def _is_in_new_form(a: ConfigSide, b: ConfigSide) -> bool:
    """Return whether B's settings go into `rope_parameters`; A's form, if B has none."""
    if b.get(OLD) or b.get("rope_theta") is not None:
        return isinstance(b.get(NEW), dict)
    return isinstance((b if b.has(NEW) else a).get(NEW), dict)


def _scaling_of(a: ConfigSide, b: ConfigSide) -> dict[str, Any] | None:
    """Return a side's scaling as a config.json states it, empty for none; None: it cannot be."""
    if not is_rotary(a):
        return None
    kind = SCALING[0].read(a)
    if kind is None:
        return None
    if kind.value == "none":
        return {}
    if a.kind == "hf":
        found = dict(held(a.fields))
        name = next((found[key] for key in _KINDS if found.get(key) is not None), None)
        kept = {k: v for k, v in found.items() if k not in (*_KINDS, "rope_theta")}
        return {"rope_type": name, **kept}
    entries = SCALING[0].settings(kind.value, b, "hf")
    return None if entries is None else entries[OLD]
