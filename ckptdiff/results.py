"""What a comparison yields: frozen, plain, small enough to pickle by the ten thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.checkpoint import Rank
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.fault_classes import FaultClass

Status = Literal["same", "close", "differ", "shape", "only_a", "only_b", "error"]
Verdict = Literal["same", "close", "differ"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured; sums and maxima run over elements that are finite on both sides.

    `differing`, `max_ulp` and the histogram are in the narrower dtype of the two.
    """

    numel: int
    differing: int  # elements whose bits differ
    max_abs: float
    max_at: tuple[int, ...] | None
    mean_abs: float
    rms: float  # of the differences
    rel_l2: float  # |A-B| / |A|, Euclidean norms
    cosine: float  # 1 only where no value differs
    max_ulp: int
    nan_a: int
    nan_b: int
    inf_a: int
    inf_b: int
    norm_a: float | None  # None where all bits are equal and the norm was not worth its time
    norm_b: float | None
    # Element counts by bit length of the ULP distance: 0, 1, 2-3, 4-7, …
    histogram: tuple[int, ...]
    grid: bytes  # largest |a-b| of each block, row by row, as levels (kernels.stats.level_value)
    grid_shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """The result for one canonical tensor."""

    name: str
    status: Status
    why: Literal["cast", "bits", "tolerance"] | None = None
    error: str | None = None
    note: str | None = None  # drifted replicas, lost rows, what the padding holds
    dtype_a: str | None = None
    dtype_b: str | None = None
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    padding_rows: int = 0
    nbytes: int = 0  # read for this result, both sides
    numbers: Numbers | None = None  # None for shape, only_a, only_b and error


@dataclass(frozen=True, slots=True)
class Loss:
    """How many elements a cast changed, and how many of them beyond rounding."""

    rounded: int = 0  # are worth something else than before
    overflowed: int = 0  # were finite and are not
    flushed: int = 0  # were not zero and are

    def plus(self, other: Loss) -> Loss:
        return Loss(
            self.rounded + other.rounded,
            self.overflowed + other.overflowed,
            self.flushed + other.flushed,
        )


@dataclass(frozen=True, slots=True)
class Displaced:
    """What lies in another's place: rows, columns, ranks, layers or experts."""

    unit: str  # of the numbers: row, rank, …
    start: int  # the places that are spoken of
    stop: int
    pairs: tuple[tuple[int, int], ...]  # a place and the one whose content it holds; some of many
    where: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, however much it touches, or one thing worth knowing that is none."""

    kind: FaultClass
    severity: Literal["fault", "info"]
    title: str
    tensors: tuple[str, ...] = ()  # canonical names whose content is wrong because of it
    layers: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()
    ranks: tuple[Rank, ...] = ()  # of B, whose files hold the wrong content
    evidence: str = ""
    confidence: float = 1.0  # in the transformation
    cause_confidence: float = 1.0  # in the cause that the title names
    also_explained_by: tuple[str, ...] = ()
    undo: Remap | None = None  # None: data is lost, or nothing was moved
    fix: str | None = None
    cause: str = ""  # the likeliest
    rejected: tuple[str, ...] = ()  # classes that were tried and do not give what is there
    displaced: Displaced | None = None  # for a picture


LogitVerdict = Literal["arithmetic", "small", "weights-or-config"]


@dataclass(frozen=True, slots=True)
class Tap:
    """How far the two sides are apart where both start from A's values.

    Numbers are |A-B| / |A|, Euclidean norms over all positions; infinite where a side is not
    finite or the shapes differ.
    """

    layer: int | None  # from 0 over the whole model; None before the first and behind the last
    name: str  # embed, norm1, q, k, v, q_rope, …, logits
    rel: float
    floor: float = 0.0  # between A's weights in A's arithmetic and in B's
    reads: tuple[str, ...] = ()  # names of A's tensors that it depends on; none: the config alone
    hint: str = ""  # how the values are related, where that is plain
    rest: float | None = None  # `rel` once weights are cast as the other's; None: no cast explains

    @property
    def judged(self) -> float:
        """The part that no cast of the weights explains."""
        return self.rel if self.rest is None else self.rest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may come next."""

    id: int
    probability: float
    text: str | None = None  # None without a tokenizer
    rank_in_other: int = 0  # its place among the other side's tokens, from 1


@dataclass(frozen=True, slots=True)
class Next:
    """The likeliest tokens after one position of the prompt."""

    position: int
    a: tuple[Candidate, ...]
    b: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class LogitMetrics:
    """How far the logits are apart; each side runs on its own values, in the storage dtype.

    In float64, over all positions and the tokens that are no padding. `rel_rms` and `cosine_min`
    are taken after each position's mean is removed, which softmax does not see.
    """

    max_abs: float
    max_at: tuple[int, int]  # position and token of `max_abs`
    mean_abs: float
    rel_rms: float  # rms(A-B) / rms(A)
    cosine_min: float  # of one position, the smallest
    kl_mean: float  # sum of p_A (log p_A - log p_B), in nats
    kl_max: float
    top1_agree: float  # share of the positions
    flips: int  # positions whose likeliest token differs
    flips_unexplained: int  # of these: A's margin to the second is 2 max|A-B| there, or more
    top5_overlap: float  # |both| / 5, mean
    top10_overlap: float
    nll_a: float | None  # of the prompt's own tokens, mean, in nats; None for a single token
    nll_b: float | None


@dataclass(frozen=True, slots=True)
class CauseShare:
    """One cause's part of the squared difference that rounding makes."""

    cause: str
    share: float  # of 1
    layers: tuple[float, ...] = ()  # relative rms that it alone adds to the residual, by layer
    note: str = ""  # why it is exactly zero, say


@dataclass(frozen=True, slots=True)
class Budget:
    """What rounding makes of A's logits, of B's, and of their difference: rms over the rms of A's.

    `predicted` adds the squares of what single roundings make, `measured` is what the low precision
    gave. They are far apart where the logits do not obey first order.
    """

    predicted: tuple[float, float, float]
    measured: tuple[float, float, float]
    emulated: tuple[float, float, float]  # all roundings at once, in float64


@dataclass(frozen=True, slots=True)
class LogitProgress:
    """A layer, or another step, that is done."""

    doing: str  # "layer by layer", "in bf16", …
    done: int
    total: int
    seconds: float  # that this step took
    taps: tuple[Tap, ...] = ()
    note: str = ""  # something to be told, once


@dataclass(frozen=True, slots=True)
class LogitDiff:
    """What one prompt tells about two checkpoints."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # of the ids; empty without a tokenizer
    device: str
    dtype: str  # of the verdict
    storage: str  # dtype of the metrics
    verdict: LogitVerdict
    sentence: str  # the verdict in words
    first: Tap | None  # the first above the threshold
    floor: float
    threshold: float
    taps: tuple[Tap, ...]
    metrics: LogitMetrics
    top: tuple[Next, ...]
    ratio: float | None  # rms of the difference over what independent rounding would give
    attribution: tuple[CauseShare, ...] = ()  # the noise of both sides first
    budget: Budget | None = None  # what the attribution predicts, and what was measured
    notes: tuple[str, ...] = ()
