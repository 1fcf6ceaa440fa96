"""The parts of the conversion dialogs: a box, and lines of a label and its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Static

from ckptdiff.config.programs import PROGRAMS
from ckptdiff.tui.widgets.seen_input import SeenInput

if TYPE_CHECKING:
    from textual.widget import Widget

    from ckptdiff.checkpoint import Parallelism

SIZES = ("tp", "pp", "vpp", "ep", "etp")
FORMATS = {"hf": "Hugging Face", "megatron": "Megatron", "torch_dist": "torch_dist"}
# The programs that can be chosen, behind the word Megatron-LM.
RELEASES: dict[str, str] = {
    version: name.removeprefix("Megatron-LM ") for version, name in PROGRAMS.items()
}


def field(name: str, label: str, *widgets: Widget) -> Horizontal:
    """Return a line of the form: a label, and the widgets of its value."""
    return Horizontal(Static(label, classes="label"), *widgets, id=f"{name}-field", classes="field")


class Box(VerticalScroll, can_focus=False, inherit_bindings=False):
    """The box of a dialog. It scrolls, but leaves the arrow keys to the fields."""


def size_texts(size: Parallelism) -> dict[str, str]:
    """Return the texts of the fields; that of ETP is empty if ETP is TP."""
    numbers = {name: str(getattr(size, name)) for name in SIZES}
    return {**numbers, "etp": "" if size.etp == size.tp else numbers["etp"]}


def size_field(name: str, value: str) -> tuple[Static, Input]:
    """Return the label and the field of a parallel size."""
    number = SeenInput(
        value,
        id=name,
        classes=name,
        compact=True,
        placeholder="TP" if name == "etp" else "1",
        restrict=r"([1-9][0-9]{0,3})?",
        select_on_focus=True,
    )
    number.cursor_blink = False
    return Static(name.upper(), classes=f"size {name}"), number
