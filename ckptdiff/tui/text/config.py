"""A line of the config table in words: what each side means, and the fields that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.other_keys import DIFFERS
from ckptdiff.text import config_value_text, printable, setting_text
from ckptdiff.tui.text.figures import wrapped
from ckptdiff.tui.text.lines import line

if TYPE_CHECKING:
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.tui.model.comparison import Side
    from ckptdiff.tui.text.lines import Line

GLYPHS = {"conflict": "!", "unknown": "?", "implied": "~", "same": "="}
LEGEND = "! conflict  ? not known  ~ no conflict: why is below  = same  ( ) in no file"
STATUS_WORDS = {
    "same": "Both sides say the same.",
    "implied": "Not a conflict:",
    "unknown": "Not known:",
}


def meaning_text(row: ConfigDiff, side: Side) -> str:
    """Return what a side means; in brackets if no field states it, as with a default."""
    name, value, means = (
        (row.name_a, row.a, row.means_a) if side == "a" else (row.name_b, row.b, row.means_b)
    )
    if name is None and value is None and means is None:
        return ""
    text = setting_text(value if means is None else means)
    return text if name is not None else f"({text})"


def stated_text(row: ConfigDiff, side: Side) -> str:
    """Return the field that states a side's value, and what it holds unless that is the meaning."""
    name, value, means = (
        (row.name_a, row.a, row.means_a) if side == "a" else (row.name_b, row.b, row.means_b)
    )
    if name is None:
        return ""
    as_meant = type(value) is not bool and means in (None, value)
    if as_meant:
        return "" if name == row.meaning else printable(name)
    return f"{printable(name)}: {config_value_text(value)}"


def stated_lines(row: ConfigDiff, width: int) -> list[Line]:
    """Return the fields of both sides, with what they hold: `A tied: true  |  B untied: false`."""
    words = [
        f"{letter} {printable(name)}: {config_value_text(value)}"
        for letter, name, value in (("A", row.name_a, row.a), ("B", row.name_b, row.b))
        if name is not None
    ]
    return wrapped("  |  ".join(words), width, "dim")


def explanation(row: ConfigDiff, width: int) -> list[Line]:
    """Return the status of a line, for a conflict its consequence and fix, and its fields."""
    meaning = printable(row.meaning)
    if row.status == "unknown" and (row.note or "").startswith(DIFFERS):
        lines = wrapped(f"{meaning} {printable(row.note or '')}.", width)
    elif row.status != "conflict":
        reason = f" {printable(row.note)}." if row.note else ""
        lines = wrapped(f"{meaning}: {STATUS_WORDS[row.status]}{reason}", width)
    else:
        lines = wrapped(f"! {meaning}: {row.consequence}", width, "act")
        if row.fix is not None:
            lines += wrapped(f"Mend it with {printable(row.fix)}", width)
            if row.name_a is not None:
                lines += wrapped(
                    f"If B is right, change {printable(row.name_a)} in A.", width, "dim"
                )
    return lines + stated_lines(row, width)


def legend(width: int) -> list[Line]:
    """Return what the glyphs and brackets of the table mean."""
    return [line((LEGEND[:width], "dim"))]
