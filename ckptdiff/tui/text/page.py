"""A page of the guide as it is drawn, in a pager as on the screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from rich.markdown import Heading, Markdown, MarkdownElement
from rich.theme import Theme

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

WIDEST = 100  # columns; longer lines are hard to read
# Rich's own style of code has a black background, which a light terminal has not.
STYLES = Theme(
    {
        "markdown.h1": "bold",
        "markdown.h2": "bold underline",
        "markdown.code": "bold cyan",
        "markdown.item.bullet": "bold",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
    }
)
_LINK = re.compile(r"\[([^]]+)\]\(([\w-]+)\.md[^)]*\)")


class _Heading(Heading):
    """Begins where the text does; Rich's own stands in the middle."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
    }


class Page:
    """Markdown, with the command that prints another page in the place of a link to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._markdown = _Markdown(
            _LINK.sub(r"\1 (`ckptdiff help \2`)", text), hyperlinks=False, code_theme="ansi_dark"
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with console.use_theme(STYLES):
            yield from console.render(
                self._markdown, options.update_width(min(options.max_width, WIDEST))
            )
