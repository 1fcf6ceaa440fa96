"""Paint the lines of a report: each begins with what it is, so no name in it can change a colour.

A line begins with a glyph, a letter or a word of ours, or with blanks; what comes from a file
stands behind it. Colours go from blue to red, which colour-blind people tell apart, and repeat what
the glyph says.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.text import Text
from rich.theme import Theme

from ckptdiff.cli.table import table_lines
from ckptdiff.report.tensor_table import TensorTable

if TYPE_CHECKING:
    from collections.abc import Iterator

# Colours that a terminal's own palette has, for light and dark grounds.
THEME = Theme(
    {
        "same": "blue",
        "close": "yellow",
        "bad": "bold red",
        "note": "blue",
        "kind": "bold magenta",
        "figure": "cyan",
        "dtype": "magenta",
        "label": "bold",
        "command": "green",
        "quiet": "dim",
    },
    inherit=False,
)
_SIDES = ("A  ", "B  ")
# How prose begins, and behind which comes a command that is to be copied as one line.
_PROSE = ("   ", *_SIDES, "verdict: ", *(f"{glyph}  " for glyph in "=~@%?!#<>x✗i"))
_COMMAND = "     fix: "


class _Words(RegexHighlighter):
    """What is painted of a line that is no row of the table. Later rules win."""

    highlights = [  # noqa: RUF012 -- Rich's way
        r"(?<![\w./-])(?P<figure>[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?%?)(?![\w/-]|\.\d)",
        r"^(?P<same>=)  ",
        r"^(?P<close>[~@%?])  ",
        r"^(?P<bad>[!#<>x✗])  ",
        r"^(?P<note>i)  ",
        r"^(?P<label>[AB])  ",
        r"^[✗i]  (?P<kind>[A-Z][A-Z0-9]*(?:-[A-Z]+)*): ",
        r"^     (?P<label>fix|cause): ",
        r"^     fix: (?P<command>.*)$",
        r"^\d+ tensors?: (?:.*, )?(?P<same>\d+ same)",
        r"^\d+ tensors?: (?:.*, )?(?P<close>\d+ close)",
        r"^\d+ tensors?: (?:.*, )?(?P<close>\d+ (?:matched|packed))",
        r"^\d+ tensors?: (?:.*, )?(?P<bad>\d+ differ)",
        r"^\d+ tensors?: (?:.*, )?(?P<bad>\d+ shape)",
        r"^\d+ tensors?: (?:.*, )?(?P<bad>\d+ only in A)",
        r"^\d+ tensors?: (?:.*, )?(?P<bad>\d+ only in B)",
        r"^\d+ tensors?: (?:.*, )?(?P<bad>\d+ error)",
        r"^(?P<label>verdict): (?P<same>same|arithmetic)",
        r"^verdict: (?P<close>close|matched|packed|small|undecided)",
        r"^verdict: (?P<bad>differ|trouble|weights-or-config)",
        r"^(?P<label>from|to|cast|note)  ",
        r"^(?P<bad>lost|short)  ",
        r"^(?P<same>verified): ",
        r"^(?P<close>wrote) .* not verified$",
        r"^(?P<bad>incomplete, as the source is)",
        r"^(?P<bad>\S.* cannot (?:compute|say) this model): ",
    ]


class _ListingWords(RegexHighlighter):
    """What is painted of a line of `ls`, which begins with a name: only how it ends."""

    highlights = [  # noqa: RUF012 -- Rich's way
        r"  (?P<dtype>[A-Z][A-Z0-9_]+) +(?P<figure>[0-9x]+|scalar) +(?P<quiet>[\d.]+ [kMGT]?B.*)$",
        r"^(?P<bad>✗)  ",
    ]


class Painter:
    """Makes text with colours for the standard output."""

    def __init__(self, *, is_laid_out: bool, is_listing: bool) -> None:
        self._console = Console(theme=THEME, highlight=False, markup=False, emoji=False)
        self._width = self._console.width if is_laid_out else None
        self._words = _ListingWords() if is_listing else _Words()
        self._is_wrapping = is_laid_out and not is_listing

    def painted(self, part: str | TensorTable) -> str:
        """Return a part of a report as it is written, with its line feeds."""
        # Captured, as Rich would end the program itself where the reader of a pipe has left.
        with self._console.capture() as captured:
            for line in self._lines(part):
                self._console.print(line, soft_wrap=True)
        return captured.get()

    def _lines(self, part: str | TensorTable) -> Iterator[Text]:
        if isinstance(part, TensorTable):
            if self._width is None:
                yield from map(self._words, part.lines())
            else:
                for row in table_lines(part, self._width):
                    yield from self._wrapped(row) if isinstance(row, str) else (row,)
        else:
            yield from self._wrapped(part)

    def _wrapped(self, line: str) -> Iterator[Text]:
        """Yield prose in as many lines as it takes, each as far to the right as the first.

        All else is left to the terminal, and so is what holds a word that is wider.
        """
        text, room = self._words(line), self._width or 0
        # The facts of a side are told apart by two blanks, and hold one.
        pieces = list(re.finditer(r"\S+(?: \S+)*" if line.startswith(_SIDES) else r"\S+", line))
        indent = len(line) - len(line.lstrip(" ")) or (3 if line[1:3] == "  " else 0)
        pieces = [piece for piece in pieces if piece.end() > indent]
        widest = max((cell_len(piece[0]) for piece in pieces), default=0)
        is_prose = line.startswith(_PROSE) and not line.startswith(_COMMAND)
        is_short = text.cell_len <= room or widest + indent > room
        if is_short or not (self._is_wrapping and is_prose):
            yield text
            return
        start = 0
        for piece, following in pairwise(pieces):
            first = indent if start else 0  # the first line has its own
            if first + cell_len(line[start : following.end()]) > room:
                yield Text.assemble(" " * first, text[start : piece.end()])
                start = following.start()
        yield Text.assemble(" " * indent, text[start:])
