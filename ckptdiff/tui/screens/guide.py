"""The screen of the guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.style import Style as RichStyle
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.style import Style

from ckptdiff.guide.topics import FAULTS, page, topics
from ckptdiff.tui.keymap import key
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.page import Page
from ckptdiff.tui.widgets.painted import Painted

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.tui.base_app import BaseApp
    from ckptdiff.tui.text.lines import Line


# The roles whose colours stand for those that rich and its highlighter of code give.
INKS = {
    "cyan": "packed",
    "bright_cyan": "packed",
    "yellow": "differ",
    "bright_blue": "close",
    "bright_black": "same",
    "bright_magenta": "shape",
    "bright_green": "close",
    "bright_red": "differ",
}


class PageText(Painted):
    """A page drawn by rich, as lines of text that the mouse can select.

    It is one widget: Textual's Markdown makes 900 of the longest page, which takes ten times as
    long.
    """

    def show(self, text: str, *, ascii_only: bool) -> None:
        # Tables and bullets are drawn with more than ASCII; the source of a page is ASCII.
        self._page: Text | Page = Text(text) if ascii_only else Page(text)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002
        console = self.app.console
        drawn = console.render_lines(self._page, console.options.update_width(width), pad=False)
        return [tuple((text, str(style or "")) for text, style, _ in line) for line in drawn]

    def _style(self, role: str) -> Style:
        """Return the style that rich gave a text, whose definition is its role.

        Its colour becomes one of the theme's, if that has one: the 16 of a terminal are too pale
        on a light background.
        """
        drawn = RichStyle.parse(role)
        style = Style.from_rich_style(drawn, self.app.ansi_theme)
        ink = INKS.get(drawn.color.name) if drawn.color is not None else None
        foreground = (
            None
            if ink is None
            else self.get_visual_style(f"painted--{ink}", partial=True).foreground
        )
        return style if foreground is None else style + Style(foreground=foreground)


class GuideScreen(BaseScreen[None]):
    """Shows one page of the guide, or what it holds on one fault class."""

    app: BaseApp
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll(1)", "Down", id="guide.down", tooltip="one line down"),
        Binding("k,up", "scroll(-1)", "Up", show=False, id="guide.up", tooltip="one line up"),
        Binding(
            "ctrl+d,pagedown,space", "page(1)", "Page", id="guide.page_down",
            tooltip="one page down",
        ),
        Binding(
            "ctrl+u,pageup", "page(-1)", "Page up", show=False, id="guide.page_up",
            tooltip="one page up",
        ),
        Binding("g,home", "ends(-1)", "Top", show=False, id="guide.top", tooltip="to the top"),
        Binding("G,end", "ends(1)", "End", show=False, id="guide.end", tooltip="to the end"),
        Binding("n", "next(1)", "Next page", id="guide.next", tooltip="the next page of the guide"),
        Binding(
            "N", "next(-1)", "Page before", show=False, id="guide.previous",
            tooltip="the page before",
        ),
    ]  # fmt: skip
    DEFAULT_CSS = """
    GuideScreen {
        #page {
            height: 1fr;
            padding: 0 1;
            border: solid $foreground 40%;
            border-title-style: bold;
            scrollbar-size-vertical: 1;
            &:focus { border: solid $primary; }
        }
        #page PageText { width: 100%; max-width: 101; padding: 0 1 0 0; }
        &.-ascii #page { border: ascii $foreground 60%; }
    }
    """

    def __init__(self, topic: str) -> None:
        super().__init__()
        self.topic = topic

    def compose_body(self) -> ComposeResult:
        with VerticalScroll(id="page") as box:
            box.border_subtitle = (
                f"{key('guide.next', 'n')} and {key('guide.previous', 'N')} show other pages"
            )
            yield PageText()

    def on_mount(self) -> None:
        self.set_class(self.app.ascii_only, "-ascii")
        self.query_one("#page").focus()
        self.show(self.topic)

    def show(self, topic: str) -> None:
        """Show a page from its beginning."""
        self.topic = topic
        text = page(topic)
        box = self.query_one("#page", VerticalScroll)
        box.border_title = Content(f"Guide: {topic}")
        box.query_one(PageText).show(text, ascii_only=self.app.ascii_only)
        box.scroll_home(animate=False)

    def action_scroll(self, lines: int) -> None:
        self.query_one("#page").scroll_relative(y=lines, animate=False)

    def action_page(self, pages: int) -> None:
        box = self.query_one("#page")
        box.scroll_relative(y=pages * max(1, box.size.height - 2), animate=False)

    def action_ends(self, direction: int) -> None:
        box = self.query_one("#page")
        box.scroll_to(y=box.max_scroll_y if direction > 0 else 0, animate=False)

    def action_next(self, step: int) -> None:
        names = list(topics())
        if self.topic in names:
            self.show(names[(names.index(self.topic) + step) % len(names)])
        else:  # a fault class: go to the page of all of them
            self.show(FAULTS)
