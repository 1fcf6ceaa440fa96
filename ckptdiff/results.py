"""Results of comparisons: frozen, plain, small enough to pickle by the ten thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.checkpoint import Rank
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.fault_classes import FaultClass

Status = Literal[
    "same", "close", "matched", "packed", "differ", "shape", "only_a", "only_b", "error"
]
Verdict = Literal["same", "close", "matched", "packed", "differ", "trouble"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured of two tensors A and B; means and maxima are over finite pairs of elements.

    `differing`, `max_ulp` and `histogram` are taken in the narrower dtype of the two.
    """

    numel: int
    differing: int  # elements whose bits differ
    max_abs: float  # largest |a-b|
    max_at: tuple[int, ...] | None  # index of `max_abs`
    mean_abs: float  # mean of |a-b|
    rms: float  # root mean square of a-b
    rel_l2: float  # |A-B| / |A|, Euclidean norms
    cosine: float  # of A and B as vectors; 1 only if no value differs
    max_ulp: int  # largest distance in steps of the dtype
    nan_a: int  # number of elements, as the next three
    nan_b: int
    inf_a: int
    inf_b: int
    norm_a: float | None  # Euclidean norm; None if all bits are equal: it is not computed
    norm_b: float | None
    # Numbers of elements by the bit length of their distance in steps: 0, 1, 2-3, 4-7, …
    histogram: tuple[int, ...]
    grid: bytes  # largest |a-b| of each block, row by row, as a level (kernels.stats.level_value)
    grid_shape: tuple[int, int]  # (rows, columns) of blocks


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """The result of comparing one canonical tensor."""

    name: str
    status: Status
    # `sums`: what an adapter adds, its terms added in another order or rounded once more.
    why: Literal["cast", "bits", "sums", "tolerance"] | None = None
    error: str | None = None
    note: str | None = None  # such as drifted replicas, missing rows, what the padding holds
    dtype_a: str | None = None
    dtype_b: str | None = None
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    padding_rows: int = 0
    nbytes: int = 0  # read for this result, both sides
    numbers: Numbers | None = None  # None where no values were compared


@dataclass(frozen=True, slots=True)
class Loss:
    """How many elements a cast changed."""

    rounded: int = 0  # have another value
    overflowed: int = 0  # were finite and are infinite or NaN
    flushed: int = 0  # were not zero and are zero

    def plus(self, other: Loss) -> Loss:
        """Return the loss of both together."""
        return Loss(
            self.rounded + other.rounded,
            self.overflowed + other.overflowed,
            self.flushed + other.flushed,
        )


@dataclass(frozen=True, slots=True)
class Displaced:
    """Content in the wrong place: rows, columns, ranks, layers or experts."""

    unit: str  # what the numbers count: row, rank, …
    start: int  # the first place that may hold wrong content
    stop: int  # the last one, plus 1
    pairs: tuple[tuple[int, int], ...]  # (place, the place its content belongs to); a sample
    where: str = ""  # put in front of the unit: which tensor, for example


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, however many tensors it touches, or one note that is no fault."""

    kind: FaultClass
    severity: Literal["fault", "info"]
    title: str
    tensors: tuple[str, ...] = ()  # canonical names whose content is wrong because of it
    layers: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()
    ranks: tuple[Rank, ...] = ()  # of B, whose files hold the wrong content
    evidence: str = ""
    confidence: float = 1.0  # 0 to 1, in the transformation that was found
    cause_confidence: float = 1.0  # 0 to 1, in the likeliest cause
    also_explained_by: tuple[str, ...] = ()  # causes that leave the same bytes, likeliest first
    undo: Remap | None = None  # None: data is lost, or nothing was moved
    is_unruled: bool = False  # nothing is lost, but no family's rules know how to write it
    fix: str | None = None  # a command, or for a config the flag that mends it
    cause: str = ""  # the likeliest
    rejected: tuple[str, ...] = ()  # classes that were tried and give other bytes
    displaced: Displaced | None = None  # what to draw, if content moved
    letter: Literal["A", "B"] = "B"  # of the side that has the fault
    is_lost: bool = True  # without an undo; False: B may have the content in another form
    setting: str = ""  # of a config, the one that conflicts: the meaning of its line

    @property
    def is_converted_away(self) -> bool:
        """Whether a conversion of B writes it without the fault.

        Any conversion leaves out what wrappers put into names: there is nothing to undo.
        """
        return self.undo is not None or (self.kind == "NAMES" and self.fix is not None)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A file that is not what it was when it was saved, and why in words."""

    file: str  # from the root of its checkpoint
    why: str


