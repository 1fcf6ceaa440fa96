"""What a line of the config table is made of: how a field is read, compared and set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.fixes import EntryFix, FlagFix
from ckptdiff.config.megatron_flags import flag_of, is_off_switch, releases_of
from ckptdiff.config.programs import DEFAULT
from ckptdiff.formats.run_config import TIED, UNTIED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptdiff.config.fixes import Fix

    Reader = Callable[["ConfigSide"], "Stated | None"]  # None: this side does not state it
    Settings = Mapping[str, Any]  # fields and what they are set to
    # The settings that give a side a value. The side is of either kind, and a model of the same
    # family and sizes. None: the value cannot be set.
    Setter = Callable[[Any, "ConfigSide"], Settings | None]

Kind = Literal["hf", "megatron"]
NO_VALUE = object()  # equals no value


@dataclass(frozen=True, slots=True)
class ConfigSide:
    """One side's settings, and what else shows how its model computes."""

    kind: Kind
    fields: Mapping[str, Any]  # config.json or args, as they are in the file
    family: str | None  # name of the Architecture; None: it is not known
    tensors: frozenset[str]  # last parts of canonical names, such as `q_proj.bias`
    tied_by_default: bool = False  # in the family, if config.json has no field for it
    # Of a config.json, the fields that its class does not read.
    unread: Mapping[str, Any] = field(default_factory=dict)
    # Of a Megatron side whose config is YAML, that file, and how it spells args, as args of older
    # releases are spelled otherwise. What the YAML leaves out has the default of a class that is
    # not loaded, not of Megatron's args.
    yaml: str | None = None
    spelled: Mapping[str, str] = field(default_factory=dict)
    # Of a Hugging Face folder, what its files beside config.json state, by name of the file.
    token_files: Mapping[str, Mapping[str, Any]] | None = None

    def get(self, name: str) -> Any:
        """Return a field by its path, such as `rope_scaling.factor`; None if absent or null."""
        value: Any = self.fields
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) or value is self.fields else None
        return value

    def has(self, name: str) -> bool:
        """Return whether the file has the field, even as null."""
        head, _, leaf = name.rpartition(".")
        holder = self.get(head) if head else self.fields
        return hasattr(holder, "get") and leaf in holder


