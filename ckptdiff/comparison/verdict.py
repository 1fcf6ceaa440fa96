"""The verdict on one tensor, its numbers, and the verdict on all tensors together."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ckptdiff.assembly.unwrapping import changed_names
from ckptdiff.comparison.packed import is_unlike
from ckptdiff.config.compare import (
    compare_configs,
    config_status,
    is_unexplained,
    why_not_compared,
)
from ckptdiff.errors import BadArgument
from ckptdiff.results import Numbers, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.kernels.stats import Stats
    from ckptdiff.results import Finding, SavedHashes, TensorDiff, Verdict

    Why = Literal["cast", "bits", "sums", "tolerance"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What counts as close.

    `limit` of `ulp` is the largest distance in steps of the narrower dtype, that of `rel` the
    largest |A-B| / |A| in Euclidean norms.
    """

    kind: Literal["exact", "cast", "ulp", "rel"]
    limit: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Parse `exact`, `cast`, `ulp:N` or `rel:X`. Raises BadArgument."""
        kind, _, number = text.partition(":")
        match kind:
            case "exact" | "cast" if not number:
                return cls(kind)
            case "ulp" | "rel":
                try:
                    limit = float(int(number)) if kind == "ulp" else float(number)
                except (ValueError, OverflowError):
                    limit = math.nan
                if math.isfinite(limit) and limit >= 0:
                    return cls(kind, limit)
        hint = ""
        with suppress(ValueError):
            hint = f", as in rel:{text.strip()}" if float(text) >= 0 else ""
        raise BadArgument(f"tolerance '{text}': say exact, cast, ulp:N or rel:X{hint}")


CAST = Tolerance("cast")


def judge_tensor(
    stats: Stats,
    same_dtype: bool,  # noqa: FBT001
    tolerance: Tolerance,
    *,
    merges: bool = False,
) -> tuple[Status, Why | None]:
    """Return the status of a tensor whose elements were all compared, and why it is close.

    `merges` says that an adapter is added to one side, in one of the orders that give its sums.
    """
    if same_dtype and stats.differing == 0:
        return "same", None
    if tolerance.kind == "exact":
        return "differ", None
    if stats.differing == 0:
        return "close", "cast"
    if stats.unequal == 0:
        return "close", "bits"
    if merges and stats.beyond == 0 and stats.inexcusable == 0:
        return "close", "sums"
    # No tolerance allows a NaN or an Inf that one side alone has.
    if stats.inexcusable == 0 and (
        (tolerance.kind == "ulp" and stats.max_ulp <= tolerance.limit)
        or (tolerance.kind == "rel" and _relative(stats) <= tolerance.limit)
    ):
        return "close", "tolerance"
    return "differ", None


def numbers(stats: Stats, shape: tuple[int, ...]) -> Numbers:
    """Return the numbers of a tensor of this shape from its sums; `Numbers` says what each is.

    Means are over the elements that are finite on both sides.
    """
    from ckptdiff.assembly.views import index_at

    finite = max(1, sum(stats.histogram))
    return Numbers(
        numel=stats.numel,
        differing=stats.differing,
        max_abs=stats.max_abs,
        max_at=None if stats.max_at is None else index_at(stats.max_at, shape),
        mean_abs=stats.sum_abs / finite,
        rms=math.sqrt(stats.sum_dd / finite),
        rel_l2=_relative(stats),
        cosine=_cosine(stats),
        max_ulp=stats.max_ulp,
        nan_a=stats.nan_a,
        nan_b=stats.nan_b,
        inf_a=stats.inf_a,
        inf_b=stats.inf_b,
        norm_a=math.sqrt(stats.sum_aa) if stats.normed else None,
        norm_b=math.sqrt(stats.sum_bb) if stats.normed else None,
        histogram=tuple(stats.histogram),
        grid=stats.grid if stats.max_abs or stats.differing else b"",
        grid_shape=stats.grid_shape,
    )


_NORMS_APART = 1e9  # of sums that are right to 1e-12 no third decimal of the cosine is left


def _relative(stats: Stats) -> float:
    """Return |A-B| / |A|, Euclidean norms: 0 without a difference, infinite if A is all zeros."""
    if stats.sum_dd == 0:
        return 0.0
    return math.sqrt(stats.sum_dd / stats.sum_aa) if stats.sum_aa else math.inf


def _cosine(stats: Stats) -> float:
    """Return the cosine of A and B as vectors; NaN if one is all zeros, or next to the other.

    A·B / (|A| |B|) is computed as 1 - (|A-B|² - (|A|-|B|)²) / (2 |A| |B|), which loses no digits
    near 1, and all of them where one norm is a billion times the other.
    """
    if stats.sum_dd == 0:
        return 1.0
    a, b = math.sqrt(stats.sum_aa), math.sqrt(stats.sum_bb)
    if not a or not b or not 1 / _NORMS_APART < a / b < _NORMS_APART:
        return math.nan
    cosine = 1 - (stats.sum_dd - (a - b) ** 2) / (2 * a * b)
    # Exactly 1 means that no value differs.
    return min(max(cosine, -1.0), math.nextafter(1, 0))


@dataclass(frozen=True, slots=True)
class DiffSummary:
    """The result of a whole comparison."""

    verdict: Verdict
    weights: Verdict  # without the configs
    config_status: Literal["same", "conflict", "ignored", "unknown"]
    counts: Mapping[Status, int]
    # `wrapped`: a loader does not find tensors of B, since a wrapper has changed their names.
    names_status: Literal["known", "wrapped"] = "known"
    # `stale`: a loader does not find files of B, since its index names others. `damaged`: files of
    # a side are not what they were when they were saved; goes before `stale`.
    files_status: Literal["known", "stale", "damaged"] = "known"
    config: tuple[ConfigDiff, ...] = ()  # every line of the config table
    config_why: str | None = None  # a sentence, where no settings were compared
    # Sides, `A` or `B`, with fp32 master weights worth comparing. `summarise` reads no files, so
    # its caller fills this in.
    masters: tuple[str, ...] = ()
    # Of each side whose files have hashes; `summarise` hashes no files either.
    hashes: tuple[SavedHashes, ...] = ()
    findings: tuple[Finding, ...] = ()  # of the diagnosis, if it ran
    unlike: int = 0  # of the packed ones, those that are not, but of dtypes without numbers
    diagnosis_error: str | None = None  # that stopped it: there may be findings that are not known

    @property
    def conflicts(self) -> list[ConfigDiff]:
        return [line for line in self.config if line.status == "conflict"]

    @property
    def unexplained(self) -> list[ConfigDiff]:
        if self.config_status == "ignored":
            return []
        return [line for line in self.config if is_unexplained(line)]

    @property
    def has_errors(self) -> bool:
        return self.counts["error"] > 0


_LENIENT: tuple[Literal["same", "close", "matched", "packed"], ...] = (
    "same", "close", "matched", "packed",
)  # fmt: skip


def _of_all(counts: Mapping[Status, int]) -> Verdict:
    """Return the verdict over all tensors: the worst that one of them has."""
    if counts["error"] and counts["error"] == sum(counts.values()):
        return "trouble"
    if any(counts[s] for s in ("differ", "shape", "only_a", "only_b", "error")):
        return "differ"
    return next((s for s in reversed(_LENIENT) if counts[s]), "same")


def summarise(
    results: Iterable[TensorDiff] | Mapping[str, TensorDiff],
    a: Assembled,
    b: Assembled,
    *,
    ignore_config: bool = False,
) -> DiffSummary:
    """Return the verdict over all results; an unmapped name on either side is a difference.

    A conflict between the configs makes the verdict `differ`, unless `ignore_config` is set; so do
    settings of configs of one kind that differ without a known meaning, and names or files of B
    that a loader does not find.
    """
    values = list(results.values() if hasattr(results, "values") else results)
    found = Counter(result.status for result in values)
    counts: dict[Status, int] = {status: found[status] for status in get_args(Status)}
    weights = _of_all(counts)
    if weights in _LENIENT and (a.unmapped or b.unmapped):
        weights = "differ"
    config = tuple(compare_configs(a, b))
    status = "ignored" if ignore_config else config_status(config)
    is_wrapped = any(change.is_fault for change in changed_names(a, b))
    is_stale = b.checkpoint.stale_index is not None and a.checkpoint.stale_index is None
    # What Megatron's args alone can say is no difference of a config.json.
    kinds = {side.checkpoint.convention == "megatron" for side in (a, b)}
    is_open = status == "unknown" and len(kinds) == 1 and any(map(is_unexplained, config))
    is_worse = (status == "conflict" or is_open or is_wrapped or is_stale) and weights != "trouble"
    return DiffSummary(
        "differ" if is_worse else weights,
        weights,
        status,
        counts,
        "wrapped" if is_wrapped else "known",
        "stale" if is_stale else "known",
        config,
        None if ignore_config else why_not_compared(a, b, config),
        unlike=sum(is_unlike(result, a, b) for result in values),
    )
