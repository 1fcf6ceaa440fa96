"""The parts of the conversion dialogs: a box, and lines of a label and its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.widget import Widget

FORMATS = {"hf": "Hugging Face", "megatron": "Megatron", "torch_dist": "torch_dist"}


def field(name: str, label: str, *widgets: Widget) -> Horizontal:
    """Return a line of the form: a label, and the widgets of its value."""
    return Horizontal(Static(label, classes="label"), *widgets, id=f"{name}-field", classes="field")


class Box(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The box of a dialog. It scrolls, but leaves the arrow keys to the fields."""
