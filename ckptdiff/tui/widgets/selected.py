"""Text that is selected with the mouse in a widget that draws strips itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.strip import Strip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.selection import Selection
    from textual.widget import Widget


def selectable(strip: Strip, line: int, widget: Widget) -> Strip:
    """Return a strip in which Textual finds the place under the pointer, the selection marked."""
    selection = widget.text_selection
    span = None if selection is None else selection.get_span(line)
    if span is not None:
        start, end = span[0], strip.cell_length if span[1] == -1 else span[1]
        style = widget.screen.get_component_rich_style("screen--selection")
        inside = [
            Segment(text, style if own is None else own + style)
            for text, own, _ in strip.crop(start, end)
        ]
        strip = Strip.join([strip.crop(0, start), Strip(inside), strip.crop(end)])
    return strip.apply_offsets(0, line)


def selected_lines(
    selection: Selection, in_sight: range, *, last: int
) -> Iterator[tuple[int, slice]]:
    """Yield each line with something selected, and which cells; `last` is the last line there is.

    A selection that begins or ends beyond the widget holds what is in sight.
    """
    start = in_sight.start if selection.start is None else selection.start.y
    end = in_sight.stop - 1 if selection.end is None else selection.end.y
    for line in range(start, min(end, last) + 1):
        left, right = selection.get_span(line) or (0, -1)
        yield line, slice(left, None if right == -1 else right)
