"""What the borders of the list say, and what it says where it has no rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import printable
from ckptdiff.tui.session import REVERSED, SORTS
from ckptdiff.tui.widgets.progress_line import state_words
from ckptdiff.tui.words import plural

if TYPE_CHECKING:
    from ckptdiff.tui.session import Session


def _pattern(session: Session) -> str:
    return f"{'!' if session.inverted else ''}{printable(session.filter)}"


def list_title(session: Session) -> str:
    """Say what narrows the list and how much it leaves."""
    parts = ["Tensors"]
    if session.filter:
        parts.append(f"/ {_pattern(session)}")
    if session.differences_only:
        parts.append("differences only")
    if session.narrowed:
        parts.append(f"{len(session.order):,} of {len(session.names):,}")
    if session.tolerance != "cast":
        parts.append(f"tolerance {session.tolerance}")
    return "  ".join(parts)


def list_subtitle(session: Session, cursor: int) -> str:
    """Say where the cursor is and what the order is."""
    if not session.rows:
        return ""
    order = (REVERSED if session.reverse else SORTS)[session.sort]
    return f"row {cursor + 1:,} of {len(session.rows):,}   sort: {order}"


def empty_words(session: Session) -> str:
    """Say why there are no rows, and which key brings some."""
    if session.a is None:
        return state_words(session) if session.phase != "failed" else ""
    if session.filter and not session.order:
        among = " among the differences" if session.differences_only else ""
        return f"No tensor matches '{_pattern(session)}'{among}. Esc clears the filter."
    if session.differences_only:
        if session.phase == "done":
            return f"No differences in {plural(len(session.names), 'tensor')}. d shows all."
        return f"No difference among {session.compared:,} compared so far. d shows all tensors."
    return "This checkpoint holds no tensors."
