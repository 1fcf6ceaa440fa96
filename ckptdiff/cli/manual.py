"""The manual page, made from the parsers.

Make it: python -m ckptdiff.cli.manual > ckptdiff/cli/ckptdiff.1
"""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from ckptdiff import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.cli.parser import CommandParser

_AFTER = r"""
.SH EXIT STATUS
.TP
.B 0
Done; of
.B diff
and
.BR logits :
both sides are the same, or close enough.
.TP
.B 1
They differ; of
.BR convert :
the target program cannot compute the model.
.TP
.B 2
Trouble: one paragraph on the standard error says what, where, and what to do.
.SH ENVIRONMENT
.TP
.B NO_COLOR
If it is set, nothing is coloured.
.TP
.B FORCE_COLOR
If it is set, colours are written into pipes too.
.TP
.B PAGER
Shows the pages of
.BR "ckptdiff help" .
.SH SEE ALSO
.B ckptdiff help
lists the pages of the guide, which are part of the program.
"""


def manual_page() -> str:
    """Return the manual page as troff."""
    return "\n".join([*_lines(), _AFTER.strip(), ""])


def _lines() -> Iterator[str]:
    from ckptdiff.cli.main import COMMANDS, parser_of

    whole = parser_of(None)
    yield f'.TH CKPTDIFF 1 "" "ckptdiff {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"ckptdiff \- compare and convert checkpoints of Hugging Face and Megatron"
    yield ".SH SYNOPSIS"
    for number, line in enumerate((whole.usage or "").splitlines()):
        words, _, _ = line.strip().partition("  ")
        yield from [] if number == 0 else [".br"]
        yield rf"\fB{_plain(words)}\fR"
    yield ".SH DESCRIPTION"
    yield from _wrapped(whole.description or "")
    yield "Two checkpoints are compared on the screen, one is browsed; A is the reference."
    yield ".SH OPTIONS"
    yield from _arguments(whole)
    yield ".SH COMMANDS"
    for name in COMMANDS:
        yield from _command(parser_of(name))
    yield ".SH EXAMPLES"
    yield from _example((whole.epilog or "").partition("\n\n")[0])


def _command(parser: CommandParser) -> Iterator[str]:
    yield f'.SS "{_plain(parser.short_usage())}"'
    yield from _wrapped(parser.description or "")
    yield from _arguments(parser, besides=("verbose",))
    examples, _, rest = (parser.epilog or "").partition("\n\n")
    if examples:
        yield ".PP"
        yield from _example(examples)
    if rest.strip():
        yield ".PP"
        yield from _wrapped(rest)


def _arguments(parser: CommandParser, besides: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a tagged paragraph for each argument that says more than its name."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.dest in besides:
            continue
        if not (action.option_strings or action.help):
            continue
        names = ", ".join(rf"\fB{_plain(name)}\fR" for name in action.option_strings)
        value = action.metavar or "|".join(map(str, action.choices or ()))
        yield ".TP"
        yield f"{names} {_italic(str(value))}".strip()
        yield from _wrapped(formatter._expand_help(action) if action.help else "")


def _example(text: str) -> Iterator[str]:
    """Yield lines that are kept as they are, without the first, which is a heading."""
    yield from (".EX", *map(_plain, text.splitlines()[1:]), ".EE")


def _italic(text: str) -> str:
    return rf"\fI{_plain(text)}\fR" if text else ""


def _wrapped(text: str) -> list[str]:
    return list(map(_plain, textwrap.wrap(text, 72, break_on_hyphens=False)))


def _plain(text: str) -> str:
    """Return text in which nothing is a command of troff."""
    for character, escape in (
        ("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("`", r"\(ga"), ("~", r"\(ti"), ("^", r"\(ha"),
        ('"', r"\(dq"),
    ):  # fmt: skip
        text = text.replace(character, escape)
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    print(manual_page(), end="")
