"""A finished comparison of logits, made by hand: every field has something to say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ckptdiff.results import Candidate, CauseShare, LogitDiff, LogitMetrics, Next, Tap

K = "model.layers.1.self_attn.k_proj.weight"
TAPS = (
    Tap(None, "embed", 0.0, 0.0, ("model.embed_tokens.weight",)),
    *(
        Tap(layer, name, 2e-7, 3e-7, (f"model.layers.{layer}.{name}",))
        for layer in range(4)
        for name in ("norm1", "q", "k")
    ),
    Tap(None, "logits", 3e-7, 1e-7, ("lm_head.weight",)),
)
METRICS = LogitMetrics(
    max_abs=0.25, max_at=(1, 7), mean_abs=0.0125, rel_rms=2e-2, cosine_min=0.99949, kl_mean=2.2e-3,
    kl_max=4e-3, top1_agree=1 / 3, flips=2, flips_unexplained=1, top5_overlap=0.84,
    top10_overlap=0.9, nll_a=3.25, nll_b=3.5,
)  # fmt: skip


def candidates(*numbers: int) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(number, 0.5 / place, f" t{number}", place)
        for place, number in enumerate(numbers, 1)
    )


def clean(**changes: Any) -> LogitDiff:
    """Return a comparison that only arithmetic tells apart."""
    found = LogitDiff(
        ids=(1, 5, 7),
        texts=("<s>", "The", " cat"),
        device="cpu",
        dtype="fp32",
        storage="bf16",
        verdict="arithmetic",
        sentence="Only arithmetic: no step differs by more than 3.0e-07.",
        first=None,
        floor=3e-7,
        threshold=6e-6,
        taps=TAPS,
        metrics=METRICS,
        top=(
            Next(1, candidates(1, 2), candidates(2, 1)),
            Next(2, candidates(9, 8, 7, 6, 5, 4), candidates(9, 7, 8, 6, 5, 3)),
        ),
        ratio=0.93,
    )
    return replace(found, **changes)


def with_taps(*changed: Tap, **changes: Any) -> LogitDiff:
    """Return a comparison in which these taps are apart; the first of them is the first."""
    by_place = {(tap.layer, tap.name): tap for tap in changed}
    taps = tuple(by_place.get((tap.layer, tap.name), tap) for tap in TAPS)
    return clean(
        **{
            "verdict": "weights-or-config", "sentence": "Weights or config differ: k of layer 1.",
            "first": changed[0], "taps": taps, "storage": "fp32", "ratio": None, **changes,
        }
    )  # fmt: skip


def faulty() -> LogitDiff:
    return with_taps(
        Tap(1, "k", 1.25, 1e-7, (K,), "the same values in another order"),
        Tap(3, "k", math.inf, 1e-7, ()),
    )


def attributed() -> LogitDiff:
    return clean(
        attribution=(
            CauseShare("norm rounding", 0.065, (1e-3, 2e-3, 2e-3, 3e-3)),
            CauseShare("fused QKV", 0.0, note="the same products in the same order"),
            CauseShare("shared rounding", 0.77),
        )
    )
