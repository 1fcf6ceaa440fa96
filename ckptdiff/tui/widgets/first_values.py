"""The first values of one tensor, as a small table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.tui.text.lines import line
from ckptdiff.tui.widgets.values import cell_width, element_text

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.comparison.inspect import Glance
    from ckptdiff.tui.text.lines import Line

LABEL = 7  # cells of the number of a row


def first_lines(found: Glance, assembly: Assembly, width: int) -> list[Line]:
    """Draw the upper left corner of a tensor, as much of it as fits in the width.

    Quantised codes stand for float32, and are drawn like that.
    """
    dtype = "F32" if assembly.is_scaled else assembly.dtype
    cell = cell_width([dtype], bits=False)
    columns = max(1, (width - LABEL) // cell)
    rows = found.first.values
    if not rows or not rows[0]:
        return []
    shown = range(min(columns, len(rows[0])))
    one_row = len(assembly.shape) < 2
    lines = [line((f"{'first values':<{LABEL}}", "dim"))]
    for number, row in enumerate(rows):
        head = "" if one_row else f"row {number}"
        cells = "".join(f"{element_text(row[column], dtype):>{cell}}" for column in shown)
        lines.append(line((f"{head:<{LABEL}}", "dim"), cells))
    return lines
