"""What Megatron's args do that is not computed here, and args whose meaning nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.config.effects import EFFECTS
from ckptdiff.config.fields.base import guarded
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ckptdiff.config.fields import ConfigSide

    Args = Mapping[str, Any]

_MOST = 3  # args that are named of those whose meaning nobody knows
_NOBODY = "no release of Megatron-LM that is known has it"


@dataclass(frozen=True, slots=True)
class UnknownArg:
    """An arg of which it is not computed what it does."""

    name: str
    value: Any
    does: str | None  # None: nobody knows
    sure: bool  # whether it surely changes what is computed

    @property
    def text(self) -> str:
        return f"{self.name} {_short(self.value)}"


def unknown_args(args: Args, *, parts: bool = False) -> Iterator[UnknownArg]:
    """Yield the args that change what is computed, as far as one knows, and are not computed.

    With `parts`, also those that say more of a switch that is among them.
    """
    for name, value in args.items():
        effect = EFFECTS.get(name)
        if effect is not None and effect.of and not parts:
            continue
        if effect is None:
            if value:
                yield UnknownArg(name, value, None, sure=False)
        elif not guarded(effect.is_known, value, args):
            yield UnknownArg(name, value, effect.words, effect.sure)


def not_computed(args: Args, said: Collection[str]) -> list[str]:
    """Return what is not computed of args, but for those `said`, in words that follow on "B: "."""
    found = [one for one in unknown_args(args) if one.name not in said]
    nobody = [one.text for one in found if one.does is None]
    words = [f"{one.text} ({one.does})" for one in found if one.does is not None]
    if nobody:
        more = f" and {len(nobody) - _MOST} more" if len(nobody) > _MOST else ""
        words.append(f"{', '.join(nobody[:_MOST])}{more} ({_NOBODY})")
    return words


def noted(args: Args) -> list[str]:
    """Return a line for each arg on which no logit depends here, but one elsewhere may."""
    found: dict[str, list[str]] = {}
    for name, value in args.items():
        effect = EFFECTS.get(name)
        if effect is not None and effect.noted and value:
            found.setdefault(effect.words, []).append(f"{name} {_short(value)}")
    return [f"{', '.join(names)} in Megatron's args: {words}" for words, names in found.items()]


@dataclass(frozen=True, slots=True)
class ArgsLine:
    """One arg that differs between two sides, at least one of them Megatron's."""

    name: str
    a: Any  # None: the side does not say
    b: Any
    does: str | None  # None: nobody knows
    sure: bool


def differing_args(a: ConfigSide, b: ConfigSide) -> Iterator[ArgsLine]:
    """Yield the args that differ and that no line of the config table can show.

    Beside a Hugging Face side, those that are on: no config.json says them.
    """
    parts = a.kind == b.kind
    sides = [
        (side, {one.name: one for one in unknown_args(side.fields, parts=parts)})
        if side.kind == "megatron"
        else (side, {})
        for side in (a, b)
    ]
    for name in dict.fromkeys(name for _, found in sides for name in found):
        values = [side.get(name) if side.kind == "megatron" else None for side, _ in sides]
        if values[0] == values[1] and type(values[0]) is type(values[1]):
            continue
        one = next(found[name] for _, found in sides if name in found)
        spelled = next((side.spelled[name] for side, _ in sides if name in side.spelled), name)
        yield ArgsLine(spelled, values[0], values[1], one.does, one.sure)


def _short(value: Any) -> str:
    text = config_value_text(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
