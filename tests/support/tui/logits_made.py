"""What prompts tell, made by hand: a clean pair, faults, experts, many layers, NaN and Inf."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ckptdiff.logits.prompt import Prompt
from ckptdiff.results import (
    Candidate,
    CauseShare,
    LogitDiff,
    LogitMetrics,
    LogitProgress,
    Next,
    Tap,
)
from tests.support.tui.fakes import layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptdiff.results import LogitVerdict

    Bad = Mapping[tuple[int | None, str], Tap]

DENSE = (
    "norm1", "q", "k", "v", "q_rope", "k_rope", "ctx", "attn_out", "norm2", "act", "mlp_out",
)  # fmt: skip
EXPERTS = (*DENSE[:9], "router", "expert_in", "experts", "shared_in", "shared_out", "mlp_out")
READS = {
    "q": "self_attn.q_proj.weight", "k": "self_attn.k_proj.weight",
    "mlp_out": "mlp.down_proj.weight", "norm2": "post_attention_layernorm.weight",
}  # fmt: skip
IDS = (1, 450, 7483, 310, 3444, 338)
TEXTS = ("<s>", "The", " capital", " of", " France", " is")
PROMPT = Prompt(IDS, TEXTS)
THRESHOLD, FLOOR = 6.8e-6, 3.4e-7
WORDS = (" Paris", " a", " the", " located", " now", "\n", ",", " and", " of", " in")


def taps(
    layers: int = 3,
    names: Sequence[str] = DENSE,
    bad: Bad | None = None,
) -> tuple[Tap, ...]:
    """Return a tap for each step of a model, all near the floor but those that are `bad`."""
    bad = bad or {}
    found = [Tap(None, "embed", 0.0, reads=("model.embed_tokens.weight",))]
    for number in range(layers):
        for at, name in enumerate(names):
            reads = (layer(number, READS[name]),) if name in READS else ()
            found.append(Tap(number, name, (1 + at + number % 5) * 2e-8, FLOOR, reads=reads))
    found += [Tap(None, "final_norm", 9e-8), Tap(None, "logits", 1.2e-7, reads=("lm_head.weight",))]
    return tuple(bad.get((tap.layer, tap.name), tap) for tap in found)


def following(*, same: bool = True, positions: int = 6) -> tuple[Next, ...]:
    """Return what comes after each position; where it is not the same, B's list is turned."""
    other = WORDS if same else (*WORDS[2:], *WORDS[:2])
    return tuple(
        Next(
            at,
            tuple(
                Candidate(400 + WORDS.index(word), 0.8 / 3**rank, word, 1 + other.index(word))
                for rank, word in enumerate(WORDS)
            ),
            tuple(
                Candidate(400 + WORDS.index(word), 0.7 / 3**rank, word, 1 + WORDS.index(word))
                for rank, word in enumerate(other)
            ),
        )
        for at in range(positions)
    )


def metrics(size: float, *, flips: int = 0) -> LogitMetrics:
    return LogitMetrics(
        max_abs=size,
        max_at=(5, 3681),
        mean_abs=size / 6,
        rel_rms=size / 9,
        cosine_min=1 - size / 40,
        kl_mean=size / 5,
        kl_max=size,
        top1_agree=1 - flips / 6,
        flips=flips,
        flips_unexplained=flips,
        top5_overlap=0.6 if flips else 1.0,
        top10_overlap=0.7 if flips else 1.0,
        nll_a=2.317,
        nll_b=2.317 + size / 10,
    )


def diff(
    found: tuple[Tap, ...],
    verdict: LogitVerdict,
    sentence: str,
    first: Tap | None = None,
    *,
    same: bool = True,
    size: float = 2e-2,
    attribution: tuple[CauseShare, ...] = (),
    notes: tuple[str, ...] = (),
) -> LogitDiff:
    return LogitDiff(
        ids=IDS,
        texts=TEXTS,
        device="cpu",
        dtype="fp32",
        storage="bf16" if verdict == "arithmetic" else "fp32",
        verdict=verdict,
        sentence=sentence,
        first=first,
        floor=FLOOR,
        threshold=THRESHOLD,
        taps=found,
        metrics=metrics(size, flips=0 if same else 4),
        top=following(same=same),
        ratio=0.93 if verdict == "arithmetic" else None,
        attribution=attribution,
        notes=notes,
    )


