"""What a line of the config table is made of: how a meaning is read, compared and mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Reader = Callable[["ConfigSide"], "Stated | None"]  # None: this side does not tell
    Settings = Mapping[str, Any]  # fields and what they are set to
    # What gives a side a value; the second argument is a side, of either kind, of the same shape.
    Setter = Callable[[Any, "ConfigSide"], Settings | None]  # None: nothing can

Kind = Literal["hf", "megatron"]
ON = object()  # equals no value


@dataclass(frozen=True, slots=True)
class ConfigSide:
    """One side's settings, and what else says how its model computes."""

    kind: Kind
    fields: Mapping[str, Any]  # config.json or args, as they are in the file
    family: str | None  # name of the Architecture; None where no rules are known
    tensors: frozenset[str]  # the ends of canonical names, `q_proj.bias` and the like
    tied_by_default: bool = False  # what a config.json of the family means without the field

    def get(self, name: str) -> Any:
        """Return a field by its path, `rope_scaling.factor`; None where it is absent or null."""
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
    """What a side says: `value` is comparable between sides, `raw` is as it is in the file."""

    value: Any
    name: str | None = None  # the field; None where no field says it
    raw: Any = None
    source: str | None = None  # from what it follows; None: the file states it
    weak: bool = False  # it follows only as long as nothing was set outside the file


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One line of the table."""

    name: str
    hf: Callable[[ConfigSide], Stated | None]
    megatron: Callable[[ConfigSide], Stated | None]
    consequence: str  # of a conflict, one sentence
    args: Setter  # what gives a Megatron side this value
    entries: Setter  # what gives it to a config.json; the side is of the family it is written for
    applies: Callable[[ConfigSide], bool] = lambda _: True  # else the value is without effect
    always: bool = False  # written even so: Megatron and transformers want the field
    off: Any = ON  # where both sides have this value, nobody wants to read of it
    equal: Callable[[Any, Any], bool] | None = None  # None: equal values, numbers rounded
    # Why a difference changes nothing on these two sides; None: it does.
    harmless: Callable[[ConfigSide, ConfigSide], str | None] = lambda _a, _b: None
    cannot: str = ""  # said of a value for which there is no flag
    # The flag, where it says more than `args`; None: the flags are those of `args`.
    fix: Callable[[Any, ConfigSide], str | None] | None = None

    def has_effect(self, side: ConfigSide) -> bool:
        """Return whether a side's model uses the value at all."""
        return bool(_guarded(self.applies, side))

    def read(self, side: ConfigSide) -> Stated | None:
        """Return what a side says; a field that makes no sense says nothing."""
        found: Stated | None = _guarded(self.hf if side.kind == "hf" else self.megatron, side)
        return found

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two values mean the same."""
        return bool(_guarded(self.equal or equal, a, b))

    def why_harmless(self, a: ConfigSide, b: ConfigSide) -> str | None:
        """Return why a difference changes nothing; None if it does."""
        found: str | None = _guarded(self.harmless, a, b)
        return found

    def flag(self, value: Any, side: ConfigSide) -> str | None:
        """Return the flag that gives a Megatron side this value, if there is one."""
        if self.fix is not None:
            found: str | None = _guarded(self.fix, value, side)
            return found
        settings = self.settings(value, side, "megatron")
        text: str | None = None if settings is None else _guarded(flags, settings, side)
        return text

    def settings(self, value: Any, side: ConfigSide, kind: Kind) -> Settings | None:
        """Return the fields that give a side of this kind a value; None where it cannot have it."""
        found: Settings | None = _guarded(
            self.args if kind == "megatron" else self.entries, value, side
        )
        return found


def _guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call with values of a file, which may be of any type: what they upset gives None."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError):
        return None


def equal(a: Any, b: Any) -> bool:
    """Compare values; numbers may have gone through a float32."""
    if is_number(a) and is_number(b):
        return a == b or math.isclose(a, b, rel_tol=1e-6)
    return type(a) is type(b) and bool(a == b)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ── readers ──────────────────────────────────────────────────────────────────────────────────


def stated(*names: str, by: Callable[[Any], Any] = lambda value: value) -> Reader:
    """Read the first of these fields that is there and not null."""

    def read(side: ConfigSide) -> Stated | None:
        for name in names:
            raw = side.get(name)
            if raw is not None:
                return Stated(by(raw), leaf(name), raw)
        return None

    return read


def leaf(name: str) -> str:
    """Return a field's name as results say it: the RoPE base is `rope_theta` wherever it lies."""
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
    """Read what the class of the model fixes: an entry of `values`, or else `other`."""

    def read(side: ConfigSide) -> Stated | None:
        if side.family is None:
            return None
        value = values.get(side.family, other)
        return Stated(value, None, value, f"every {side.family} model")

    return read


