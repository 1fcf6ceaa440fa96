"""Compare what two configs state about the model, field by field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.checkpoint import as_of_text
from ckptdiff.config.adapter_lines import adapter_lines
from ckptdiff.config.effects import EFFECTS
from ckptdiff.config.fields import (
    FIELDS,
    TOKENS,
    TRAINING,
    ConfigField,
    ConfigSide,
    Stated,
    params_in_hf_words,
)
from ckptdiff.config.fields.base import guarded
from ckptdiff.config.fields.moves import NOTHING
from ckptdiff.config.fields.rope_versions import (
    CONSEQUENCE,
    MEANING,
    Versions,
    compare_versions,
)
from ckptdiff.config.fields.unread import as_read
from ckptdiff.config.mending import mending
from ckptdiff.config.old_args import DEVICES, in_new_words
from ckptdiff.config.other_keys import DIFFERS, NOT_KNOWN, other_classes, other_keys
from ckptdiff.config.quantisation import Quantisation
from ckptdiff.config.unknown_args import differing_args
from ckptdiff.config.unused import unused_tensors
from ckptdiff.formats.plain_dcp import NAME as DCP
from ckptdiff.formats.run_config import SPELLED
from ckptdiff.text import config_value_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.fixes import Fix

Status = Literal["same", "conflict", "implied", "unknown"]
NAME_PARTS = 3  # last parts of a tensor's name that show what it is: `self_attn.q_proj.bias`
TEXT_LIMIT = 200  # characters of a long value that are kept
LIST_LIMIT = 1000  # layers of a pattern that are listed


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """One line: a config field, what each side states of it, and the consequence."""

    meaning: str  # the name of the ConfigField
    status: Status
    name_a: str | None  # the field in A's file; None: no field states it
    a: Any  # a plain value
    name_b: str | None
    b: Any
    consequence: str | None = None  # of a conflict
    mending: Fix | None = None  # the flags or entries that remove it; None: there are none
    note: str | None = None  # what a value follows from, or why it is not known
    is_hint: bool = False  # the note is worth saying, though there is no conflict
    # What each side means by it, in values that both sides share; None: the value as it is stated.
    # `tie_word_embeddings` and `untie_embeddings_and_output_weights` mean one thing, for example.
    means_a: Any = None
    means_b: Any = None
    # The steps of a forward pass that it can move (see `fields.moves`); None: any of them.
    moves: frozenset[str] | None = None

    @property
    def fix(self) -> str | None:
        """What mends a conflict, in words; None: nothing does."""
        return None if self.mending is None else self.mending.text


def field_text(line: ConfigDiff, side: str) -> str:
    """Return a side's field and value; the value alone if the line is called like the field."""
    name, value = (line.name_a, line.a) if side == "A" else (line.name_b, line.b)
    if name is None and value is None:
        return "not stated"
    shown = config_value_text(value)
    return printable(shown if name in (None, line.meaning) else f"{name} {shown}")


def compare_configs(a: Assembled, b: Assembled) -> list[ConfigDiff]:
    """Return a line for each field that a side states; none unless both have a config.

    Two adapters have lines of their own.
    """
    adapters = list(_adapter_lines(a, b))
    if not a.checkpoint.config or not b.checkpoint.config:
        return adapters
    sides = config_side(a), config_side(b)
    lines = compare_sides(*sides)
    more = (*_args_lines(*sides, lines), *_quantisation_lines(a, b), *_unused_lines(a, b))
    return [*lines, *more, *adapters]


def _adapter_lines(a: Assembled, b: Assembled) -> Iterator[ConfigDiff]:
    """Yield a line for each setting of two adapters, where both state theirs."""
    one, other = a.checkpoint.adapter_config, b.checkpoint.adapter_config
    if one is None or other is None or a.adapter is None or b.adapter is None:
        return
    same_names = a.checkpoint.convention == b.checkpoint.convention
    for meaning, key, left, right, why in adapter_lines(one, other, same_names=same_names):
        status: Status = "same" if why is None else "conflict"
        yield ConfigDiff(meaning, status, key, _plain(left), key, _plain(right), why)


def compare_sides(a: ConfigSide, b: ConfigSide) -> list[ConfigDiff]:
    """Return a line for each field that a side states, and for each other that differs."""
    fields = (*FIELDS, *TOKENS, *TRAINING)
    lines = (*(_line(field, a, b) for field in fields), _versions_line(a, b))
    found = [line for line in lines if line is not None]
    return [*found, *_other_lines(a, b)] if a.kind == b.kind == "hf" else found


def _other_lines(a: ConfigSide, b: ConfigSide) -> Iterator[ConfigDiff]:
    """Yield lines for what differs between two config.json and no field of the table reads."""
    for one in other_classes(a, b):
        status: Status = "conflict" if one.consequence else "implied" if one.is_known else "unknown"
        sides = (one.key, _plain(one.a), one.key, _plain(one.b))
        yield ConfigDiff(
            one.key, status, *sides, one.consequence, None, one.note, is_hint=status == "implied"
        )
    for key in other_keys(a, b):
        yield ConfigDiff(
            key.name,
            "unknown" if key.unread is None else "implied",
            key.name if key.in_a else None,
            _plain(key.a),
            key.name if key.in_b else None,
            _plain(key.b),
            note=NOT_KNOWN if key.unread is None else key.unread,
        )