FIRST = "Weights or config differ: the first step that differs is"
CLEAN_WORDS = "Only arithmetic: no step differs by more than 3.0e-07."
SHARES = (
    CauseShare("shared rounding", 0.77, note="two correct runs in bf16 differ by this"),
    CauseShare("norm rounding", 0.082),
    CauseShare("partial sums of ranks", 0.047),
    CauseShare("fused QKV", 0.0, note="each output is the same dot product"),
)


def clean(**options: object) -> LogitDiff:
    return diff(taps(), "arithmetic", CLEAN_WORDS, **options)  # type: ignore[arg-type]


def faulty() -> LogitDiff:
    """K of layer 1 is wrong, and what is made of it; an exponent apart in the last norm."""
    k = Tap(
        1, "k", 1.8, FLOOR, reads=(layer(1, "self_attn.k_proj.weight"),),
        hint="the same values in another order inside each head",
    )  # fmt: skip
    bad: Bad = {
        (1, "k"): k,
        (1, "k_rope"): Tap(1, "k_rope", 1.8, FLOOR),
        (1, "ctx"): Tap(1, "ctx", 0.4, FLOOR),
        (2, "mlp_out"): Tap(
            2, "mlp_out", 9e-4, FLOOR, reads=(layer(2, "mlp.down_proj.weight"),), rest=1e-7
        ),
    }
    sentence = f"{FIRST} k of layer 1, relative difference 1.8e+00. {k.reads[0]}"
    return diff(
        taps(3, bad=bad), "weights-or-config", f"{sentence} differ.", k, same=False, size=18.4,
        notes=("the ids begin with BOS (1 '<s>') twice: where the text has it already",),
    )  # fmt: skip


def config_only() -> LogitDiff:
    """Every layer's rotation is wrong, with no tensor to blame."""
    bad: Bad = {
        (number, name): Tap(number, name, 0.83) for number in range(3) for name in DENSE[4:6]
    }
    words = f"{FIRST} q_rope of layer 0. It reads no tensor."
    return diff(taps(3, bad=bad), "weights-or-config", words, bad[0, "q_rope"], same=False, size=9)


def experts() -> LogitDiff:
    return diff(taps(4, EXPERTS), "arithmetic", CLEAN_WORDS)


def deep() -> LogitDiff:
    """126 layers, one fault in layer 100."""
    bad: Bad = {(100, "mlp_out"): Tap(100, "mlp_out", 1.4, FLOOR)}
    words = f"{FIRST} mlp_out of layer 100."
    return diff(taps(126, bad=bad), "weights-or-config", words, bad[100, "mlp_out"], size=4)


def infinite() -> LogitDiff:
    nan = float("nan")
    bad: Bad = {(2, "act"): Tap(2, "act", inf, hint="not finite on B")}
    words = f"{FIRST} act of layer 2 (not finite on B)."
    found = diff(taps(3, bad=bad), "weights-or-config", words, bad[2, "act"])
    broken = LogitMetrics(
        nan, (0, 0), nan, nan, nan, nan, nan, nan, 6, 6, 0.0, 0.0, 2.3, nan
    )  # fmt: skip
    lost = tuple(Candidate(token, nan, None, 0) for token in range(5))
    top = tuple(Next(place.position, place.a[:5], lost) for place in found.top)
    return LogitDiff(
        **{field: getattr(found, field) for field in found.__slots__}
        | {"metrics": broken, "top": top}
    )


def steps(found: LogitDiff, *notes: str) -> list[LogitProgress | LogitDiff]:
    """Return what a comparison yields: the taps layer by layer, a second pass, the end."""
    layers = sorted({tap.layer for tap in found.taps if tap.layer is not None})
    before = [tap for tap in found.taps if tap.name == "embed"]
    after = [tap for tap in found.taps if tap.layer is None and tap.name != "embed"]
    groups = [before, *([t for t in found.taps if t.layer == n] for n in layers), after]
    told: list[LogitProgress | LogitDiff] = [
        LogitProgress(
            "layer by layer", number, len(groups), 0.8, tuple(group),
            note=notes[number - 1] if number <= len(notes) else "",
        )
        for number, group in enumerate(groups, 1)
    ]  # fmt: skip
    return [*told, LogitProgress("in bf16", 1, 1, 0.8), found]
