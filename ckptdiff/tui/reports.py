"""Write a report of a comparison that is complete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.session import Session


def write_report(session: Session, path: Path) -> None:
    """Write what `ckptdiff diff` says: JSON where the name says so, else text. Raises OSError."""
    from ckptdiff.report import diff_document, diff_lines

    a, b, summary = session.a, session.b, session.summary
    if a is None or b is None or summary is None:
        return
    results = [session.results[name] for name in session.names if name in session.results]
    if path.suffix == ".json":
        text = json.dumps(diff_document(a, b, results, summary), indent=1)
    else:
        text = "\n".join(diff_lines(a, b, results, summary))
    path.write_text(f"{text}\n", encoding="utf-8")
