"""The result of a tensor's comparison: its status in words, and its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.text import format_cosine, format_number, format_shape, printable
from ckptdiff.tui.text.lines import line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.kernels.stats import TensorSummary
    from ckptdiff.results import Numbers, TensorDiff
    from ckptdiff.tui.text.lines import Line

NORM_DIGITS = 5  # enough to see norms that agree
NORMS_AGREE = 1e-6  # relative: equal norms summed in another order differ by less


def wrapped(text: str, width: int, role: str = "") -> list[Line]:
    """Return text broken between words, and inside those longer than a line."""
    lines: list[str] = []
    for word in text.split():
        while len(word) > width > 0:
            lines.append(word[:width])
            word = word[width:]
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return [line((text, role)) for text in lines]


def flow(items: Sequence[str], width: int, gap: int = 3) -> list[Line]:
    """Set items side by side, `gap` blanks apart, on as many lines as they need."""
    rows: list[str] = []
    for item in items:
        if rows and len(rows[-1]) + gap + len(item) <= width:
            rows[-1] += " " * gap + item
        else:
            rows.append(item)
    return [line(row) for row in rows]


def meaning(result: TensorDiff | None, status: str, tolerance: str = "cast") -> str:
    """Return what a status means for this tensor, in one sentence."""
    if result is None:
        words = {"comparing": "Being compared now.", "undone": "Not compared, because of this:"}
        return words.get(status, "Not compared yet.")
    match result.status:
        case "same":
            return "Every byte of both sides was compared, and all are equal."
        case "close":
            return _why_close(result, tolerance)
        case "matched":
            return "Equal bytes were found, but under names of which no rule says they are a pair."
        case "packed":
            return "Packed on a side, or of a dtype without numbers: its values were not compared."
        case "differ":
            return "The sides differ by more than one rounding explains."
        case "shape":
            shapes = f"A is {format_shape(result.shape_a)}, B is {format_shape(result.shape_b)}"
            return f"The shapes differ, so no values were compared: {shapes}."
        case "only_a":
            return "Only A has this tensor."
        case "only_b":
            return "Only B has this tensor."
        case "error":
            return printable(result.error or "It could not be read.")


def _why_close(result: TensorDiff, tolerance: str) -> str:
    if result.why == "bits":
        return "All values are equal; some bits are not, as of 0.0 and -0.0."
    if result.why == "sums":
        return (
            "The sides differ, but by no more than the order in which the terms of the adapter's "
            "product are added, or one more rounding of it, can change."
        )
    if result.why == "tolerance":
        return f"The sides differ, but within the tolerance that was asked for: {tolerance}."
    kinds = f"{(result.dtype_a or '').lower()} and {(result.dtype_b or '').lower()}"
    return f"Equal after the one rounding that lies between {kinds}."


def remarks(result: TensorDiff | None) -> list[str]:
    """Return the notes of a result: drifted replicas, lost rows, padding."""
    if result is None:
        return []
    found = [printable(part).strip() for part in (result.note or "").split(";")]
    if result.padding_rows and not any("padding" in text for text in found):
        found.append(f"{result.padding_rows} padding rows are not judged")
    return [text for text in found if text]


def number_items(numbers: Numbers) -> list[str]:
    """Return the figures of a comparison, each after its name."""
    at = "" if numbers.max_at is None else f" at {list(numbers.max_at)}"
    items = [
        f"max|d| {format_number(numbers.max_abs)}{at}",
        f"mean|d| {format_number(numbers.mean_abs)}",
        f"RMS {format_number(numbers.rms)}",
        f"rel {format_number(numbers.rel_l2)}",
        f"cos {format_cosine(numbers.cosine)}",
        f"max ULP {numbers.max_ulp:,}",
        f"{numbers.differing:,} of {numbers.numel:,} differ",
    ]
    if numbers.norm_a is not None and numbers.norm_b is not None:
        norms = (format_number(norm, NORM_DIGITS) for norm in (numbers.norm_a, numbers.norm_b))
        items.append("norm A {} B {}".format(*norms))
    for word, a, b in (
        ("NaN", numbers.nan_a, numbers.nan_b),
        ("Inf", numbers.inf_a, numbers.inf_b),
    ):
        items.append(f"{word} A {a:,} B {b:,}" if a or b else f"{word} 0")
    return items


def norms_agree(numbers: Numbers) -> bool:
    """Return whether the values differ but their norms agree: they may be reordered."""
    a, b = numbers.norm_a, numbers.norm_b
    if a is None or b is None or not a or numbers.cosine > 1 - NORMS_AGREE:
        return False
    return abs(a - b) <= NORMS_AGREE * a


def summary_items(summary: TensorSummary) -> list[str]:
    """Return the figures of one tensor."""
    return [
        f"{summary.numel:,} values",
        f"min {format_number(summary.min)}",
        f"max {format_number(summary.max)}",
        f"mean {format_number(summary.mean)}",
        f"std {format_number(summary.std)}",
        f"RMS {format_number(summary.rms)}",
        f"zeros {summary.zeros:,}",
        f"NaN {summary.nan:,}",
        f"Inf {summary.inf:,}",
    ]
