"""What a comparison yields: frozen, plain, small enough to pickle by the ten thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.tensors import Rank

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

    kind: str  # one of the classes of faults: QKV-LAYOUT, TP-ORDER, …
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
    undo: str | None = None  # None: data is lost, or nothing was moved
    fix: str | None = None
    cause: str = ""  # the likeliest
    rejected: tuple[str, ...] = ()  # classes that were tried and do not give what is there
    displaced: Displaced | None = None  # for a picture
