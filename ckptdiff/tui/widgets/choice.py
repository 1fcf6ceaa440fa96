"""A field that chooses one of a few words with the arrow keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widget import Widget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from textual.events import Click


class Choice(Widget, can_focus=True):
    """Shows all words in one line, the chosen one in brackets."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--chosen"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space,l,right", "step(1)", "Choose", id="choice.next", tooltip="the next word"),
        Binding(
            "left,h",
            "step(-1)",
            "Choose back",
            show=False,
            id="choice.previous",
            tooltip="the word before",
        ),
    ]

    @dataclass
    class Changed(Message):
        """Another word was chosen."""

        choice: Choice

    def __init__(self, words: Mapping[str, str], value: str, *, id: str) -> None:  # noqa: A002
        """`words` maps each value to the word shown for it."""
        super().__init__(id=id)
        self._words = dict(words)
        self.value = value

    def offer(self, words: Mapping[str, str]) -> None:
        """Offer these values from now on, among them the one that is chosen."""
        if words != self._words:
            self._words = dict(words)
            self.refresh(layout=True)

    def choose(self, value: str) -> None:
        """Choose without posting `Changed`."""
        self.value = value
        self.refresh()

    def action_step(self, step: int) -> None:
        values = list(self._words)
        at = (values.index(self.value) + step) % len(values)
        self.choose(values[at])
        self.post_message(self.Changed(self))

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def get_content_width(self, *_: object) -> int:
        return sum(len(word) + 2 for word in self._words.values())

    def render(self) -> Content:
        # Component styles lose `reverse`, which is seen without colours too.
        chosen = self.get_visual_style("choice--chosen") + Style(reverse=self.has_focus)
        return Content.assemble(
            *(
                (f"[{word}]", chosen) if value == self.value else f" {word} "
                for value, word in self._words.items()
            )
        )

    def on_click(self, event: Click) -> None:
        end = 0
        for value, word in self._words.items():
            end += len(word) + 2
            if event.x < end:
                if value != self.value:
                    self.choose(value)
                    self.post_message(self.Changed(self))
                return
