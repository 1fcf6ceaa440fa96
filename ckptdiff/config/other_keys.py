"""Lines of a comparison of two config.json for what the table of fields has no word for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdiff.config.fields import FIELDS, TOKENS
from ckptdiff.config.fields.base import equal, guarded
from ckptdiff.config.fields.positions import QWEN
from ckptdiff.config.keys_read import (
    ALIKE,
    BESIDE,
    KEYS,
    ROPE_KEYS,
    SAYS_NOTHING,
    default_of,
    reads,
)
from ckptdiff.config.rope_holder import NEW, OLD, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.config.fields import ConfigSide

DIFFERS = "differs"  # what the note of a setting begins with that no line of a field shows
NOT_KNOWN = f"{DIFFERS}, meaning not known to ckptdiff"
# What names a class has lines of its own; the entries of a text_config count as the file's.
_ELSEWHERE = ("model_type", "architectures", "auto_map", "text_config")
_OF_ROPE = (OLD, NEW, *ROPE_KEYS, "rope_local_base_freq")
# Of Qwen's classes, what says which layers have a window: the fields of that read all of it.
_OF_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_ABSENT = object()


class OtherKey(NamedTuple):
    """A key that differs, and that no field of the table reads."""

    name: str  # `a.b` is inside an object
    a: Any  # None: absent, or null
    b: Any
    in_a: bool  # whether A's file has it
    in_b: bool
    unread: str | None  # why it changes nothing; None: its meaning is not known


def other_keys(a: ConfigSide, b: ConfigSide) -> Iterator[OtherKey]:
    """Yield each key of two config.json that differs and that no field of the table reads.

    A key that one side lacks counts as the default of its class there, if that is known.
    """
    one, other = (_flat({**side.unread, **side.fields}) for side in (a, b))
    same_rope = _rope(a) == _rope(b)
    elsewhere = (
        *_ELSEWHERE,
        *(_OF_ROPE if same_rope else ()),
        *(_OF_WINDOWS if {a.family, b.family} <= QWEN else ()),
    )
    for name in sorted(one.keys() | other.keys()):
        first = name.partition(".")[0]
        if first in SAYS_NOTHING or first in elsewhere:
            continue
        value_a, value_b = (
            held[name] if name in held else default_of(side.fields, name)
            for side, held in ((a, one), (b, other))
        )
        if guarded(equal, value_a, value_b) or (value_a is None and value_b is None):
            continue
        unread = _why_unread(a, b, name)
        if unread is None and any(
            _is_read(side, name, value)
            for side in (a, b)
            for value in (value_a, value_b, _another(value_a), _another(value_b))
        ):
            continue
        yield OtherKey(name, value_a, value_b, name in one, name in other, unread)


def _rope(side: ConfigSide) -> dict[str, Any]:
    """Return what is said of rotary positions, wherever it stands."""
    beside = {name: side.get(name) for name in ROPE_KEYS}
    inside = dict(held(side.fields))
    kind = inside.pop("type", None)
    inside.setdefault("rope_type", kind)
    said = {**beside, **{name: value for name, value in inside.items() if value is not None}}
    windowed = side.get(f"{NEW}.sliding_attention")
    base = {"rope_theta": side.get("rope_local_base_freq")}
    said["windowed"] = {**base, **windowed} if isinstance(windowed, dict) else base
    if said["rope_type"] == "default":
        said["rope_type"] = None
    return {name: value for name, value in said.items() if value is not None}


def _flat(fields: Mapping[str, Any], levels: int = 3) -> dict[str, Any]:
    """Return the entries of a config.json by name, those inside of an object by their path."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value and levels > 1:
            found |= {f"{name}.{inner}": one for inner, one in _flat(value, levels - 1).items()}
        else:
            found[name] = value
    return found


def _why_unread(a: ConfigSide, b: ConfigSide, name: str) -> str | None:
    """Return why a key changes nothing in both models; None if it may change something."""
    types = {str(side.get("model_type")) for side in (a, b)}
    if types <= KEYS.keys() and not any(reads(one, name) for one in types):
        return f"no {' or '.join(sorted(types))} model of transformers reads it"
    switch = BESIDE.get(name)
    switched = {one for one, keys in KEYS.items() if switch in keys}
    if types <= switched and not any(side.get(str(switch)) for side in (a, b)):
        return f"it counts beside {switch} alone"
    return None


def _is_read(side: ConfigSide, name: str, value: Any) -> bool:
    """Return whether a field of the table reads something else if this key has this value."""
    changed = replace(side, fields=_with(side.fields, name.split("."), value))
    return any(_reading(field, side) != _reading(field, changed) for field in (*FIELDS, *TOKENS))


def _another(value: Any) -> Any:
    """Return some other value of this type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return value[1:]
    return f"another {value}" if isinstance(value, str) else value


def _reading(field: Any, side: ConfigSide) -> Any:
    if not field.has_effect(side):
        return _ABSENT
    found = field.read(side)
    return _ABSENT if found is None else found.value


def _with(fields: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return the fields with one set; None takes it out."""
    first, *rest = path
    if rest:
        inner = fields.get(first)
        value = _with(inner if isinstance(inner, dict) else {}, rest, value) or None
    found = {name: one for name, one in fields.items() if name != first}
    return found if value is None else {**found, first: value}


class OtherClass(NamedTuple):
    """How the classes that two config.json name differ."""

    key: str
    a: Any
    b: Any
    consequence: str | None  # None: it is no conflict
    note: str | None
    is_known: bool


def other_classes(a: ConfigSide, b: ConfigSide) -> Iterator[OtherClass]:
    """Yield what differs of the entries that name the class of a model."""
    type_a, type_b = (side.get("model_type") for side in (a, b))
    if type_a != type_b:
        names = {str(type_a), str(type_b)}
        if names <= ALIKE:
            note = "both classes compute the same of what is compared here"
            yield OtherClass("model_type", type_a, type_b, None, note, is_known=True)
        elif names <= KEYS.keys():
            note = "transformers runs another class; only what is listed here was compared"
            yield OtherClass("model_type", type_a, type_b, None, note, is_known=False)
        else:
            why = "transformers runs another class, which computes something else of the same keys."
            yield OtherClass("model_type", type_a, type_b, why, None, is_known=True)
    else:
        named_a, named_b = (side.get("architectures") for side in (a, b))
        if None not in (named_a, named_b) and named_a != named_b:
            note = "transformers takes the class of model_type, other programs take this one"
            yield OtherClass("architectures", named_a, named_b, None, note, is_known=True)
    code_a, code_b = (side.get("auto_map") for side in (a, b))
    if code_a != code_b:
        note = "code beside the weights is run in place of transformers' class, if it is trusted"
        yield OtherClass("auto_map", code_a, code_b, None, note, is_known=False)