def _args_lines(a: ConfigSide, b: ConfigSide, lines: Iterable[ConfigDiff]) -> Iterator[ConfigDiff]:
    """Yield a line for each of Megatron's args that differs and that no other line shows."""
    shown = {name for one in lines if one.status == "conflict" for name in (one.name_a, one.name_b)}
    for one in differing_args(a, b):
        if one.name in shown:
            continue
        line = ConfigDiff(
            one.name,
            "unknown",
            None if one.a is None else one.name,
            _plain(one.a),
            None if one.b is None else one.name,
            _plain(one.b),
            note=NOT_KNOWN if one.does is None else f"{DIFFERS}: {one.does}",
        )
        if one.does is not None and one.sure:
            why = f"{one.does[0].upper()}{one.does[1:]}."
            line = replace(line, status="conflict", consequence=why, note=None)
        yield line


def _quantisation_lines(a: Assembled, b: Assembled) -> list[ConfigDiff]:
    """Return a conflict where weights are packed in one way and the configs name two ways."""
    if {w.text for w in a.packed.values()} != {w.text for w in b.packed.values()}:
        return []
    one, other = (Quantisation.of(side.checkpoint.config or {}).label for side in (a, b))
    if not a.packed or one is None or other is None or one.lower() == other.lower():
        return []
    consequence = "A loader takes the codes of one of them for other numbers."
    name = "quantization_config"
    return [ConfigDiff("quantisation", "conflict", name, one, name, other, consequence)]


def _unused_lines(a: Assembled, b: Assembled) -> Iterator[ConfigDiff]:
    """Yield a line if a side holds tensors that its config.json switches off."""
    words = [unused_tensors(config_side(side), side.tensors) for side in (a, b)]
    if any(words):
        note = "transformers does not load them"
        held = (None, words[0] or "none", None, words[1] or "none")
        yield ConfigDiff("Held and not used", "implied", *held, note=note, is_hint=True)


def config_status(lines: Iterable[ConfigDiff]) -> Literal["same", "conflict", "unknown"]:
    """Return the status of all lines; `unknown` if a value, or a whole config, is not known."""
    statuses = {line.status for line in lines}
    if "conflict" in statuses:
        return "conflict"
    return "unknown" if not statuses or "unknown" in statuses else "same"


def is_unexplained(line: ConfigDiff) -> bool:
    """Return whether a line shows values that differ, and what that changes is not known.

    Which class or arg each side has is then known, and that is more than a side that says nothing.
    """
    differs = (line.note or "").startswith(DIFFERS) or line.meaning == "model_type"
    return line.status == "unknown" and differs


def is_computed(line: ConfigDiff) -> bool:
    """Return whether the logits that are computed can depend on a line.

    They do not on token ids, nor on what release reads the config: they are computed as
    transformers 5 reads it. Nor on args whose effect is not computed.
    """
    return line.meaning != MEANING and not is_fed(line) and line.meaning not in EFFECTS


def is_fed(line: ConfigDiff) -> bool:
    """Return whether a line is of what a program is fed, or of how it trains; not of the model."""
    return any(line.meaning == field.name for field in (*TOKENS, *TRAINING))


# What the config of a checkpoint is called, by whose it is.
_CONFIG = {"hf": "config.json", "megatron": "args", "meta": "params.json"}


def why_not_compared(a: Assembled, b: Assembled, lines: Iterable[ConfigDiff]) -> str | None:
    """Return, in a sentence, why no settings were compared; None if some were."""
    if a.adapter is not None and b.adapter is not None:
        sides = (("A", a), ("B", b))
        silent = [letter for letter, side in sides if side.checkpoint.adapter_config is None]
        if silent:
            verb = "states" if len(silent) == 1 else "state"
            return (
                "what the adapters are multiplied by was not compared: "
                f"{' and '.join(silent)} {verb} no rank and alpha"
            )
        if lines:
            return None
    without = {
        letter: _CONFIG["hf" if side.checkpoint.format == DCP else side.checkpoint.convention]
        for letter, side in (("A", a), ("B", b))
        if not side.checkpoint.config
    }
    if without.get("A") == without.get("B") is not None:
        return f"the configs were not compared: A and B have no {without['A']}"
    if without:
        words = " and ".join(f"{letter} has no {name}" for letter, name in without.items())
        return f"the configs were not compared: {words}"
    return None if any(lines) else "the configs were not compared: no setting of both is known"


