"""The bottom line: the keys of the screen and of the focused widget, from their bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.events import Click
    from textual.screen import Screen

# Actions shown first, and those shown at the end even if others do not fit. The rest follow the
# first in the order of their bindings.
FIRST = (
    "start", "open", "select", "stop", "difference(1)", "findings", "copy_fix", "convert", "logits",
    "filter",
)  # fmt: skip
LAST = ("guide", "help", "back", "leave")

NARROW = 60  # cells; a narrower line does without the first of LAST


def _place(action: str) -> int:
    """Return where an action is among those shown first; the others are behind them."""
    return FIRST.index(action) if action in FIRST else len(FIRST)


class KeyLine(Widget):
    """Shows `key Label` for each binding; disabled ones are greyed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-line--key", "key-line--greyed"}

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[tuple[int, str]] = []  # the column after each item, and its key

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen:
            self.refresh()

    def render(self) -> Content:
        key_style = self.get_visual_style("key-line--key")
        greyed_style = self.get_visual_style("key-line--greyed")
        items: dict[str, tuple[str, Content]] = {}  # by action: one may have many keys
        for _, binding, enabled, _tooltip in self.screen.active_bindings.values():
            if not binding.show or not binding.description or binding.action in items:
                continue
            key = self.app.get_key_display(binding)
            if self._is_typed(binding.key, key):
                continue
            content = (
                Content.assemble((key, key_style), f" {binding.description}")
                if enabled
                else Content.styled(f"{key} {binding.description}", greyed_style)
            )
            items[binding.action] = (binding.key, content)
        ends = LAST if self.size.width >= NARROW else LAST[1:]
        last = [items[action] for action in ends if action in items]
        room = self.size.width + 2 - sum(content.cell_length + 2 for _, content in last)
        shown = []
        for action in sorted(items, key=_place):
            if action not in LAST:
                key, content = items[action]
                room -= content.cell_length + 2
                if room < 0:
                    break
                shown.append((key, content))
        shown += last
        self._keys = []
        x = 0
        for key, content in shown:
            x += content.cell_length + 2
            self._keys.append((x, key))
        return Content("  ").join(content for _, content in shown)

    def _is_typed(self, key: str, shown: str) -> bool:
        """Return whether the focused field would take the key as text."""
        focused = self.screen.focused
        character = shown if len(shown) == 1 else None
        return focused is not None and focused.check_consume_key(key, character)

    def on_click(self, event: Click) -> None:
        if self.text_selection is not None:  # the end of a drag
            return
        for end, key in self._keys:
            if event.x < end:
                self.app.simulate_key(key)
                return
