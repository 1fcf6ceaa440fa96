"""The result of `ckptdiff diff` as a JSON document and as the lines of its summary."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.adapters import unmatched_by_adapter
from ckptdiff.assembly.packed import tensors_and_bytes
from ckptdiff.comparison.packed import schemes_of
from ckptdiff.config.compare import field_text
from ckptdiff.config.other_keys import DIFFERS
from ckptdiff.report.finding import finding_document, finding_lines
from ckptdiff.report.joint_fix import joint_fix_of, joint_lines
from ckptdiff.report.listed import (
    explained,
    hash_lines,
    listed,
    not_compared,
    unlisted_notes,
    verdict_words,
)
from ckptdiff.report.names import adapter_document, merging_document, names_document
from ckptdiff.report.shortfall import incomplete_lines, shortfall_document
from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.report.tensor_table import MAX_LINES, TensorTable, tensor_table
from ckptdiff.report.unmapped import unmapped_groups
from ckptdiff.text import format_bytes, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import SavedHashes, TensorDiff


# The kinds of optimizer state, as the summary calls them.
STATES = {
    "fp32_param": "fp32 master weights",
    "exp_avg": "first moments",
    "exp_avg_sq": "second moments",
}

# The fields of `Numbers` in the JSON document, in its order.
_NUMBERS = (
    "numel", "differing", "max_abs", "max_at", "mean_abs", "rms", "rel_l2", "cosine", "max_ulp",
    "nan_a", "nan_b", "inf_a", "inf_b",
)  # fmt: skip


def side_document(side: Assembled) -> dict[str, Any]:
    """Return a side as an object of the JSON documents; `bytes` are those of the whole tensors."""
    checkpoint = side.checkpoint
    count, packed, nbytes = tensors_and_bytes(side)
    return {
        "path": str(checkpoint.root),
        "hub": None if checkpoint.hub is None else asdict(checkpoint.hub),
        "format": checkpoint.format,
        "family": side.family,
        "iteration": checkpoint.iteration,
        "parallelism": asdict(checkpoint.parallelism),
        "tensors": count,
        "packed_tensors": packed,
        "bytes": nbytes,
        "notes": [*checkpoint.notes, *side.notes],
        "names": names_document(side),
        "adapter": adapter_document(side),
        "with_adapter": merging_document(side),
        "not_read": [checkpoint.relative(file) for file in checkpoint.ignored],
        **shortfall_document(side),
    }


def diff_document(
    a: Assembled,
    b: Assembled,
    results: Iterable[TensorDiff],
    summary: DiffSummary,
    *,
    pattern: str | None = None,
) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff diff`, schema `ckptdiff.diff/1`."""
    joint = joint_fix_of(a, b, summary)
    return {
        "schema": "ckptdiff.diff/1",
        "a": side_document(a),
        "b": side_document(b),
        "verdict": summary.verdict,
        "weights": summary.weights,
        "config_status": summary.config_status,
        "names_status": summary.names_status,
        "files_status": summary.files_status,
        "config_why": summary.config_why,
        "filter": pattern,
        "counts": dict(summary.counts),
        "tensors": [_tensor_document(result) for result in results],
        "unmapped": {"a": list(a.unmapped), "b": list(b.unmapped)},
        "config": [_config_document(line) for line in summary.config],
        "findings": [finding_document(finding) for finding in summary.findings],
        "fix_all": None if joint is None else joint.command,
        "diagnosis_error": summary.diagnosis_error,
        "hints": hints(summary),
        "not_compared": not_compared(summary),
        "packed": {"a": schemes_of(a), "b": schemes_of(b)},
        "hashes": {side.letter.lower(): _hashes_document(side) for side in summary.hashes},
    }


def _hashes_document(side: SavedHashes) -> dict[str, Any]:
    return {
        "hashed": side.hashed,
        "stated": side.stated,
        "trouble": [{"file": one.file, "why": one.why} for one in side.trouble],
    }


