"""The nouns of a comparison of scores: what is asked, what each side answers, what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.results import Answers, Budget, CauseShare, StepApart

ScoreVerdict = Literal["arithmetic", "weights-or-config", "undecided"]
Kind = Literal["choices", "rolling", "one"]  # a doc's answers; windows of a text; one answer


@dataclass(frozen=True, slots=True)
class Question:
    """One conditional log-likelihood: of the last `answer` tokens, given those before them.

    Two of the same tokens are one question, whichever tasks ask it.
    """

    ids: bytes  # token ids, int32 of this machine, context and continuation
    answer: int  # how many of the last are scored; at least 1, less than there are ids


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a task, as both sides answer it."""

    task: str
    doc: int  # its number in the data set, from 0
    kind: Kind
    text: str  # the question as the model reads it
    choices: tuple[str, ...]  # texts of the answers; empty if rolling
    target: int | None  # of the right choice, where the task has one
    questions: tuple[Question, ...]  # of each choice, or of each window of a rolling text
    answers: tuple[Answers, ...]
    scores_a: tuple[tuple[str, float], ...]  # metric and value of this document
    scores_b: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A row of the table: one metric of one task, or the mean of a group."""

    task: str
    group: str  # "MMLU", "lm-eval", "multilingual", "bigbench" or "other"
    part: str  # of MMLU: "stem", "humanities", "social sciences", "other"; else nothing
    metric: str  # as in lm-eval: "acc", "acc_norm", "word_perplexity", …
    a: float
    b: float
    items: int
    stderr: float | None = None  # of A alone, unpaired, as lm-eval quotes it

    @property
    def relative(self) -> float | None:
        """|A-B| / |A|; None if A is 0."""
        return abs(self.a - self.b) / abs(self.a) if self.a else None


@dataclass(frozen=True, slots=True)
class Paired:
    """What both sides' answers to the same items tell, item by item. In nats where not said."""

    items: int  # with choices
    largest: float  # |log-likelihood of A - of B|, of an item that of the answer farthest apart
    median: float
    floor_largest: float  # the same of A and A's weights in B's arithmetic
    floor_median: float
    agree: int  # items in which both sides choose the same
    flips: int  # items in which they choose otherwise
    # Of these, where A's margin is at most twice `floor_largest`: two right programs may do that.
    # Twice the item's own distance would count each flip, as no smaller one can make any.
    flips_within: int
    could_flip: int  # items whose margin is less than twice the 99th percentile of distances
    a_alone_right: int
    b_alone_right: int
    mcnemar: float  # two-sided exact p of the two numbers above
    difference: float  # accuracy of A less that of B, 0 to 1
    stderr_paired: float  # of the difference, from the items' differences
    stderr_unpaired: float  # as if other items had been asked of B
    effective_items: float  # unpaired items that would give the paired standard error


@dataclass(frozen=True, slots=True)
class ScoreProgress:
    """Progress: a section of a batch is computed, or tasks are read."""

    doing: str  # "reading tasks", "boolq: layer 3", …
    done: int  # questions that are answered
    total: int
    seconds: float  # since the start
    left: float | None = None  # estimate, seconds
    rate: float | None = None  # questions a second
    batch: int = 0  # number of this batch, from 1
    batches: int = 0
    section: int = 0  # of this batch's sections, how many are done
    sections: int = 0
    note: str = ""  # to be reported once
    tasks: tuple[TaskScore, ...] = ()  # rows that are final


@dataclass(frozen=True, slots=True)
class ScoreDiff:
    """The result of a comparison of scores."""

    verdict: ScoreVerdict
    sentence: str
    dtype: str
    device: str
    tasks: tuple[TaskScore, ...]  # every metric of every task; means of classes are not among them
    mean: float | None  # of |A-B| / |A| over the tasks, each by its main metric if that has a share
    paired: Paired | None  # over all items with choices; None if there are none
    items: tuple[Item, ...]
    step: StepApart | None  # the first step that gives away that weights or config differ
    shown_by: Item | None  # the first item that shows it
    complete: bool = True  # False: it was stopped, and is of the items that were answered
    attribution: tuple[CauseShare, ...] = ()
    budget: Budget | None = None
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What the tasks ask of a model, each question once, in the order of the tasks."""

    questions: tuple[Question, ...]
    tasks: tuple[tuple[str, int], ...]  # and how many documents each has
    of: tuple[tuple[int, ...], ...]  # per task, the numbers of its questions, each once
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()  # of the libraries, and of each task


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of both sides: of tasks, of groups of tasks, and of each document."""

    tasks: tuple[TaskScore, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