def config_side(assembled: Assembled) -> ConfigSide:
    """Return what a side's files state; params.json is translated to the fields of config.json."""
    checkpoint = assembled.checkpoint
    fields: Mapping[str, Any] = checkpoint.config or {}
    if checkpoint.convention == "meta":
        fields = params_in_hf_words(fields, assembled.config)
    whole = fields = as_of_text(fields)
    if checkpoint.convention == "hf":
        fields = as_read(fields, assembled.family)
    spelled = SPELLED if checkpoint.config_file is not None else {}
    if checkpoint.convention == "megatron" and (new := in_new_words(fields)) is not fields:
        fields, spelled = new, {**spelled, **DEVICES}
    family = assembled.architecture
    return ConfigSide(
        kind="megatron" if checkpoint.convention == "megatron" else "hf",
        fields=fields,
        family=assembled.family,
        tensors=frozenset(
            ".".join(name.rsplit(".", NAME_PARTS)[-NAME_PARTS:])
            for name, tensor in assembled.tensors.items()
            # A head that is read from a tied embedding is none of the file's.
            if not tensor.pieces or tensor.pieces[0].part_of in ("", name)
        ),
        tied_by_default=family is not None and family.tied_by_default,
        unread={name: value for name, value in whole.items() if name not in fields},
        yaml=checkpoint.config_file.name if checkpoint.config_file is not None else None,
        token_files=checkpoint.token_files if checkpoint.convention == "hf" else None,
        spelled=spelled,
    )


def _versions_line(a: ConfigSide, b: ConfigSide) -> ConfigDiff | None:
    """Return the line of what transformers 4 reads, if it reads something else than 5 does.

    It moves no step: logits are computed as transformers 5 reads the config.
    """
    found: Versions | None = guarded(compare_versions, a, b)
    if found is None:
        return None
    if found.is_conflict:
        why = f"{CONSEQUENCE} {found.note}."
        line = ConfigDiff(MEANING, "conflict", None, found.a, None, found.b, why, found.fix)
    else:
        line = ConfigDiff(
            MEANING, "implied", None, found.a, None, found.b, note=found.note, is_hint=True
        )
    return replace(line, moves=NOTHING)


def _line(field: ConfigField, a: ConfigSide, b: ConfigSide) -> ConfigDiff | None:
    """Return one line; None if the field is without effect, or neither side states it."""
    if not (field.has_effect(a) and field.has_effect(b)):
        return None
    stated_a, stated_b = _read(field, a), _read(field, b)
    if stated_a is None or stated_b is None:
        stated = stated_a if stated_a is not None else stated_b
        if stated is None or stated.name is None:
            return None
        if field.says:
            return None
        harmless = field.why_harmless(a, b)
        if harmless is not None:
            return _diff(field, "implied", stated_a, stated_b, note=harmless)
        letter = "A" if stated_a is None else "B"
        return _diff(field, "unknown", stated_a, stated_b, note=f"{letter} does not say")
    notes = [
        f"{letter} follows from: {reading.source}"
        for letter, reading in (("A", stated_a), ("B", stated_b))
        if reading.source is not None
    ]
    note = "; ".join(notes) or None
    if stated_a.name is None and stated_b.name is None:
        return None  # no file states it, so it is no difference of configs
    if field.same(stated_a.value, stated_b.value):
        if stated_a.value == field.off:
            return None
        return _diff(field, "implied" if notes else "same", stated_a, stated_b, note=note)
    if stated_a.weak or stated_b.weak:
        return _diff(field, "unknown", stated_a, stated_b, note=note)
    harmless = field.why_harmless(a, b)
    if harmless is not None:
        line = _diff(field, "implied", stated_a, stated_b, note=harmless)
        return replace(line, is_hint=field.says)
    fix = mending(field, a, b, replace(stated_a, raw=_plain(stated_a.raw)), stated_b)
    consequence = field.consequence
    if fix is None and field.cannot and "megatron" in (a.kind, b.kind):
        consequence = f"{consequence} {field.cannot}"
    return _diff(
        field, "conflict", stated_a, stated_b, consequence=consequence, mending=fix, note=note
    )


def _read(field: ConfigField, side: ConfigSide) -> Stated | None:
    """Return what a side states, by the name that its own file has for it."""
    found = field.read(side)
    if found is None or found.name is None:
        return found
    return replace(found, name=side.spelled.get(found.name, found.name))


def _diff(
    field: ConfigField,
    status: Status,
    a: Stated | None,
    b: Stated | None,
    *,
    consequence: str | None = None,
    mending: Fix | None = None,
    note: str | None = None,
) -> ConfigDiff:
    return ConfigDiff(
        field.name,
        status,
        a.name if a is not None else None,
        _plain(a.raw) if a is not None else None,
        b.name if b is not None else None,
        _plain(b.raw) if b is not None else None,
        consequence,
        mending,
        note,
        moves=field.moves,
        means_a=_meant(a),
        means_b=_meant(b),
    )


def _meant(stated: Stated | None) -> Any:
    """Return what a side means, if it puts that in a plain value; else None."""
    if stated is None or not isinstance(stated.value, (bool, int, float, str, list)):
        return None
    return _plain(stated.value)


def _plain(value: Any) -> Any:
    """Return a value as a small one that JSON can hold; longer ones as text."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return value if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    if type(value) is list and len(value) <= LIST_LIMIT and all(type(v) is int for v in value):
        return [_plain(v) for v in value]
    text = config_value_text(value)
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
