"""What every full screen has: a key line, a way back, and a word for each key that is greyed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from ckptdiff.tui.widgets.key_line import KeyLine
from ckptdiff.tui.widgets.too_small import TooSmall

if TYPE_CHECKING:
    from textual.app import ComposeResult

ResultT = TypeVar("ResultT")


class BaseScreen(Screen[ResultT]):
    """A screen with a key line at its bottom; subclasses yield the rest from `compose_body`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "question_mark,f1",
            "help",
            "Help",
            key_display="?",
            id="screen.help",
            tooltip="show the keys that work here and what the glyphs mean",
        ),
        Binding(
            "q", "back", "Back", id="screen.back", tooltip="go back one screen; the last one quits"
        ),
        Binding("escape", "escape", "Back", show=False, id="screen.escape", tooltip="go back"),
    ]

    def compose(self) -> ComposeResult:
        yield from self.compose_body()
        yield KeyLine()
        yield TooSmall()

    def compose_body(self) -> ComposeResult:
        yield from ()

    def why_not(self, action: str) -> str | None:  # noqa: ARG002
        """Return why an action cannot be done now; None if it can. Greyed keys say this."""
        return None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        return True if self.why_not(action) is None else None

    def action_help(self) -> None:
        from ckptdiff.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self))

    def action_back(self) -> None:
        """Go back one screen; from the first one, leave."""
        if len(self.app.screen_stack) > 2:  # the app's own blank screen lies at the bottom
            self.dismiss()
        else:
            self.app.exit()

    def action_escape(self) -> None:
        """Go back one screen; never leave, since Esc is often pressed once too many."""
        if len(self.app.screen_stack) > 2:
            self.dismiss()
        else:
            self.notify("This is the first screen. Press q to quit.")
