"""Draw a page of the guide with rich, for the screen and for `ckptdiff help`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from rich.markdown import Heading, Markdown, MarkdownElement
from rich.theme import Theme

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

WIDEST = 100  # columns; longer lines are hard to read
# Rich's own style for code has a black background, which is unreadable on a light terminal.
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
    """A heading aligned left; Rich centres its own."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
    }


class Page:
    """Markdown, in which a link to another page becomes the command that prints that page."""

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