@dataclass(frozen=True, slots=True)
class Stated:
    """What a side states: `value` is comparable between sides, `raw` is as in the file."""

    value: Any
    name: str | None = None  # the field in the file; None: no field states it
    raw: Any = None
    source: str | None = None  # what the value follows from; None: the file states it
    weak: bool = False  # the value may have been set elsewhere than in the file
    file: str | None = "config.json"  # of Hugging Face's, which has it; None: no entry there alone


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One line of the table."""

    name: str
    hf: Callable[[ConfigSide], Stated | None]
    megatron: Callable[[ConfigSide], Stated | None]
    consequence: str  # of a conflict, one sentence
    args: Setter  # Megatron's args for a value
    entries: Setter  # entries of config.json for a value; the side has the family to be written
    applies: Callable[[ConfigSide], bool] = lambda _: True  # False: the value has no effect
    always: bool = False  # written even then: Megatron and transformers require the field
    off: Any = NO_VALUE  # a value for which there is no line, if both sides have it
    equal: Callable[[Any, Any], bool] | None = None  # None: `equal` below
    # Why a difference has no effect on these two sides; None: it has one.
    harmless: Callable[[ConfigSide, ConfigSide], str | None] = lambda _a, _b: None
    says: bool = False  # a difference without effect is worth a line
    cannot: str = ""  # a sentence for a value without a flag
    # The flags, if `args` do not give them; None: they do.
    fix: Callable[[Any, ConfigSide], FlagFix | None] | None = None
    # The steps of a forward pass that another value can move (see `moves`).
    moves: frozenset[str] = field(kw_only=True)

    def has_effect(self, side: ConfigSide) -> bool:
        """Return whether a side's model uses the value at all."""
        return bool(guarded(self.applies, side))

    def read(self, side: ConfigSide) -> Stated | None:
        """Return what a side states; None if it states nothing, or what makes no sense."""
        found: Stated | None = guarded(self.hf if side.kind == "hf" else self.megatron, side)
        if found is not None and found.source == MEGATRON and side.yaml is not None:
            return None
        return found

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two values mean the same."""
        return bool(guarded(self.equal or equal, a, b))

    def why_harmless(self, a: ConfigSide, b: ConfigSide) -> str | None:
        """Return why a difference has no effect; None if it has one."""
        found: str | None = guarded(self.harmless, a, b)
        return found

    def flag(self, value: Any, side: ConfigSide) -> Fix | None:
        """Return the flags that give a Megatron side this value; None if there are none.

        For a config in YAML it is the entry.
        """
        if side.yaml is not None:
            entries = self.settings(value, side, "megatron")
            return None if not entries else guarded(in_yaml, entries, side)
        settings = self.settings(value, side, "megatron")
        if settings is not None and not side.spelled.keys().isdisjoint(settings):
            return None  # the side has an arg of an older release
        found: FlagFix | None = None
        if self.fix is not None:
            found = guarded(self.fix, value, side)
        elif settings is not None:
            found = guarded(flags, settings, side)
        releases = releases_of(found) if found is not None else ()
        if found is None or not releases:
            return None
        return found if DEFAULT in releases else replace(found, release=releases[0])

    def settings(self, value: Any, side: ConfigSide, kind: Kind) -> Settings | None:
        """Return the fields that give a side of this kind a value; None if it cannot have it."""
        found: Settings | None = guarded(
            self.args if kind == "megatron" else self.entries, value, side
        )
        return found


def guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns; None if a value of the file, of any type, makes it fail."""
    try:
        return function(*arguments)
    except (
        TypeError, ValueError, ArithmeticError, AttributeError, LookupError,
        RuntimeError, StopIteration,
    ):  # fmt: skip
        return None


def equal(a: Any, b: Any) -> bool:
    """Return whether two values are equal; numbers to a relative 1e-6, as one may be a float32."""
    if is_number(a) and is_number(b):
        return a == b or math.isclose(a, b, rel_tol=1e-6)
    return type(a) is type(b) and bool(a == b)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ── readers ──────────────────────────────────────────────────────────────────────────────────


def stated(*names: str, by: Callable[[Any], Any] = lambda value: value) -> Reader:
    """Read the first of these fields that is there and not null; `by` gives the value of it."""

    def read(side: ConfigSide) -> Stated | None:
        for name in names:
            raw = side.get(name)
            if raw is not None:
                return Stated(by(raw), leaf(name), raw)
        return None

    return read


def leaf(name: str) -> str:
    """Return a field's name as results show it: the RoPE base is `rope_theta` in any object."""
    return name.rpartition(".")[2] if name.endswith(".rope_theta") else name


def number(*names: str) -> Reader:
    """Read a field that has to be a number."""

    def by(raw: Any) -> Any:
        if not is_number(raw):
            raise TypeError(raw)
        return raw

    return stated(*names, by=by)


def switch(*names: str, inverted: bool = False) -> Reader:
    """Read a field that is true or false."""
    return stated(*names, by=lambda raw: bool(raw) is not inverted)


def default(reader: Reader, value: Any, source: str, *, weak: bool = False) -> Reader:
    """Read what `reader` finds; a field that is absent or null means `value`."""

    def read(side: ConfigSide) -> Stated | None:
        found = reader(side)
        return found if found is not None else Stated(value, None, value, source, weak)

    return read


def null_means(names: tuple[str, ...], reader: Reader, value: Any) -> Reader:
    """Read what `reader` finds; a field that is there but null states `value`."""

    def read(side: ConfigSide) -> Stated | None:
        found = reader(side)
        if found is not None and found.source is None:
            return found
        name = next((name for name in names if side.has(name)), None)
        return Stated(value, name, None) if name is not None else found

    return read