def _tensor_document(result: TensorDiff) -> dict[str, Any]:
    numbers = result.numbers
    return {
        "name": result.name,
        "status": result.status,
        "why": result.why,
        "error": result.error,
        "note": result.note,
        "padding_rows": result.padding_rows,
        "dtype_a": result.dtype_a,
        "dtype_b": result.dtype_b,
        "shape_a": result.shape_a,
        "shape_b": result.shape_b,
        **{key: json_number(getattr(numbers, key, None)) for key in _NUMBERS},
    }


def _config_document(line: ConfigDiff) -> dict[str, Any]:
    return {
        "meaning": line.meaning,
        "status": line.status,
        "name_a": line.name_a,
        "a": json_number(line.a),
        "name_b": line.name_b,
        "b": json_number(line.b),
        "consequence": line.consequence,
        "fix": line.fix,
        "note": line.note,
    }


def json_number(value: object) -> object:
    """Return a value as JSON can hold it: NaN and infinity become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def hints(summary: DiffSummary) -> list[str]:
    """Return sentences on what else could be compared, each with the option for it."""
    if not summary.masters:
        return []
    holders = " and ".join(summary.masters)
    verb = "hold" if len(summary.masters) > 1 else "holds"
    return [f"{holders} {verb} fp32 master weights: --optimizer compares those too"]


def _optimizer_lines(results: Sequence[TensorDiff]) -> Iterator[str]:
    """Yield a line for each kind of optimizer state: how many tensors have which status."""
    for kind, words in STATES.items():
        found = Counter(r.status for r in results if r.name.startswith(f"optimizer.{kind}."))
        if found:
            counts = ", ".join(
                f"{found[status]} {WORD[status]}" for status in WORD if found[status]
            )
            yield f"   {words}: {counts}"


def diff_lines(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    *,
    pattern: str | None = None,
    seconds: float | None = None,
) -> Iterator[str]:
    """Yield the summary of `ckptdiff diff`, line by line; `seconds` is how long it took."""
    for part in diff_parts(a, b, results, summary, pattern=pattern, seconds=seconds):
        yield from part.lines() if isinstance(part, TensorTable) else (part,)


def diff_parts(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    summary: DiffSummary,
    *,
    pattern: str | None = None,
    seconds: float | None = None,
) -> Iterator[str | TensorTable]:
    """Yield the summary of `ckptdiff diff`: its lines, and among them the table of tensors."""
    for letter, assembled in (("A", a), ("B", b)):
        yield f"{letter}  {side_line(assembled)}"
        yield from (f"   {line}" for line in incomplete_lines(assembled))
    yield ""
    # The finding of an adapter is one line for all of its tensors.
    summed_up = unmatched_by_adapter(a, b) if summary.findings else frozenset()
    rows = listed([result for result in results if result.name not in summed_up])
    if rows:
        yield tensor_table(a, b, rows)
        yield ""
    for side, assembled in (("A", a), ("B", b)):
        groups = unmapped_groups(assembled)
        for name, count in groups[:MAX_LINES]:
            names, it = (printable(name), "it") if count == 1 else (
                f"{count} names of {printable(name)}", "them"
            )  # fmt: skip
            yield f"?  {names}: no rule of {family_of(assembled)} knows {it} (in {side})"
        if len(groups) > MAX_LINES:
            more = sum(count for _, count in groups[MAX_LINES:])
            yield f"?  … and {more} more unmapped names in {side}"
    for note in unlisted_notes(results, rows):
        yield f"   {note}"
    if (joint := joint_fix_of(a, b, summary)) is not None:
        yield from joint_lines(joint)
    for finding in summary.findings:
        if finding.kind != "CONFIG":  # the lines of the config report those
            yield from finding_lines(finding)
    if summary.config_status != "ignored":
        yield from _config_lines(summary.config)
    if pattern is not None:
        yield f"   only names that match '{printable(pattern)}' were compared"
    yield from _optimizer_lines(results)
    for status, sentence in explained(results, summary, a, b):
        yield f"{GLYPH[status]}  {sentence}"
    yield from (f"   {printable(line)}" for line in hash_lines(summary))
    yield from (f"   {hint}" for hint in hints(summary))
    total = len(results)
    counts = ", ".join(f"{n} {WORD[status]}" for status, n in summary.counts.items() if n)
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    tensors = "1 tensor" if total == 1 else f"{total} tensors"
    yield f"{tensors}: {counts or 'nothing to compare'}{took}"
    yield f"verdict: {verdict_words(summary)}"


def _config_lines(lines: Sequence[ConfigDiff]) -> Iterator[str]:
    """Yield the conflicts between the configs, what follows from each and how to mend it."""
    for line in lines:
        if line.status == "conflict":
            said = f"{field_text(line, 'A')} in A, {field_text(line, 'B')} in B"
            yield f"!  {printable(line.meaning)}: {said}"
            yield f"     {printable(line.consequence or '')}"
            if line.fix:
                yield f"     fix: {printable(line.fix)}"
        elif line.is_hint:
            said = f"{field_text(line, 'A')} in A, {field_text(line, 'B')} in B"
            yield f"i  {printable(line.meaning)}: {said}"
            yield f"     {printable(line.note or '')}"
    differing = [line for line in lines if line.status == "unknown" and _is_told(line)]
    for note in dict.fromkeys(line.note for line in differing):
        alike = [line for line in differing if line.note == note]
        yield f"?  {printable(note or '')}"
        for line in alike[:MAX_LINES]:
            words = f"{field_text(line, 'A')} in A, {field_text(line, 'B')} in B"
            yield f"     {printable(line.meaning)}: {words}"
        if len(alike) > MAX_LINES:
            yield f"     … and {len(alike) - MAX_LINES} more; --json FILE lists all"
    for words, unknown in _unknown(lines).items():
        yield f"?  {words}: {', '.join(unknown)}"


def _is_told(line: ConfigDiff) -> bool:
    """Return whether a setting has a line of its own, as it differs though it is not known how."""
    return (line.note or "").startswith(DIFFERS)


def _unknown(lines: Sequence[ConfigDiff]) -> dict[str, list[str]]:
    """Return the settings that were not compared, by what is known of them."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.status == "unknown" and not _is_told(line):
            in_a = (line.name_a, line.a) != (None, None)
            in_b = (line.name_b, line.b) != (None, None)
            words = "not known for certain"
            if in_a is not in_b:
                words = f"not in {'AB'[in_a]}'s config, so not compared"
            found.setdefault(words, []).append(printable(line.meaning))
    return found


