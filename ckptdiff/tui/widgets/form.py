"""What the dialogs of converting are made of: a frame, and lines of a label and its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.widget import Widget

FORMATS = {"hf": "Hugging Face", "megatron": "Megatron", "torch_dist": "torch_dist"}


def field(name: str, label: str, *widgets: Widget) -> Horizontal:
    """Return a line of the form: what it is, and what it is set to."""
    return Horizontal(Static(label, classes="label"), *widgets, id=f"{name}-field", classes="field")


class Box(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The frame of a dialog: it scrolls, and leaves the arrow keys to the fields."""
