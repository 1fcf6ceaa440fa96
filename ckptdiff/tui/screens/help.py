"""The help: the keys of a screen, from its bindings, and what the glyphs mean."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ckptdiff.guide.topics import topics
from ckptdiff.tui.keymap import key
from ckptdiff.tui.model.comparison import GLYPHS, WORDS

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.screen import Screen

MEANINGS = {
    "same": "every byte compared and equal",
    "close": "explained by one cast, or within the tolerance asked for",
    "matched": "equal bytes, under names that no rule pairs",
    "packed": "packed, or of a dtype without numbers: not compared",
    "differ": "any other difference",
    "shape": "the shapes differ (vocabulary padding does not count)",
    "only_a": "B has no such tensor",
    "only_b": "A has no such tensor",
    "to_do": "not compared yet",
    "comparing": "being compared",
    "undone": "something broke before; {} says what",
    "error": "could not be read; {} says why",
}


WIDTH = 54  # of the texts, so that they fit in 80 columns


class HelpScreen(ModalScreen[None]):
    """Shows the help of a screen. The key that opened it closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "close", "Close", id="help.close"),
        Binding("j,down", "scroll(1)", "Down", id="help.down"),
        Binding("k,up", "scroll(-1)", "Up", id="help.up"),
        Binding("ctrl+d,pagedown,space", "scroll(10)", "Page down", id="help.page_down"),
        Binding("ctrl+u,pageup", "scroll(-10)", "Page up", id="help.page_up"),
    ]

    def __init__(self, explained: Screen[Any]) -> None:
        super().__init__()
        self._explained = explained

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = f"{key('help.close', 'esc')} closes"
            yield Static(Content("\n").join(help_lines(self._explained)), markup=False)

    def action_close(self) -> None:
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


def help_lines(screen: Screen[Any]) -> list[Content]:
    """Return the keys of a screen and its focused widget, the legend, and the guide's pages."""
    lines: list[Content] = []
    for heading, keys in keys_by_place(screen).items():
        if lines:
            lines.append(Content(""))
        lines.append(Content.styled(heading, "bold underline"))
        for shown, text in keys:
            lines += _entry(f"{shown:>15}", text)
    if legend := getattr(screen, "LEGEND", None):
        lines += [Content(""), Content.styled("Numbers", "bold underline")]
        for shown, meaning in legend.items():
            lines += _entry(f"{shown:>15}", meaning)
    if not getattr(getattr(screen, "session", None), "browsing", False):  # only pairs have one
        lines += [Content(""), Content.styled("Status", "bold underline")]
        enter = key("list.open", "Enter")
        for status, meaning in MEANINGS.items():
            lines += _entry(f"{GLYPHS[status]:>4} {WORDS[status]:<12}", meaning.format(enter))
    words = f"Guide: type {key('app.commands', ':')} and the name of a page"
    lines += [Content(""), Content.styled(words, "bold underline")]
    for topic, about in topics().items():
        lines += _entry(f"{topic:>17}", about)
    return lines


def _entry(head: str, text: str) -> list[Content]:
    first, *others = textwrap.wrap(text, WIDTH)
    indent = " " * (len(head) + 2)
    return [
        Content.assemble((head, "bold"), f"  {first}"),
        *(Content(indent + line) for line in others),
    ]


def keys_by_place(screen: Screen[Any]) -> dict[str, list[tuple[str, str]]]:
    """Return (keys, what they do) from the active bindings, by where they work."""
    found: dict[str, dict[str, tuple[list[str], str]]] = {}
    for node, binding, _enabled, tooltip in screen.active_bindings.values():
        if binding.id is None:  # of Textual itself
            continue
        if node is screen.app:
            place = "Everywhere"
        else:
            place = "On this screen" if node is screen else "Here"
        keys, _ = found.setdefault(place, {}).setdefault(
            binding.action, ([], tooltip or binding.description)
        )
        keys.append(screen.app.get_key_display(binding))
    return {
        place: [(" ".join(dict.fromkeys(keys)), text) for keys, text in actions.values()]
        for place, actions in found.items()
    }
