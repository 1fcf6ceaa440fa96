"""What a line of the config table is made of: how a meaning is read, compared and mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[["Side"], "Reading | None"]  # None: this side does not tell

Kind = Literal["hf", "megatron"]
ON = object()  # equals no value


@dataclass(frozen=True, slots=True)
class Side:
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
class Reading:
    """What a side says: `value` is comparable between sides, `raw` is as it is in the file."""

    value: Any
    name: str | None = None  # the field; None where no field says it
    raw: Any = None
    source: str | None = None  # from what it follows; None: the file states it
    weak: bool = False  # it follows only as long as nothing was set outside the file


@dataclass(frozen=True, slots=True)
class Meaning:
    """One line of the table."""

    name: str
    hf: Callable[[Side], Reading | None]
    megatron: Callable[[Side], Reading | None]
    consequence: str  # of a conflict, one sentence
    # The flag that gives a Megatron side this value; None: there is none.
    fix: Callable[[Any, Side], str | None]
    applies: Callable[[Side], bool] = lambda _: True  # else the value is without effect
    off: Any = ON  # where both sides have this value, nobody wants to read of it
    equal: Callable[[Any, Any], bool] | None = None  # None: equal values, numbers rounded
    # Why a difference changes nothing on these two sides; None: it does.
    harmless: Callable[[Side, Side], str | None] = lambda _a, _b: None
    cannot: str = ""  # said of a value for which there is no flag

    def has_effect(self, side: Side) -> bool:
        """Return whether a side's model uses the value at all."""
        return bool(_guarded(self.applies, side))

    def read(self, side: Side) -> Reading | None:
        """Return what a side says; a field that makes no sense says nothing."""
        found: Reading | None = _guarded(self.hf if side.kind == "hf" else self.megatron, side)
        return found

    def same(self, a: Any, b: Any) -> bool:
        """Return whether two values mean the same."""
        return bool(_guarded(self.equal or equal, a, b))

    def why_harmless(self, a: Side, b: Side) -> str | None:
        """Return why a difference changes nothing; None if it does."""
        found: str | None = _guarded(self.harmless, a, b)
        return found

    def flag(self, value: Any, side: Side) -> str | None:
        """Return the flag that gives a Megatron side this value, if there is one."""
        found: str | None = _guarded(self.fix, value, side)
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

    def read(side: Side) -> Reading | None:
        for name in names:
            raw = side.get(name)
            if raw is not None:
                return Reading(by(raw), leaf(name), raw)
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

    def read(side: Side) -> Reading | None:
        found = reader(side)
        return found if found is not None else Reading(value, None, value, source, weak)

    return read


def null_means(names: tuple[str, ...], reader: Reader, value: Any) -> Reader:
    """Read what `reader` finds; a field that is there but null states `value`."""

    def read(side: Side) -> Reading | None:
        found = reader(side)
        if found is not None and found.source is None:
            return found
        name = next((name for name in names if side.has(name)), None)
        return Reading(value, name, None) if name is not None else found

    return read


def by_family(values: Mapping[str, Any], other: Any) -> Reader:
    """Read what the class of the model fixes: an entry of `values`, or else `other`."""

    def read(side: Side) -> Reading | None:
        if side.family is None:
            return None
        value = values.get(side.family, other)
        return Reading(value, None, value, f"every {side.family} model")

    return read


def first(*readers: Reader) -> Reader:
    """Read by the first of these that tells something."""

    def read(side: Side) -> Reading | None:
        return next((found for r in readers if (found := r(side)) is not None), None)

    return read


def from_tensors(ends: tuple[str, ...], what: str) -> Reader:
    """Read off the tensors whether the model has a part: one of these names is there."""

    def read(side: Side) -> Reading | None:
        if not side.tensors:
            return None
        found = any(name.endswith(ends) for name in side.tensors)
        words = f"{'a' if found else 'no'} {what} among the tensors"
        return Reading(found, None, found, words, weak=True)  # tensors may be lacking

    return read


def where(condition: Callable[[Side], bool], reader: Reader, otherwise: Reader) -> Reader:
    """Read by one reader or another, as the side is."""
    return lambda side: (reader if condition(side) else otherwise)(side)


# ── fixes ────────────────────────────────────────────────────────────────────────────────────


def flag(name: str) -> Callable[[Any, Side], str]:
    """Mend by a flag that takes the value."""
    return lambda value, _: f"{name} {show(value)}"


def switch_flag(name: str, *, inverted: bool = False) -> Callable[[Any, Side], str]:
    """Mend by a flag that is given, or left out."""
    return lambda value, _: name if bool(value) is not inverted else f"leave out {name}"


def no_flag(_value: Any, _side: Side) -> None:
    """Say that no flag of Megatron's mends it."""


def show(value: Any) -> str:
    """Return a value as a flag takes it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


TRANSFORMERS = "transformers' default"
MEGATRON = "Megatron's default"
