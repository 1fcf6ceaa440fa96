"""What both directions of restating a config share: the source's settings, in other words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ckptdiff.config.compare import config_side
from ckptdiff.config.fields import FIELDS, ConfigSide
from ckptdiff.config.fields.base import MEGATRON
from ckptdiff.config.fields.params import assumed_factor
from ckptdiff.errors import UnknownConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.fields import ConfigField, Kind, Stated

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Restated(Generic[Settings]):
    """A model's settings as another program has them."""

    settings: Settings
    notes: list[str]  # of what was assumed, or is left out
    # What the program that reads the settings cannot compute of this model, a clause each.
    cannot: list[str]


def readable(source: Assembled, notes: list[str]) -> ConfigSide:
    """Return a source's side, and add a note of what was assumed.

    Raises UnknownConfig if its family, its sizes or its config are not known.
    """
    root = source.checkpoint.root
    if source.architecture is None or source.config is None:
        raise UnknownConfig(f"{root}: no rules are known for this model, so it cannot be restated")
    if not source.checkpoint.config:
        raise UnknownConfig(f"{root}: there is no config.json and there are no args to restate")
    side = config_side(source)
    scaling = side.get("rope_scaling")
    if source.checkpoint.convention != "meta" or not scaling or "factor" in scaling:
        return side
    factor = assumed_factor(source.config.hidden_size)
    notes.append(f"params.json does not say by what RoPE is scaled; {factor:g} is taken")
    scaled = {**side.fields, "rope_scaling": {**scaling, "factor": factor}}
    return replace(side, fields=scaled)


def settings_of(
    side: ConfigSide,
    kind: Kind,
    notes: list[str],
    unset: list[tuple[ConfigField, Stated]],
    origins: dict[str, ConfigField] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield the settings, (name, value), that give a side of the other kind each field's value.

    Adds to `unset` what cannot be set, notes of what was assumed, and to `origins` the field that
    each setting comes from.
    """
    defaults = []
    for field in FIELDS:
        if not (field.always or field.has_effect(side)):
            continue
        reading = field.read(side)
        if reading is None:
            if side.yaml is None:  # else one note names all of them
                notes.append(f"{field.name}: the source does not say")
            continue
        settings = field.settings(reading.value, side, kind)
        if settings is None:
            unset.append((field, reading))
            continue
        if origins is not None:
            origins |= dict.fromkeys(settings, field)
        if settings and reading.source == MEGATRON:
            defaults.append(f"{field.name} {reading.raw}")
        if settings and reading.weak:
            notes.append(f"{field.name} is taken as {reading.raw}: {reading.source}")
        yield from settings.items()
    if defaults:
        notes.append(f"args do not say these, so Megatron's defaults count: {', '.join(defaults)}")


def token_rows(source: Assembled) -> tuple[int, list[str]]:
    """Return how many rows of the vocabulary are tokens, and notes of what was assumed.

    Raises UnknownConfig if neither tensors nor args show it.
    """
    config, fields = source.config, source.checkpoint.config or {}
    if config is not None and config.vocab_size is not None:
        return config.vocab_size, []
    rule = None if source.architecture is None else source.architecture.embedding()
    table = None if rule is None else source.tensors.get(rule.hf[0])
    stored = None if table is None else table.shape[0] + table.padding_rows
    padded = stored or fields.get("padded_vocab_size")
    if type(padded) is not int:
        raise UnknownConfig(
            f"{source.checkpoint.root}: nothing tells how many rows the vocabulary has"
        )
    tokens = fields.get("vocab_size")
    if type(tokens) is not int or not 0 < tokens <= padded:
        words = "no vocab_size" if tokens is None else f"a vocab_size of {tokens}"
        file = source.checkpoint.config_file
        have = "args have" if file is None else f"{file.name} has"
        return padded, [
            f"{have} {words}: all {padded} rows of the vocabulary are taken as tokens, padding "
            "among them"
        ]
    null = str(fields.get("tokenizer_type")).startswith("Null")
    if null and "null_tokenizer_eod_id" not in fields and tokens < padded:
        # Before 0.19, NullTokenizer has one id more than its vocab_size: the end of a document.
        return tokens + 1, []
    return tokens, []