def first(*readers: Reader) -> Reader:
    """Read by the first of these that tells something."""

    def read(side: ConfigSide) -> Stated | None:
        return next((found for r in readers if (found := r(side)) is not None), None)

    return read


def from_tensors(ends: tuple[str, ...], what: str) -> Reader:
    """Read off the tensors whether the model has a part: one of these names is there."""

    def read(side: ConfigSide) -> Stated | None:
        if not side.tensors:
            return None
        found = any(name.endswith(ends) for name in side.tensors)
        words = f"{'a' if found else 'no'} {what} among the tensors"
        return Stated(found, None, found, words, weak=True)  # tensors may be lacking

    return read


def where(condition: Callable[[ConfigSide], bool], reader: Reader, otherwise: Reader) -> Reader:
    """Read by one reader or another, as the side is."""
    return lambda side: (reader if condition(side) else otherwise)(side)


def whole(value: Any) -> Any:
    """Return a number as an integer, if it is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ── setters ──────────────────────────────────────────────────────────────────────────────────


def sets(name: str, by: Callable[[Any], Any] = lambda value: value) -> Setter:
    """Set one field to the value."""
    return lambda value, _: {name: by(value)}


def sets_not(name: str) -> Setter:
    """Set one field to the opposite."""
    return lambda value, _: {name: not value}


def sets_in(name: str, families: Mapping[str, str]) -> Setter:
    """Set the field that a family calls otherwise; "" where its class fixes the value."""

    def setter(value: Any, side: ConfigSide) -> Settings:
        field = families.get(side.family or "", name)
        return {field: value} if field else {}

    return setter


def only(families: Iterable[str], name: str) -> Setter:
    """Set a field that the configs of these families alone have."""
    return sets_in("", dict.fromkeys(families, name))


def sets_nothing(_value: Any, _side: ConfigSide) -> Settings:
    """Leave a value to follow from the others; whether it does is seen on reading it again."""
    return {}


def cannot_set(_value: Any, _side: ConfigSide) -> None:
    """Say that a side cannot be given the value."""


# Arguments that are on unless a flag of another name turns them off.
_TURNED_OFF_BY = {
    "add_bias_linear": "--disable-bias-linear",
    "bias_gelu_fusion": "--no-bias-gelu-fusion",
}


def flags(settings: Settings, side: ConfigSide) -> str | None:
    """Return the command line that gives a Megatron side these arguments; None for no change."""
    given, left_out = [], []
    for name, value in settings.items():
        flag = _TURNED_OFF_BY.get(name, "--" + name.replace("_", "-"))
        is_given = not value if name in _TURNED_OFF_BY else value
        if is_given is None or is_given is False:
            if len(settings) == 1 or bool(side.get(name)) is not bool(value):
                left_out.append(f"leave out {flag}")
        else:
            given.append(flag if is_given is True else f"{flag} {show(value)}")
    return ", ".join([*left_out, *([" ".join(given)] if given else [])]) or None


def show(value: Any) -> str:
    """Return a value as a flag takes it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


TRANSFORMERS = "transformers' default"
MEGATRON = "Megatron's default"