def side_line(side: Assembled) -> str:
    """Return a side in one line: path, format, family, parallel sizes, number of tensors, bytes."""
    checkpoint = side.checkpoint
    size = checkpoint.parallelism
    parts = [printable(str(checkpoint.root)), checkpoint.format]
    if side.family is not None:
        parts.append(side.family)
    elif checkpoint.convention == "hf" and checkpoint.config:
        parts.append(f"no rules for {printable(str(checkpoint.config.get('model_type')))}")
    if checkpoint.convention != "hf":
        parts.append(f"TP {size.tp} PP {size.pp}")
        if size.vpp > 1:
            parts.append(f"VPP {size.vpp}")
        if size.ep > 1:
            parts.append(f"EP {size.ep}")
    if checkpoint.iteration is not None:
        parts.append(f"iteration {checkpoint.iteration}")
    count, packed, nbytes = tensors_and_bytes(side)
    words = "1 tensor" if count == 1 else f"{count} tensors"
    parts += [f"{words}, {packed} of them packed" if packed else words, format_bytes(nbytes)]
    notes = (*checkpoint.notes, *side.notes)
    return "  ".join([*parts, *(f"({printable(note)})" for note in notes)])


def family_of(side: Assembled) -> str:
    """Return the name of the family whose rules were used, or `any family`."""
    return side.family or "any family"
