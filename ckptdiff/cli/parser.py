"""A parser whose errors are one line, as every other error is: what, where, what to do."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# The sentences of argparse that we have better words for.
_SENTENCES = (
    (r"the following arguments are required: (\S+)", r"\1 is missing"),
    (r"the following arguments are required: (.*)", r"\1 are missing"),
    (r"argument (\S+): expected (one|at least one) argument", r"\1 needs a value"),
    (r"argument (\S+): ignored explicit argument (.*)", r"\1 takes no value: \2 is too much"),
    (r"ambiguous option: (\S+) could match (.*)", r"\1 can be \2: write it out"),
    (r"argument (.*)", r"\1"),
)


class CommandParser(argparse.ArgumentParser):
    """The parser of ckptdiff or of one of its commands.

    `elsewhere` returns the command lines that have an option, such as `ckptdiff diff`.
    """

    elsewhere: Callable[[str], list[str]] | None = None

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words of a command line; exit with 2 and one line if they make no sense."""
        for word in _options_in(words):
            if not any(known.startswith(word) for known in self.options):
                self._refuse(self._no_option(word))
        options, extra = self.parse_known_args(words)
        for word in extra:
            if word.startswith("-") and word != "--":
                self._refuse(self._no_option(word))
        if extra:
            count = len(self.operands)
            at_most = "none is taken" if count == 0 else f"{_NUMBERS[count]} at most"
            self._refuse(f"{' '.join(extra)} is too much: {at_most}")
        return options

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line: argparse calls this."""
        choice = re.match(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from ", message)
        if choice is not None:
            self._refuse(self._no_choice(*choice.groups()))
        for pattern, sentence in _SENTENCES:
            message = re.sub(f"^{pattern}$", sentence, message)
        self._refuse(message)

    @property
    def options(self) -> list[str]:
        """The options, `--json` and `-v` alike."""
        return list(self._option_string_actions)

    @property
    def operands(self) -> list[argparse.Action]:
        """The arguments that are not options."""
        return self._get_positional_actions()

    def short_usage(self) -> str:
        """Return what a command line must have: `ckptdiff diff [OPTION]... A B`."""
        words = [self.prog, "[OPTION]...", *map(_operand, self.operands)]
        words += [_with_value(action) for action in self._actions
                  if action.option_strings and action.required]  # fmt: skip
        words += [
            f"({' | '.join(map(_with_value, group._group_actions))})"
            for group in self._mutually_exclusive_groups
            if group.required
        ]
        return " ".join(words)

    def _no_option(self, word: str) -> str:
        name = word.partition("=")[0]
        if others := self.elsewhere(name) if self.elsewhere is not None else []:
            return f"there is no option {name} here: it is one of {' and '.join(others)}"
        if found := get_close_matches(name, self.options, n=1, cutoff=0.75):
            return f"there is no option {name}. Is {found[0]} meant?"
        return f"there is no option {name}"

    def _no_choice(self, option: str, word: str) -> str:
        action = next(
            action for action in self._actions
            if "/".join(action.option_strings) == option or action.metavar == option
            or action.dest == option
        )  # fmt: skip
        choices = [str(choice) for choice in action.choices or ()]
        found = get_close_matches(word, choices, n=1)
        meant = f". Is {found[0]} meant?" if found else ""
        return f"{option}: invalid choice: '{word}' (choose from {', '.join(choices)}){meant}"

    def _refuse(self, sentence: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        where = f"{command}: " if command else ""
        usage = f"(usage: {self.short_usage()}; --help tells more)"
        self.exit(2, f"ckptdiff: {printable(f'{where}{sentence}')} {usage}\n")


_NUMBERS = ("none", "one", "two")


def _options_in(words: Iterable[str]) -> Iterator[str]:
    """Yield the long options of a command line, without their values."""
    for word in words:
        if word == "--":
            return
        if word.startswith("--") and " " not in word:
            yield word.partition("=")[0]


def _operand(action: argparse.Action) -> str:
    name = action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
    return {"?": f"[{name}]", "*": f"[{name} [{name}]]"}.get(str(action.nargs), str(name))


def _with_value(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ()))
    return f"{action.option_strings[-1]} {value}".rstrip()
