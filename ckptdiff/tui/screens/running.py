"""What runs, and what of it a key stops first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.screens.scores import ScoresScreen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.screen import Screen

    from ckptdiff.tui.screens.tensors import TensorsScreen


class Stoppable(Protocol):
    """Something that runs."""

    def stop(self) -> None: ...


def first_to_stop(screens: Sequence[TensorsScreen], seen: Screen[Any]) -> Stoppable | None:
    """Return what the screen in front shows of what runs, or else the topmost comparison."""
    scoring: list[Stoppable] = [screen.scores for screen in screens if screen.scores.is_busy]
    asking: list[Stoppable] = [screen.prompts for screen in screens if screen.prompts.is_asking]
    comparing: list[Stoppable] = [screen for screen in screens if screen.session.is_busy]
    if scoring and isinstance(seen, ScoresScreen):
        return scoring[0]
    if asking and isinstance(seen, LogitsScreen):
        return asking[0]
    return next(iter([*comparing, *asking, *scoring]), None)
