"""Reports for a ticket or a pull request: one self-contained page, text, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnreadableFile
from ckptdiff.report.diff import diff_document, diff_lines
from ckptdiff.report.html_page import html_page
from ckptdiff.report.markdown_page import markdown_page
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import TensorDiff


def write_report(
    file: Path,
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    *,
    pattern: str | None = None,
) -> None:
    """Write a report in the format of the file's suffix: .md, .html, .json, any other for text.

    Raises UnreadableFile if it cannot be written.
    """
    match file.suffix:
        case ".md":
            text = markdown_page(a, b, results, summary, pattern)
        case ".html":
            text = html_page(a, b, results, summary, pattern)
        case ".json":
            text = json.dumps(diff_document(a, b, results, summary, pattern=pattern), indent=1)
        case _:
            lines = diff_lines(a, b, results, summary, pattern=pattern)
            text = "\n".join(map(printable, lines))
    write_whole(file, text + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write a file completely or not at all. Raises UnreadableFile if it cannot be written.

    A pipe, a device or a link is written to, not replaced.
    """
    if file.is_symlink() or (file.exists() and not file.is_file()):
        try:
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UnreadableFile(f"{file}: cannot be written ({error.strerror})") from error
        return
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnreadableFile(f"{file}: cannot be written ({error.strerror})") from error


def print_json(document: dict[str, Any], target: str) -> None:
    """Write a JSON document to the standard output if `target` is `-`, else to that file."""
    text = json.dumps(document, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_whole(Path(target), text)
