"""What a report lists of a comparison: what differs first, and what is alike in one line."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.comparison.packed import NOT_JUDGED, packed_sentences
from ckptdiff.text import plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import Status, TensorDiff

FEW = 8  # tensors that are close in one way, and are listed each
MAX_NOTES = 12  # different notes that are printed; the JSON has all
_UNLISTED = ("same", "matched", "packed")  # statuses without a line for each tensor


@dataclass(frozen=True, slots=True)
class CloseGroup:
    """Tensors that are close in one way, in one line; its numbers are their worst."""

    results: tuple[TensorDiff, ...]

    @property
    def title(self) -> str:
        return f"{len(self.results)} tensors"

    @property
    def why(self) -> str:
        return why_close(self.results[0])

    @property
    def max_abs(self) -> float:
        return max(r.numbers.max_abs for r in self.results if r.numbers)

    @property
    def rel_l2(self) -> float:
        return max(r.numbers.rel_l2 for r in self.results if r.numbers)

    @property
    def cosine(self) -> float:
        return min(r.numbers.cosine for r in self.results if r.numbers)


def why_close(result: TensorDiff) -> str:
    """Return why a tensor is close: `cast BF16 F32`, `bits`, `tolerance`; "" if it is not."""
    if not result.why:
        return ""
    is_cast = result.dtype_a != result.dtype_b
    return f"{result.why} {result.dtype_a} {result.dtype_b}" if is_cast else result.why


def listed(results: Sequence[TensorDiff]) -> list[TensorDiff | CloseGroup]:
    """Return what has a line: what differs, then what is close, many of one kind together.

    Tensors that are the same have none, and matched and packed ones have a sentence.
    """
    close: dict[str, list[TensorDiff]] = defaultdict(list)
    rows: list[TensorDiff | CloseGroup] = []
    for result in results:
        if result.status == "close":
            close[why_close(result)].append(result)
        elif result.status not in _UNLISTED:
            rows.append(result)
    for group in close.values():
        counted = len(group) > FEW and all(result.numbers is not None for result in group)
        rows += [CloseGroup(tuple(group))] if counted else group
    return rows


def unlisted_notes(
    results: Sequence[TensorDiff], rows: Sequence[TensorDiff | CloseGroup]
) -> Iterator[str]:
    """Yield the notes on tensors that have no line of their own; equal ones once.

    So those on tensors whose difference may be that of rounding to codes.
    """
    grouped = [r for row in rows if isinstance(row, CloseGroup) for r in row.results]
    quiet = [result for result in results if result.status in ("same", "matched")]
    near = [r for r in results if r.status == "differ" and NOT_JUDGED in (r.note or "")]
    notes = Counter(result.note for result in [*quiet, *grouped, *near] if result.note)
    for note, count in list(notes.items())[:MAX_NOTES]:
        yield printable(note) + (f" ({count} tensors)" if count > 1 else "")
    if len(notes) > MAX_NOTES:
        yield f"… and {len(notes) - MAX_NOTES} more notes; --json FILE lists all"


def explained(
    results: Sequence[TensorDiff], summary: DiffSummary, a: Assembled, b: Assembled
) -> list[tuple[Status, str]]:
    """Return (status, sentence) for each status that a reader may not have met."""
    sentences: list[tuple[Status, str]] = [
        ("packed", printable(text)) for text in packed_sentences(results, a, b)
    ]
    if count := summary.counts["matched"]:
        words = (
            f"{count} {_tensors(count)} matched: the bytes are there, but no rule and no pattern "
            "of names says that the names are pairs. Layers, experts or parts may be exchanged"
        )
        sentences.append(("matched", words))
    return sentences


def hash_lines(summary: DiffSummary) -> Iterator[str]:
    """Yield for each side that has hashes how many files have the bytes that were saved."""
    for side in summary.hashes:
        bad = len(side.trouble)
        good = side.hashed - min(bad, side.hashed)
        yield (
            f"{side.letter}: {good} of {plural(side.hashed, 'file')} have the SHA-256 that they "
            "were saved with"
        )


def not_compared(summary: DiffSummary) -> list[str]:
    """Return what the verdict does not cover, a phrase each."""
    found = []
    if count := summary.counts["packed"] - summary.unlike:
        found.append(f"{count} packed {_tensors(count)}")
    if count := summary.unlike:
        found.append(f"{count} {_tensors(count)} of different dtypes without numbers")
    if (count := summary.counts["error"]) and summary.verdict != "trouble":
        found.append(f"{count} {_tensors(count)} that could not be read")
    return found


def verdict_words(summary: DiffSummary) -> str:
    """Return the verdict, what it does not cover, and where there is none, what to do."""
    if summary.verdict == "trouble":
        return (
            "trouble: no tensor could be read, so nothing is known of the weights. Each line above "
            "says why; mend that and compare again"
        )
    words = str(summary.verdict)
    unexplained = unexplained_words(summary)
    if summary.verdict != summary.weights:
        why = ["the configs conflict"] if summary.config_status == "conflict" else []
        if unexplained and not why:
            why.append(unexplained)
        if summary.names_status == "wrapped":
            why.append("a loader does not find B's names")
        if summary.files_status == "stale":
            why.append("a loader does not find B's files")
        if summary.files_status == "damaged":
            why.append("files are not what was saved")
        words += f" ({', '.join([f'weights: {summary.weights}', *why])})"
    elif unexplained:
        words += f"; {unexplained}"
    if summary.config_why:  # without configs, equal weights are half an answer
        words += f"; {summary.config_why}"
    if summary.diagnosis_error:
        words += f"; the diagnosis stopped: {printable(summary.diagnosis_error)}"
    left = not_compared(summary)
    return f"{words}; not compared: {', '.join(left)}" if left else words


def unexplained_words(summary: DiffSummary) -> str:
    """Return how many settings differ without a known meaning, or nothing."""
    count = len(summary.unexplained)
    verb = "differs" if count == 1 else "differ"
    return f"{plural(count, 'setting')} {verb} whose meaning is not known" if count else ""


def _tensors(count: int) -> str:
    return "tensor" if count == 1 else "tensors"
