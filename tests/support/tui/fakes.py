"""An engine without files: hand-made checkpoints, results as ordered, gates to hold it up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembled, Assembly, Piece
from ckptdiff.checkpoint import (
    Checkpoint,
    Convention,
    Parallelism,
    Rank,
    Shard,
    TensorRef,
    contiguous,
)
from ckptdiff.comparison.pipeline import CheckpointPair
from ckptdiff.comparison.verdict import summarise
from ckptdiff.conversion.output_file import OutputFile
from ckptdiff.conversion.plan import Conversion
from ckptdiff.conversion.run import Written
from ckptdiff.errors import CkptDiffError, NotACheckpoint
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats.safetensors import lay_out
from ckptdiff.logits.prompt import Prompt, stated_ids
from ckptdiff.results import Numbers, TensorDiff
from ckptdiff.scores.results import ScoreProgress
from tests.support.tui.held import may_go_on

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from concurrent.futures import Executor

    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.conversion.plan import Target
    from ckptdiff.conversion.run import Lost
    from ckptdiff.results import Finding, LogitDiff, LogitProgress, Status
    from ckptdiff.scores.results import ScoreDiff
    from ckptdiff.tui.model.score_run import ScoreRequest

A, B = Path("/ckpt/llama-hf"), Path("/ckpt/run7/iter_0001000")
SHAPES = {
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "mlp.down_proj.weight": (64, 160),
    "post_attention_layernorm.weight": (64,),
}


def layer(number: int, part: str) -> str:
    return f"model.layers.{number}.{part}"


def names(layers: int = 3) -> list[str]:
    inner = [layer(i, part) for i in range(layers) for part in SHAPES]
    return ["model.embed_tokens.weight", *inner, "lm_head.weight"]


def checkpoint(root: Path, wanted: Iterable[str], *, tp: int = 1) -> Checkpoint:
    file = root / ("model.safetensors" if tp == 1 else "mp_rank_00/model_optim_rng.pt")
    refs = {}
    offset = 0
    for name in wanted:
        shape = next((s for part, s in SHAPES.items() if name.endswith(part)), (96, 64))
        refs[name] = TensorRef(name, shape, "BF16", file, offset, contiguous(shape))
        offset += 2 * prod(shape)
    shard = Shard(Rank(), 0, refs)
    kind: Convention = "hf" if tp == 1 else "megatron"
    return Checkpoint(root, kind, kind, None, Parallelism(tp=tp), (shard,), (file,))


def assembled(opened: Checkpoint, *, unmapped: tuple[str, ...] = ()) -> Assembled:
    (shard,) = opened.shards
    tensors = {}
    for name, ref in shard.tensors.items():
        if name not in unmapped:
            box = tuple((0, size) for size in ref.shape)
            tensors[name] = Assembly(name, ref.shape, ref.dtype, (Piece(ref, Rank(), box, box),))
    return Assembled(opened, None, None, tensors, unmapped, {})


def numbers(max_abs: float, cosine: float) -> Numbers:
    return Numbers(
        numel=4096,
        differing=0 if max_abs == 0 else 2048,
        max_abs=max_abs,
        max_at=(3, 5),
        mean_abs=max_abs / 4,
        rms=max_abs / 3,
        rel_l2=max_abs * 2,
        cosine=cosine,
        max_ulp=0 if max_abs == 0 else 7,
        nan_a=0,
        nan_b=0,
        inf_a=0,
        inf_b=0,
        norm_a=61.25,
        norm_b=61.5,
        histogram=(2048, 1024, 512, 512),
        grid=bytes([0, 9, 40, 90] * 4),
        grid_shape=(4, 4),
    )


def result(name: str, status: Status = "same", *, max_abs: float = 0.0) -> TensorDiff:
    if status == "error":
        return TensorDiff(name, status, error="/ckpt/x: the file ends too early. Copy it again.")
    if status in ("shape", "only_a", "only_b"):
        return TensorDiff(name, status, shape_a=(64, 64), shape_b=(32, 64))
    defaults = {"same": 0.0, "close": 9.8e-4, "differ": 2.1e-2}
    size = max_abs or defaults[status]
    cosine = {"same": 1.0, "close": 0.99998, "differ": 0.512}[status]
    return TensorDiff(
        name,
        status,
        why="cast" if status == "close" else None,
        dtype_a="BF16",
        dtype_b="BF16",
        shape_a=(64, 64),
        shape_b=(64, 64),
        nbytes=16384,
        numbers=numbers(size, cosine),
    )


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@dataclass
class FakeScores:
    """A comparison of scores as an engine was told it goes."""

    engine: FakeEngine
    executor: Executor
    keeps: bool = True
    answered: tuple[int, int] = (0, 0)

    def results(self) -> Generator[ScoreProgress | ScoreDiff, None, None]:
        try:
            for done, step in enumerate(self.engine.score_steps):
                if done == self.engine.hold_scores:
                    self.executor.submit(may_go_on, self.engine.gate).result()
                if isinstance(step, ScoreProgress):
                    self.answered = step.done, step.total
                yield step
            if self.engine.no_scores is not None:
                raise self.engine.no_scores
        except GeneratorExit:
            self.engine.closed += 1
            raise

    def so_far(self, executor: Executor) -> ScoreDiff | None:
        executor.submit(len, ()).result()
        return self.engine.answered


@dataclass
class FakeEngine:
    """Opens `A` and `B` only. `hold` stops the comparison after that many results."""

    results: Mapping[str, TensorDiff] = field(default_factory=dict)  # others are `same`
    tensors: list[str] = field(default_factory=names)
    only_b: list[str] = field(default_factory=list)
    unmapped: tuple[str, ...] = ()
    hold: int | None = None
    clock: Clock = field(default_factory=Clock)
    seconds_each: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)
    first: list[str] = field(default_factory=list)  # names in the first of A's many files
    reading_first: threading.Event | None = None  # A waits for it
    reading: threading.Event | None = None  # B waits for it
    renamed: list[str] = field(default_factory=list)  # what B calls tensors before the matching
    matching: threading.Event | None = None  # the matching waits for it
    no_optimizer: CkptDiffError | None = None
    closed: int = 0  # generators that were closed before their end
    asked: list[list[str]] = field(default_factory=list)  # names of each comparison
    tolerances: list[str] = field(default_factory=list)
    breaks: BaseException | None = None
    findings: list[Finding] = field(default_factory=list)
    looking: threading.Event | None = None  # the diagnosis waits for it
    no_diagnosis: BaseException | None = None
    steps: Sequence[LogitProgress | LogitDiff] = ()  # of comparing logits
    prompts: list[tuple[str, bool]] = field(default_factory=list)  # and whether with attribution
    no_tokens: BaseException | None = None
    devices: tuple[str, ...] = ()  # that torch sees beside the CPU
    computed_on: list[str] = field(default_factory=list)
    no_logits: BaseException | None = None
    hold_logits: int | None = None  # after that many steps they wait for `gate`
    score_steps: Sequence[ScoreProgress | ScoreDiff] = ()  # of comparing scores
    scored: list[ScoreRequest] = field(default_factory=list)
    hold_scores: int | None = None  # after that many steps they wait for `gate`
    no_scores: BaseException | None = None
    answered: ScoreDiff | None = None  # what there is when a run is stopped or fails

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
        progress(1, 2)
        if path == A:
            while self.reading_first is not None and not self.reading_first.wait(0.01):
                progress(1, 2)
            return checkpoint(A, self.tensors)
        if path != B:
            raise NotACheckpoint(f"{path}: is no checkpoint [b]of any kind[/b]")
        while self.reading is not None and not self.reading.wait(0.01):
            progress(1, 2)
        return checkpoint(B, [*self.tensors, *self.only_b, *self.unmapped], tp=4)

    def open_first(self, path: Path) -> Checkpoint | None:
        return checkpoint(path, self.first) if self.first else None

    def describe(self, opened: Checkpoint) -> tuple[str | None, int | None]:
        return ("llama", 3) if opened.format == "hf" else (None, 3)

    def assemble(self, opened: Checkpoint) -> Assembled:
        return assembled(opened)

    def pair(
        self,
        a: Assembled,
        b: Checkpoint,
        executor: Callable[[], Executor],
        *,
        optimizer: bool,
        adapter: Checkpoint | None = None,
        matching: Callable[[int, int], None],
        refused: Callable[[CkptDiffError], object],
    ) -> Iterator[CheckpointPair]:
        """Pair by name; find what B calls otherwise after as many looks as there are tensors."""
        other = assembled(b, unmapped=self.unmapped)
        wanted = [*self.tensors, *self.only_b, *self.renamed]
        if self.renamed:
            yield CheckpointPair(a, other, tuple(wanted), is_complete=False)
            wanted = self.tensors
            matching(0, len(wanted))
            while self.matching is not None and not self.matching.wait(0.01):
                matching(1, len(wanted))
            count = len(self.renamed)
            note = f"no rule was used: {count} of {count} tensors were found"
            other = replace(other, notes=(note,))
        if optimizer and self.no_optimizer is not None:
            refused(self.no_optimizer)
        elif optimizer:
            masters = [f"optimizer.fp32_param.{name}" for name in self.tensors]
            wanted = [*self.tensors, *self.only_b, *masters]
        yield CheckpointPair(a, other, tuple(wanted))

    def compare(
        self,
        pair: CheckpointPair,
        executor: Callable[[], Executor],
        *,
        tolerance: str,
        known: Mapping[str, TensorDiff],
        first: Callable[[], Iterable[str]],
    ) -> Generator[TensorDiff | DiffSummary, None, None]:
        found = dict(known)
        left = [name for name in pair.names if name not in known]
        if left:
            self.asked.append(list(left))
            self.tolerances.append(tolerance)
        done = 0
        try:
            while left:
                if self.breaks is not None:
                    raise self.breaks
                if done == self.hold and not may_go_on(self.gate):
                    return
                name = next((name for name in first() if name in left), left[0])
                left.remove(name)
                self.clock.at += self.seconds_each
                found[name] = self.results.get(name) or result(name)
                yield found[name]
                done += 1
        except GeneratorExit:
            self.closed += 1
            raise
        yield summarise(found, pair.a, pair.b)

    def diagnose(
        self,
        a: Assembled,
        b: Assembled,
        results: Sequence[TensorDiff],
        config: Sequence[ConfigDiff],
        executor: Executor,
    ) -> Iterator[Finding]:
        if self.looking is not None:
            executor.submit(may_go_on, self.looking).result()
        if self.no_diagnosis is not None:
            raise self.no_diagnosis
        executor.submit(len, ()).result()
        yield from self.findings

    def plan(
        self, source: Checkpoint, out: Path, target: Target, like: Checkpoint | None
    ) -> Conversion:
        side = assembled(source)
        layout = lay_out((t.name, t.dtype, t.shape) for t in side.tensors.values())
        file = OutputFile("model.safetensors", layout, tuple(side.tensors.values()))
        notes = ["padded vocabulary 500 -> 512: 12 rows, copies of the last"]
        if target.to == "hf":
            notes = ["padded vocabulary 512 -> 500: 12 rows dropped"]
        if like is not None:
            notes.append(f"copied from {like.root}: tokenizer.json, generation_config.json")
        return Conversion(side, target, out, (file,), (), (*notes, "14 tensors in 1 file"), ())

    def convert(
        self, conversion: Conversion, executor: Executor
    ) -> Generator[Written | Lost | TensorDiff, None, None]:
        (file,) = conversion.files
        self.clock.at += self.seconds_each
        yield Written(file.path, file.layout.nbytes // 2)
        if self.hold is not None and not may_go_on(self.gate):
            return
        yield Written(file.path, file.layout.nbytes // 2)
        yield Written(file.path, 0, complete=True)
        yield from map(result, conversion.source.tensors)

    def read_prompt(self, text: str, a: Assembled, b: Assembled, executor: Executor) -> Prompt:
        if self.no_tokens is not None:
            raise self.no_tokens
        if (stated := stated_ids(text)) is not None:
            return Prompt(stated, tuple(map(str, stated)))
        texts = executor.submit(text.split).result()
        if all(word.strip().isdigit() for word in text.split(",")):
            return Prompt(tuple(map(int, text.split(","))), ())
        return Prompt(tuple(range(1, 1 + len(texts))), tuple(texts))

    def cuda_devices(self, executor: Executor) -> tuple[str, ...]:
        return self.devices

    def compare_logits(
        self,
        a: Assembled,
        b: Assembled,
        prompt: Prompt,
        executor: Executor,
        *,
        device: str,
        attribute: bool,
    ) -> Generator[LogitProgress | LogitDiff, None, None]:
        self.computed_on.append(device)
        self.prompts.append((" ".join(prompt.texts), attribute))
        try:
            for done, step in enumerate(self.steps):
                if done == self.hold_logits:
                    executor.submit(may_go_on, self.gate).result()
                yield step
            if self.no_logits is not None:
                raise self.no_logits
        except GeneratorExit:
            self.closed += 1
            raise

    def scores(
        self,
        a: Assembled,
        b: Assembled,
        asked: ScoreRequest,
        executor: Executor,
        folder: Path | None,
    ) -> FakeScores:
        self.scored.append(asked)
        return FakeScores(self, executor)

    def executor(self) -> Executor:
        return InlineExecutor()

    def torch_executor(self) -> Executor:
        return InlineExecutor()
