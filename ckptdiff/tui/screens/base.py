"""The base class of all full screens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ckptdiff.tui.keymap import key
from ckptdiff.tui.widgets.conversion_line import ConversionLine
from ckptdiff.tui.widgets.key_line import KeyLine
from ckptdiff.tui.widgets.too_small import TooSmall

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from ckptdiff.tui.base_app import BaseApp

ResultT = TypeVar("ResultT")


class BaseScreen(Screen[ResultT]):
    """A screen with a key line, help, and a way back. Subclasses compose the rest."""

    ALLOW_IN_MAXIMIZED_VIEW = "KeyLine, TooSmall"
    app: BaseApp
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "question_mark,f1",
            "help",
            "Help",
            id="screen.help",
            tooltip="show the keys that work here and what the glyphs mean",
        ),
        Binding(
            "m,plus",
            "maximise",
            "Maximise",
            show=False,
            id="screen.maximise",
            tooltip="give the pane in focus all the room, or give it back",
        ),
        Binding("q", "back", "Back", id="screen.back", tooltip="go back one screen"),
        Binding("q,ctrl+q", "leave", "Quit", id="screen.leave", tooltip="leave ckptdiff"),
        Binding("escape", "escape", "Back", show=False, id="screen.escape", tooltip="go back"),
    ]

    @property
    def is_first(self) -> bool:
        """Whether there is no screen to go back to, other than Textual's blank default one."""
        return self in self.app.screen_stack[:2]

    def compose(self) -> ComposeResult:
        yield from self.compose_body()
        yield ConversionLine()
        yield KeyLine()
        yield TooSmall()

    def compose_body(self) -> ComposeResult:
        """Yield the widgets above the key line."""
        yield from ()

    def conversion_changed(self) -> None:
        """Show the progress of the conversion in the background."""
        self.query(ConversionLine).first().update()

    def prompt_changed(self) -> None:
        """Show the progress of comparing logits. Screens that show it override this."""

    def scores_changed(self) -> None:
        """Show the progress of comparing scores. Screens that show it override this."""

    def why_not(self, action: str) -> str | None:  # noqa: ARG002
        """Return why an action is disabled now; None if it is enabled."""
        return None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        if action == ("back" if self.is_first else "leave"):
            return False
        return True if self.why_not(action) is None else None

    def action_help(self) -> None:
        from ckptdiff.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self))

    def action_back(self) -> None:
        self.dismiss()

    def action_leave(self) -> None:
        self.app.leave()

    def action_copy_text(self) -> None:
        """Copy what is selected; without a selection, the key is the app's."""
        if not self.app.copy_selection():
            raise SkipAction

    def action_maximise(self) -> None:
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused)

    def action_escape(self) -> None:
        """Go back one screen. This never quits, since Esc is often pressed once too often."""
        if self.maximized is not None:
            self.minimize()
        elif self.is_first:
            self.notify(f"This is the first screen. Press {key('screen.leave', 'q')} to quit.")
        else:
            self.dismiss()
