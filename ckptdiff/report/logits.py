"""The result of `ckptdiff logits` as a JSON document and as lines of text."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from ckptdiff.report.diff import json_number, side_document, side_line
from ckptdiff.report.finding import finding_document, fix_lines
from ckptdiff.text import format_cosine, format_number, number_ranges, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import Candidate, CauseShare, Finding, LogitDiff, LogitVerdict, Next, Tap

WIDTH = 80
LIKELIEST = 5  # next tokens that are printed; the JSON has more
MAX_TOKENS = 64  # of the prompt that are printed
MAX_LAYERS = 40  # lines of layers
MAX_NAMES = 6  # tensors that a step reads
MAX_FINDINGS = 3  # that explain a step

VERDICT_GLYPH: dict[LogitVerdict, str] = {
    "arithmetic": "=",
    "undecided": "?",
    "small": "~",
    "weights-or-config": "✗",
}


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────


def logit_document(
    a: Assembled, b: Assembled, found: LogitDiff, findings: Sequence[Finding] = ()
) -> dict[str, Any]:
    """Return the JSON document of `ckptdiff logits`, schema `ckptdiff.logits/1`."""
    document: dict[str, Any] = plain_json(
        {
            "schema": "ckptdiff.logits/1",
            "a": side_document(a),
            "b": side_document(b),
            "ids": found.ids,
            "texts": found.texts,
            "device": found.device,
            "dtype": found.dtype,
            "storage": found.storage,
            "verdict": found.verdict,
            "sentence": found.sentence,
            "conditions": found.conditions,
            "first_divergence": None if found.first is None else _tap_document(found.first),
            "findings": [finding_document(finding) for finding in findings],
            "floor": found.floor,
            "threshold": found.threshold,
            "taps": [_tap_document(tap) for tap in found.taps],
            "metrics": asdict(found.metrics),
            "ratio": found.ratio,
            "top": [
                {
                    "position": following.position,
                    "a": _candidates(following.a),
                    "b": _candidates(following.b),
                }
                for following in found.top
            ],
            "attribution": [asdict(share) for share in shares(found.attribution)],
            "notes": found.notes,
            "fed_otherwise": found.fed,
            "same_ids": found.same_ids,
        }
    )
    return document


def _tap_document(tap: Tap) -> dict[str, Any]:
    return {
        "layer": tap.layer,
        "tap": tap.name,
        "rel": tap.rel,
        "floor": tap.floor,
        "rest": tap.rest,
        "reads": tap.reads,
        "hint": tap.hint,
    }


def _candidates(candidates: Iterable[Candidate]) -> list[list[object]]:
    return [[candidate.id, candidate.text, candidate.probability] for candidate in candidates]


def plain_json(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity inside it become text."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return json_number(value)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


def logit_lines(
    a: Assembled,
    b: Assembled,
    found: LogitDiff,
    findings: Sequence[Finding] = (),
    *,
    seconds: float | None = None,
) -> Iterator[str]:
    """Yield the lines that `ckptdiff logits` prints, the answer first.

    `findings` are those that explain the first step that differs.
    """
    yield from wrapped(found.sentence, f"{VERDICT_GLYPH[found.verdict]}  ", "   ")
    if found.first is not None:
        yield from _first_lines(found.first, found.threshold)
    for finding in findings[:MAX_FINDINGS]:
        yield f"✗  {finding.kind}: {printable(finding.title)}"
        yield from (f"     {line}" for line in fix_lines(finding))
    if len(findings) > MAX_FINDINGS:
        yield f"   … and {len(findings) - MAX_FINDINGS} more may move it; ckptdiff diff names all"
    for number, sentence in enumerate(found.fed):
        glyph = "!" if number == 0 and not found.same_ids else "i"
        yield from wrapped(sentence, f"{glyph}  ", "   ")
    yield ""
    yield f"A  {side_line(a)}"
    yield f"B  {side_line(b)}"
    yield from _prompt_lines(found)
    yield ""
    yield from _layer_lines(found)
    yield from _metric_lines(a, b, found)
    if found.top:
        yield ""
        yield from _next_lines(found.top[-1])
    if found.attribution:
        yield ""
        yield from share_lines(found.attribution)
    if found.notes:
        yield ""
    for note in found.notes:
        yield from wrapped(note, "   ", "   ")
    yield ""
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    yield f"{len(found.taps)} steps of one prompt in {found.dtype} on {found.device}{took}"
    yield f"verdict: {found.verdict}{'' if found.same_ids else ', but of other ids than B gets'}"


def token_words(token: int, text: str | None) -> str:
    """Return a token's id, with its text if that is known."""
    return f"{token}" if text is None else f"{token} '{printable(text)}'"


