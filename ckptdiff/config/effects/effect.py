"""What an arg of Megatron does to a forward pass: the noun of the table of effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Args = Mapping[str, Any]

# computed: the forward pass or a line of the config table reads it. nothing: no logit depends on it
# in evaluation. rounding: only how exactly numbers are held does. training: a training run alone
# depends on it. not done: logits depend on it, and nothing here computes that.
Kind = Literal["computed", "nothing", "rounding", "training", "not done"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the table."""

    kind: Kind
    words: str  # what it does, or why it does nothing
    # Whether a value is computed here, or does nothing; None and False always are. None: every
    # value is.
    at: Callable[[Any], bool] | None = None
    # Whether, beside these other args, anything reads it.
    read: Callable[[Args], bool] = lambda _: True
    # Whether logits surely depend on it; else that is up to the tokens, or to the release.
    sure: bool = True
    of: str = ""  # the switch that it says more of, and that is unknown where it is on
    noted: bool = False  # worth a line wherever it is on, though no logit here depends on it

    def is_known(self, value: Any, args: Args) -> bool:
        """Return whether what an arg with this value changes, if anything, is computed here."""
        if self.at is None or value is None or value is False:
            return True
        return self.at(value) or not self.read(args)


def always(kind: Kind, by_words: Mapping[str, str], *, noted: bool = False) -> dict[str, Effect]:
    """Return the lines of args, whatever their values: names, by the words that they share."""
    return {
        name: Effect(kind, words, noted=noted)
        for words, names in by_words.items()
        for name in names.split()
    }


def computed_at(words: str, *values: Any) -> Effect:
    """Return the line of an arg of which these values alone are computed."""
    return Effect("computed", words, _one_of(values))


def changes(
    words: str,
    *off: Any,
    read: Callable[[Args], bool] = lambda _: True,
    sure: bool = True,
) -> Effect:
    """Return the line of an arg that is not computed; it does nothing at `off`, or when off."""
    return Effect("not done", words, _one_of(off), read, sure)


def parts_of(switch: str, words: str, names: str) -> dict[str, Effect]:
    """Return the lines of args that say more of a switch, and are read where it is on."""
    effect = Effect("not done", words, _one_of(()), on(switch), of=switch)
    return dict.fromkeys(names.split(), effect)


def on(*names: str) -> Callable[[Args], bool]:
    """Return whether args have one of these on."""
    return lambda args: any(bool(args.get(name)) for name in names)


def _one_of(known: tuple[Any, ...]) -> Callable[[Any], bool]:
    """Return whether a value, or each of a list, is one of these."""

    def at(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        return all(any(one == two for two in known) for one in values)

    return at
