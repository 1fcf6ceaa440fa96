"""An input for a path that completes the names of folders."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.suggester import Suggester

from ckptdiff.tui.widgets.seen_input import SeenInput


class FolderSuggester(Suggester):
    """Suggests the first folder that begins so. It looks in a thread, since disks may be slow."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(complete, value)


def complete(text: str) -> str | None:
    """Return a path with its last part completed to a folder's name; None if there is none."""
    typed, beginning = os.path.split(text)
    if not beginning:
        return None
    try:
        with os.scandir(Path(typed or ".").expanduser()) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.startswith(beginning) and entry.name.isprintable() and entry.is_dir()
            )
    except OSError:
        return None
    return os.path.join(typed, names[0], "") if names else None  # noqa: PTH118 - keeps `~` as typed


class PathInput(SeenInput):
    """Tab accepts the suggestion; without one, it moves to the next field."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "tab",
            "complete",
            "Complete, next",
            priority=True,  # at once, so that keys typed after it go to the next field
            id="path.complete",
            tooltip="take the suggested folder; without one, go to the next field",
        ),
    ]

    def __init__(self, value: str = "", *, id: str | None = None, placeholder: str = "") -> None:  # noqa: A002
        super().__init__(
            value,
            id=id,
            placeholder=placeholder,
            suggester=FolderSuggester(),
            select_on_focus=False,
            compact=True,
        )
        self.cursor_blink = False

    @property
    def path(self) -> Path | None:
        text = self.value.strip()
        return Path(text).expanduser() if text else None

    def action_complete(self) -> None:
        before = self.value
        self.action_end()
        self.action_cursor_right()
        if self.value == before:
            self.screen.focus_next()
