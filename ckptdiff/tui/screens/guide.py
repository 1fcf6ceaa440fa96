"""The screen of the guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ckptdiff.guide.topics import FAULTS, page, topics
from ckptdiff.tui.keymap import key
from ckptdiff.tui.screens.base import BaseScreen
from ckptdiff.tui.text.page import Page

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.tui.base_app import BaseApp


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
        #page Static { width: 100%; max-width: 101; padding: 0 1 0 0; }
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
            yield Static(markup=False)

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
        # Tables and bullets are drawn with more than ASCII; the source of a page is ASCII. A page
        # is drawn by rich, as one widget: Textual's Markdown makes 900 of the longest page, which
        # takes ten times as long.
        box.query_one(Static).update(Content(text) if self.app.ascii_only else Page(text))
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