def by_family(values: Mapping[str, Any], other: Any) -> Reader:
    """Read what the family fixes: its entry in `values`, or else `other`."""

    def read(side: ConfigSide) -> Stated | None:
        if side.family is None:
            return None
        value = values.get(side.family, other)
        return Stated(value, None, value, f"every {side.family} model")

    return read


def first(*readers: Reader) -> Reader:
    """Read with the first of these readers that finds a value."""

    def read(side: ConfigSide) -> Stated | None:
        return next((found for r in readers if (found := r(side)) is not None), None)

    return read


def from_tensors(ends: tuple[str, ...], what: str) -> Reader:
    """Read from the tensors whether the model has a part: a name ends like one of these."""

    def read(side: ConfigSide) -> Stated | None:
        if not side.tensors:
            return None
        found = any(name.endswith(ends) for name in side.tensors)
        words = f"{'a' if found else 'no'} {what} among the tensors"
        return Stated(found, None, found, words, weak=True)  # tensors may be missing

    return read


def where(condition: Callable[[ConfigSide], bool], reader: Reader, otherwise: Reader) -> Reader:
    """Read with `reader` if the condition holds for the side, else with `otherwise`."""
    return lambda side: (reader if condition(side) else otherwise)(side)


def whole(value: Any) -> Any:
    """Return a float without a fraction as an integer, any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ── setters ──────────────────────────────────────────────────────────────────────────────────


def sets(name: str, by: Callable[[Any], Any] = lambda value: value) -> Setter:
    """Set one field to the value."""
    return lambda value, _: {name: by(value)}


def sets_not(name: str) -> Setter:
    """Set one field to the opposite."""
    return lambda value, _: {name: not value}


def sets_in(name: str, families: Mapping[str, str]) -> Setter:
    """Set a field that `families` name otherwise; "" where the family's class fixes the value."""

    def setter(value: Any, side: ConfigSide) -> Settings:
        field = families.get(side.family or "", name)
        return {field: value} if field else {}

    return setter


def only(families: Iterable[str], name: str) -> Setter:
    """Set a field that only the configs of these families have."""
    return sets_in("", dict.fromkeys(families, name))


def sets_nothing(_value: Any, _side: ConfigSide) -> Settings:
    """Set nothing: the value follows from others. Whether it does shows when it is read again."""
    return {}


def cannot_set(_value: Any, _side: ConfigSide) -> None:
    """Return None: a side cannot be given the value."""


def flags(settings: Settings, side: ConfigSide) -> FlagFix | None:
    """Return the flags that give a Megatron side these args; None if nothing is to be changed."""
    given, left_out = [], []
    for name, value in settings.items():
        flag = flag_of(name)
        is_given = not value if is_off_switch(name) else value
        if is_given is None or is_given is False:
            if len(settings) == 1 or bool(side.get(name)) is not bool(value):
                left_out.append(flag)
        else:
            given.append((flag,) if is_given is True else (flag, show(value)))
    return FlagFix(tuple(given), tuple(left_out)) if given or left_out else None


def in_yaml(settings: Settings, side: ConfigSide) -> EntryFix | None:
    """Return the entries that give a side with a YAML config these args; None if they cannot."""
    if side.yaml is None or settings.keys() & _OF_ARGS_ALONE:
        return None
    entries = []
    for name, value in settings.items():
        spelled = side.spelled.get(name, name)
        if name == UNTIED:
            spelled, value = TIED, not value
        words = {None: "null", True: "true", False: "false"}
        plain = value is None or isinstance(value, bool)
        entries.append(f"{spelled}: {words[value] if plain else show(value)}")
    return EntryFix(", ".join(entries), side.yaml)


# Switches that stand for several fields of the classes.
_OF_ARGS_ALONE = frozenset({"swiglu", "squared_relu", "openai_gelu", "quick_geglu"})


def show(value: Any) -> str:
    """Return a value as a flag's argument."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


# Sources of a value that no field states.
TRANSFORMERS = "transformers' default"
MEGATRON = "Megatron's default"