def shares(attribution: Iterable[CauseShare]) -> list[CauseShare]:
    """Return the causes of rounding and their shares, those that both sides have first."""
    return sorted(attribution, key=lambda share: not share.cause.startswith("shared"))


def _first_lines(tap: Tap, threshold: float) -> Iterator[str]:
    yield f"   rounding explains a relative difference of at most {format_number(threshold)}"
    if tap.rest is not None:
        yield f"     {format_number(tap.rest)} with the wider weights cast to the other dtype"
    if tap.hint:
        yield from wrapped(tap.hint, "     ", "     ")
    for name in tap.reads[:MAX_NAMES]:
        yield f"     it reads {printable(name)}"
    if len(tap.reads) > MAX_NAMES:
        yield f"     … and {len(tap.reads) - MAX_NAMES} more"


def _prompt_lines(found: LogitDiff) -> Iterator[str]:
    count = len(found.ids)
    texts: Sequence[str | None] = found.texts or [None] * count
    tokens = [token_words(*pair) for pair in zip(found.ids, texts, strict=True)]
    if count > MAX_TOKENS:
        more = f"… and {count - MAX_TOKENS} more; --json FILE lists all"
        tokens = [*tokens[:MAX_TOKENS], more]
    yield f"   prompt, {count} token{'' if count == 1 else 's'}:"
    yield from _joined_lines(tokens, "     ", "     ", ", ")


def _layer_lines(found: LogitDiff) -> Iterator[str]:
    """Yield the steps above the threshold; layers with the same steps are one line."""
    above = [tap for tap in found.taps if not tap.rel <= found.threshold]
    if not above:
        return
    yield f"   relative differences above {format_number(found.threshold)}, by layer"
    layers = [(layer, list(taps)) for layer, taps in groupby(above, key=lambda tap: tap.layer)]
    lines: list[tuple[str, list[Tap]]] = []
    for _, same in groupby(layers, key=lambda one: [tap.name for tap in one[1]]):
        group = list(same)
        label = _layers([layer for layer, _ in group if layer is not None])
        worst = [
            max(taps, key=lambda tap: tap.rel) for taps in zip(*(t for _, t in group), strict=True)
        ]
        lines.append((label, worst))
    width = max(len(label) for label, _ in lines)
    for label, taps in lines[:MAX_LAYERS]:
        words = [_tap_words(tap, found.threshold) for tap in taps]
        yield from _joined_lines(words, f"   {label:{width}}  ", " " * (width + 5), "  ")
    if len(lines) > MAX_LAYERS:
        yield f"   … and {len(lines) - MAX_LAYERS} more lines; --json FILE lists all"
    yield ""


def _layers(numbers: Sequence[int]) -> str:
    text = number_ranges(numbers)
    if len(text) > 20:
        text = f"{len(numbers)} of {numbers[0]}-{numbers[-1]}"
    return text or "-"  # before the first layer, or after the last


def _tap_words(tap: Tap, threshold: float) -> str:
    cast = " (cast)" if tap.judged <= threshold else ""
    return f"{tap.name} {format_number(tap.rel)}{cast}"