@dataclass(frozen=True, slots=True)
class SavedHashes:
    """The files of a side, held against the hashes that were saved with them."""

    letter: Literal["A", "B"]
    root: str
    hashed: int  # files of which something was read
    stated: int  # files that have a hash
    trouble: tuple[FileCheck, ...] = ()


def undo_all(findings: Iterable[Finding]) -> tuple[Remap, ...]:
    """Return the re-mappings that take out all faults of B that a re-mapping takes out."""
    return tuple(f.undo for f in findings if f.severity == "fault" and f.undo is not None)


@dataclass(frozen=True, slots=True)
class JointFix:
    """The command that mends several faults at once."""

    command: str
    mended: tuple[Finding, ...]
    left: tuple[Finding, ...]  # faults that it does not mend


LogitVerdict = Literal["arithmetic", "undecided", "small", "weights-or-config"]


@dataclass(frozen=True, slots=True)
class Tap:
    """How far apart one step of both forward passes is when both start from A's values.

    `rel`, `floor` and `rest` are |A-B| / |A|, Euclidean norms over all positions, of logits over
    at most 128; infinite if a side is not finite or the shapes differ.
    """

    layer: int | None  # from 0 over the whole model; None before the first and after the last
    name: str  # embed, norm1, q, k, v, q_rope, …, logits
    rel: float
    floor: float = 0.0  # the same with A's weights on both sides: arithmetic alone
    reads: tuple[str, ...] = ()  # A's tensors that the step uses; none: only the config matters
    hint: str = ""  # in words, how B's values follow from A's, if that was found
    rest: float | None = None  # `rel` with the wider weights cast to the other dtype; None: no cast

    @property
    def judged(self) -> float:
        """The distance that no cast of the weights explains, which the verdict is about."""
        return self.rel if self.rest is None else self.rest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may come next, on one side."""

    id: int
    probability: float  # softmax of the logits
    text: str | None = None  # None without a tokenizer
    rank_in_other: int = 0  # its position among the other side's tokens, from 1; 0: not known


@dataclass(frozen=True, slots=True)
class Next:
    """The likeliest tokens of both sides after one position of the prompt."""

    position: int
    a: tuple[Candidate, ...]
    b: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class LogitMetrics:
    """How far apart the logits are; each side runs on its own values, in the storage dtype.

    Computed in float64, over all positions and all tokens but padding. Logits have no unit. For
    `rel_rms` and `cosine_min`, each position's mean is subtracted first: softmax does not see it.
    """

    max_abs: float  # largest |A-B|
    max_at: tuple[int, int]  # its position and token id
    mean_abs: float  # mean |A-B|
    rel_rms: float  # rms(A-B) / rms(A)
    cosine_min: float  # the smallest of all positions, -1 to 1
    kl_mean: float  # KL(A || B) = sum of p_A (log p_A - log p_B) in nats, mean over positions
    kl_max: float  # and the largest of all positions
    top1_agree: float  # fraction of positions with the same likeliest token, 0 to 1
    flips: int  # positions whose likeliest token differs
    flips_unexplained: int  # of these, where A's margin to its second token is 2 max|A-B| or more
    top5_overlap: float  # fraction of the 5 likeliest tokens that both sides have, mean, 0 to 1
    top10_overlap: float  # likewise of 10
    nll_a: float | None  # negative log-likelihood of the prompt, nats per token; None for one token
    nll_b: float | None
    # The same over all rows of the embedding, as Megatron's own loss is: padding has a share of the
    # probability. None where a side has no such rows.
    nll_padded_a: float | None = None
    nll_padded_b: float | None = None


@dataclass(frozen=True, slots=True)
class CauseShare:
    """How much of the squared difference of the logits one cause of rounding makes."""

    cause: str
    share: float  # of 1: the fraction of the predicted squared difference
    layers: tuple[float, ...] = ()  # relative rms that it alone adds to the residual, by layer
    note: str = ""  # such as why it is exactly zero


@dataclass(frozen=True, slots=True)
class Budget:
    """The rounding error of A's logits, of B's, and of their difference, each over the rms of A's.

    `predicted` adds the squares of the errors of single roundings, `measured` is the error of a run
    in low precision. They are far apart if errors are too large for the first-order sum.
    """

    predicted: tuple[float, float, float]
    measured: tuple[float, float, float]
    emulated: tuple[float, float, float]  # all roundings at once, in float64


@dataclass(frozen=True, slots=True)
class LogitProgress:
    """Progress of a comparison of logits: a layer, or another step, is done."""

    doing: str  # "layer by layer", "in bf16", …
    done: int
    total: int
    seconds: float  # that this step took
    taps: tuple[Tap, ...] = ()
    note: str = ""  # to be reported once


@dataclass(frozen=True, slots=True)
class LogitDiff:
    """The result of comparing the logits of two checkpoints for one prompt."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # of the ids; empty without a tokenizer
    device: str
    dtype: str  # of the forward pass that the verdict is about
    storage: str  # dtype of the forward pass that the metrics are about
    verdict: LogitVerdict
    sentence: str  # the verdict in words
    first: Tap | None  # the first above the threshold
    floor: float  # the largest of a tap
    threshold: float  # for the distance of a tap
    taps: tuple[Tap, ...]
    metrics: LogitMetrics
    top: tuple[Next, ...]
    ratio: float | None  # rms(A-B) over the rms that independent rounding of both sides would give
    attribution: tuple[CauseShare, ...] = ()  # the rounding noise of both sides first
    budget: Budget | None = None  # the errors that the attribution predicts, and the measured ones
    notes: tuple[str, ...] = ()
    # What has to hold for the verdict, as a config cannot say it: a clause each.
    conditions: tuple[str, ...] = ()
    fed: tuple[str, ...] = ()  # what the sides' programs would not be fed alike, in sentences
    same_ids: bool = True  # of the prompt's text, by both sides' tokenizers; True if not known


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side gives for a span of tokens, given those before it."""

    loglik: float  # natural logarithm, a sum over the answer's tokens
    is_greedy: bool  # each token of the answer is the likeliest at its place


@dataclass(frozen=True, slots=True)
class Answers:
    """A span's answers: by A, by A's weights in B's arithmetic, and by B.

    The distances are the largest relative one of the rows of logits, without padding, at which the
    answer is read: |x-y| / |x|.
    """

    a: Answer
    floor: Answer  # A's weights and config in B's arithmetic
    b: Answer
    floor_apart: float  # of A and A's weights in B's arithmetic
    weights_apart: float  # of A's weights in B's arithmetic and B
    apart: float  # of A and B


@dataclass(frozen=True, slots=True)
class StepApart:
    """A step that gives another value with B's weights than with A's, from equal inputs."""

    layer: int | None  # None before the first and after the last
    name: str  # of the value, as in `ckptdiff logits`
    rel: float  # |A-B| / |A|, both in B's arithmetic, over the positions of that sequence
    sequence: int  # the batch's sequence in which it is largest, from 0
    reads: tuple[str, ...] = ()  # A's stored tensors that the step reads
