"""The command palette."""

from __future__ import annotations

from contextlib import suppress

from textual.command import CommandPalette


class Palette(CommandPalette):
    """Textual's palette, in which a page key does nothing while the list is not laid out.

    Textual then looks the row under the cursor up among none, and ends the app with a KeyError.
    """

    def _action_command_list(self, action: str) -> None:
        with suppress(KeyError):
            super()._action_command_list(action)
