"""Compare what two sides say about the model beside its weights, meaning by meaning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.fields import FIELDS, ConfigField, ConfigSide, Stated, params_in_hf_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.assembly.recipe import Assembled

Status = Literal["same", "conflict", "implied", "unknown"]
ENDS = 3  # parts of a tensor's name that tell what it is: `self_attn.q_proj.bias`
TEXT_LIMIT = 200  # characters of a long value that are kept
LIST_LIMIT = 1000  # layers of a pattern that are spelled out


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """One line: a meaning, what each side says of it, and what follows."""

    meaning: str
    status: Status
    name_a: str | None  # the field in A's file; None where no field says it
    a: Any
    name_b: str | None
    b: Any
    consequence: str | None = None  # of a conflict
    fix: str | None = None  # the flag or entry that mends it; None where there is none
    note: str | None = None  # from what a value follows, or why it is not known


def compare_configs(a: Assembled, b: Assembled) -> list[ConfigDiff]:
    """Return a line for each meaning that a side speaks of; none unless both have a config."""
    if not a.checkpoint.config or not b.checkpoint.config:
        return []
    return compare_sides(config_side(a), config_side(b))


def compare_sides(a: ConfigSide, b: ConfigSide) -> list[ConfigDiff]:
    """Return a line for each meaning that a side speaks of."""
    lines = (_line(meaning, a, b) for meaning in FIELDS)
    return [line for line in lines if line is not None]


def config_status(lines: Iterable[ConfigDiff]) -> Literal["same", "conflict", "unknown"]:
    """Return what the lines come to; `unknown` where a value, or a whole config, is not known."""
    statuses = {line.status for line in lines}
    if "conflict" in statuses:
        return "conflict"
    return "unknown" if not statuses or "unknown" in statuses else "same"


def config_side(assembled: Assembled) -> ConfigSide:
    """Return what a side's files say; params.json is put in the words of config.json."""
    checkpoint = assembled.checkpoint
    fields: Mapping[str, Any] = checkpoint.config or {}
    if checkpoint.convention == "meta":
        fields = params_in_hf_words(fields, assembled.config)
    if isinstance(fields.get("text_config"), dict):
        fields = {**fields, **fields["text_config"]}
    family = assembled.architecture
    return ConfigSide(
        kind="megatron" if checkpoint.convention == "megatron" else "hf",
        fields=fields,
        family=family.name if family is not None else None,
        tensors=frozenset(".".join(name.rsplit(".", ENDS)[-ENDS:]) for name in assembled.tensors),
        tied_by_default=family is not None and family.tied_by_default,
    )


def _line(meaning: ConfigField, a: ConfigSide, b: ConfigSide) -> ConfigDiff | None:
    """Return one line; None where the meaning is without effect, or neither side speaks of it."""
    if not (meaning.has_effect(a) and meaning.has_effect(b)):
        return None
    first, second = meaning.read(a), meaning.read(b)
    if first is None or second is None:
        known = first if first is not None else second
        if known is None or known.name is None:
            return None
        harmless = meaning.why_harmless(a, b)
        if harmless is not None:
            return _make(meaning, "implied", first, second, note=harmless)
        silent = "A" if first is None else "B"
        return _make(meaning, "unknown", first, second, note=f"{silent} does not say")
    notes = [
        f"{letter} follows from: {reading.source}"
        for letter, reading in (("A", first), ("B", second))
        if reading.source is not None
    ]
    note = "; ".join(notes) or None
    if first.name is None and second.name is None:
        return None  # what no file states is not a matter of configs
    if meaning.same(first.value, second.value):
        if first.value == meaning.off:
            return None
        return _make(meaning, "implied" if notes else "same", first, second, note=note)
    if first.weak or second.weak:
        return _make(meaning, "unknown", first, second, note=note)
    harmless = meaning.why_harmless(a, b)
    if harmless is not None:
        return _make(meaning, "implied", first, second, note=harmless)
    fix = _fix(meaning, a, b, first, second)
    consequence = meaning.consequence
    if fix is None and meaning.cannot and "megatron" in (a.kind, b.kind):
        consequence = f"{consequence} {meaning.cannot}"
    return _make(meaning, "conflict", first, second, consequence=consequence, fix=fix, note=note)


def _make(
    meaning: ConfigField,
    status: Status,
    a: Stated | None,
    b: Stated | None,
    *,
    consequence: str | None = None,
    fix: str | None = None,
    note: str | None = None,
) -> ConfigDiff:
    return ConfigDiff(
        meaning.name,
        status,
        a.name if a is not None else None,
        _plain(a.raw) if a is not None else None,
        b.name if b is not None else None,
        _plain(b.raw) if b is not None else None,
        consequence,
        fix,
        note,
    )


def _fix(
    meaning: ConfigField, a: ConfigSide, b: ConfigSide, first: Stated, second: Stated
) -> str | None:
    """Return what brings B, or the Megatron side, to what the other says."""
    if a.kind == b.kind == "hf":
        name = first.name or second.name
        if name is None or (first.name is None and isinstance(first.raw, list)):
            return None
        return f'"{name}": {json.dumps(_plain(first.raw))} in config.json'
    return meaning.flag(second.value, a) if b.kind == "hf" else meaning.flag(first.value, b)


def _plain(value: Any) -> Any:
    """Return a value that is small and can be written as JSON."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return value if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    if type(value) is list and len(value) <= LIST_LIMIT and all(type(v) is int for v in value):
        return [_plain(v) for v in value]
    text = str(value)
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
