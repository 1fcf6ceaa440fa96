"""The keys that work on a screen, from its bindings, and what the glyphs mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ckptdiff.tui.comparison import GLYPHS, WORDS

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.screen import Screen

MEANINGS = {
    "same": "every byte compared and equal",
    "close": "explained by one cast, or within the tolerance asked for",
    "differ": "any other difference",
    "shape": "the shapes differ (vocabulary padding does not count)",
    "only_a": "B has no such tensor",
    "only_b": "A has no such tensor",
    "to_do": "not compared yet",
    "comparing": "being compared",
    "error": "could not be read; Enter says why",
}


class HelpScreen(ModalScreen[None]):
    """Scrolls like everything else; the key that opened it closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "close", "Close", id="help.close"),
        Binding("j,down", "scroll(1)", "Down", id="help.down"),
        Binding("k,up", "scroll(-1)", "Up", id="help.up"),
        Binding("ctrl+d,pagedown,space", "scroll(10)", "Page down", id="help.page_down"),
        Binding("ctrl+u,pageup", "scroll(-10)", "Page up", id="help.page_up"),
    ]

    def __init__(self, explained: Screen[Any]) -> None:
        super().__init__()
        self._lines = self._keys_of(explained)

    def _keys_of(self, screen: Screen[Any]) -> list[tuple[str, str, str]]:
        """Return (where a key works, the keys, what they do), in the order they were declared."""
        keys: dict[tuple[str, str], list[str]] = {}
        texts: dict[tuple[str, str], str] = {}
        for node, binding, _enabled, tooltip in screen.active_bindings.values():
            if binding.system or not (tooltip or binding.description):
                continue
            if binding.id is None:  # a key of Textual's own widgets, which nobody looks up here
                continue
            where = "Everywhere" if node is screen.app else ("Here" if node is screen else "Focus")
            place = (where, binding.action)
            shown = screen.app.get_key_display(binding) if not keys.get(place) else ""
            keys.setdefault(place, []).append(shown or _key_words(binding.key))
            texts[place] = tooltip or binding.description
        return [
            (where, "  ".join(names), texts[where, action])
            for (where, action), names in keys.items()
        ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "esc closes"
            yield Static(self._text(), markup=False)

    def _text(self) -> Content:
        lines = []
        key_style = "bold"
        for _, keys, text in self._lines:
            lines.append(Content.assemble((f"{keys:>16}", key_style), f"  {text}"))
        lines.append(Content(""))
        lines.append(Content.styled(f"{'Status':>16}", "bold"))
        for status, meaning in MEANINGS.items():
            head = f"{GLYPHS[status]:>5} {WORDS[status]:<10}"
            lines.append(Content.assemble((head, key_style), f"  {meaning}"))
        return Content("\n").join(lines)

    def action_close(self) -> None:
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


def _key_words(key: str) -> str:
    from textual.keys import format_key

    return format_key(key)