def _metric_lines(a: Assembled, b: Assembled, found: LogitDiff) -> Iterator[str]:
    m = found.metrics
    position, token = m.max_at
    count = len(found.ids)
    without = " without what is not computed" if found.verdict == "undecided" else ""
    yield f"   logits in {found.storage}{without}, each side on its own values"
    yield (
        f"   max|d| {format_number(m.max_abs)} (position {position}, token {token}), "
        f"mean|d| {format_number(m.mean_abs)}, rel rms {format_number(m.rel_rms)}"
    )
    yield (
        f"   smallest cosine {format_cosine(m.cosine_min)}, KL {format_number(m.kl_mean)} nats, "
        f"at most {format_number(m.kl_max)}"
    )
    yield f"   likeliest token the same at {count - m.flips} of {count} positions"
    if m.flips:
        explained = m.flips - m.flips_unexplained
        yield (
            f"   of the others, {explained} can come of differences of this size, "
            f"{m.flips_unexplained} cannot"
        )
    yield (
        f"   of the 5 likeliest {_percent(m.top5_overlap)} are in both, "
        f"of the 10 likeliest {_percent(m.top10_overlap)}"
    )
    if m.nll_a is not None and m.nll_b is not None:
        yield f"   loss of the prompt: {m.nll_a:.4f} nats a token in A, {m.nll_b:.4f} in B"
    for letter, side, padded in (("A", a, m.nll_padded_a), ("B", b, m.nll_padded_b)):
        if padded is not None and side.checkpoint.convention == "megatron":
            yield from wrapped(
                f"Megatron's own loss of {letter}, with the vocabulary's padding: {padded:.4f}",
                "   ",
                "   ",
            )
    if found.ratio is not None:
        yield f"   R {found.ratio:.2f}: rounding that is independent gives 0.8 to 1.1"


def _next_lines(following: Next) -> Iterator[str]:
    yield f"   what comes after position {following.position}, the likeliest first"
    yield f"      {padded('A', 36)}  B"
    pairs = zip(following.a[:LIKELIEST], following.b[:LIKELIEST], strict=False)
    for number, (one, other) in enumerate(pairs, 1):
        yield f"   {number}  {padded(_candidate(one), 36)}  {_candidate(other)}"


def _candidate(candidate: Candidate) -> str:
    token = token_words(candidate.id, candidate.text)
    token = token if len(token) <= 26 else f"{token[:25]}…"
    return f"{padded(token, 26)}  {_percent(candidate.probability):>6}"


def share_lines(attribution: Iterable[CauseShare]) -> Iterator[str]:
    """Yield the lines on an attribution: a cause each."""
    yield from wrapped(
        "what rounding makes of the difference, by cause; shares of its square:", "   ", "   "
    )
    for share in shares(attribution):
        size = "exactly 0" if share.share == 0 else _percent(share.share)
        note = f" ({share.note})" if share.note else ""
        yield from wrapped(f"{size:>9}  {share.cause}{note}", "   ", " " * 14)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def padded(text: str, width: int) -> str:
    """Return text padded to a width in terminal cells."""
    return text + " " * max(0, width - cells(text))


def cells(text: str) -> int:
    """Return how many terminal cells text takes: East Asian characters take two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _joined_lines(words: Iterable[str], first: str, further: str, between: str) -> Iterator[str]:
    """Yield lines of at most WIDTH characters; words are never broken, even at spaces inside."""
    line, is_empty = first, True
    for word in words:
        if not is_empty and len(line + between + word + between.rstrip()) > WIDTH:
            yield (line + between).rstrip()
            line, is_empty = further, True
        line += word if is_empty else between + word
        is_empty = False
    yield line


def wrapped(text: str, first: str, further: str) -> list[str]:
    """Return lines of at most WIDTH characters; names and paths stay whole."""
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=first, subsequent_indent=further,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
