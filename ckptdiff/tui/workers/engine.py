"""The engine as the app calls it: a protocol, which tests implement too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckptdiff.errors import CkptDiffError

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
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.pipeline import CheckpointPair
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.run import Lost, Written
    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import Finding, LogitDiff, LogitProgress, TensorDiff
    from ckptdiff.scores.results import ScoreDiff, ScoreProgress
    from ckptdiff.tui.model.score_run import ScoreRequest


class ScoreWork(Protocol):
    """A comparison of scores, which may be stopped."""

    @property
    def answered(self) -> tuple[int, int]: ...  # how many questions, of how many

    @property
    def keeps(self) -> bool: ...  # what is answered, for a run that goes on

    def results(self) -> Generator[ScoreProgress | ScoreDiff, None, None]: ...

    def so_far(self, executor: Executor) -> ScoreDiff | None: ...


class Engine(Protocol):
    """All of this may block, so it is called in worker threads only."""

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint: ...

    def open_first(self, path: Path) -> Checkpoint | None: ...

    def describe(self, checkpoint: Checkpoint) -> tuple[str | None, int | None]: ...

    def assemble(self, checkpoint: Checkpoint) -> Assembled: ...

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
    ) -> Iterator[CheckpointPair]: ...

    def compare(
        self,
        pair: CheckpointPair,
        executor: Callable[[], Executor],
        *,
        tolerance: str,
        known: Mapping[str, TensorDiff],
        first: Callable[[], Iterable[str]],
    ) -> Generator[TensorDiff | DiffSummary, None, None]: ...

    def diagnose(
        self,
        a: Assembled,
        b: Assembled,
        results: Sequence[TensorDiff],
        config: Sequence[ConfigDiff],
        executor: Executor,
    ) -> Iterator[Finding]: ...

    def plan(
        self, source: Checkpoint, out: Path, target: Target, like: Checkpoint | None
    ) -> Conversion: ...

    def convert(
        self, conversion: Conversion, executor: Executor
    ) -> Generator[Written | Lost | TensorDiff, None, None]: ...

    def compare_with_like(self, conversion: Conversion, executor: Executor) -> DiffSummary: ...

    def read_prompt(self, text: str, a: Assembled, b: Assembled, executor: Executor) -> Prompt: ...

    def compare_logits(
        self,
        a: Assembled,
        b: Assembled,
        prompt: Prompt,
        executor: Executor,
        *,
        device: str,
        attribute: bool,
    ) -> Generator[LogitProgress | LogitDiff, None, None]: ...

    def scores(
        self,
        a: Assembled,
        b: Assembled,
        asked: ScoreRequest,
        executor: Executor,
        folder: Path | None,
    ) -> ScoreWork: ...

    def cuda_devices(self, executor: Executor) -> tuple[str, ...]: ...

    def executor(self) -> Executor: ...

    def torch_executor(self) -> Executor: ...


class LocalEngine:
    """Calls the engine in this process. Its modules are imported on first use."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
        from ckptdiff.formats import open_checkpoint

        return open_checkpoint(path, progress=progress)

    def open_first(self, path: Path) -> Checkpoint | None:
        """Return the first file of many as a checkpoint; None if there are few."""
        from ckptdiff.formats import open_first

        return open_first(path)

    def describe(self, checkpoint: Checkpoint) -> tuple[str | None, int | None]:
        """Return the family and the number of layers, each None if the config lacks it."""
        from ckptdiff.arch import find_architecture
        from ckptdiff.config.model import from_huggingface, from_megatron

        config = checkpoint.config
        if config is None:
            return None, None
        if checkpoint.convention == "meta":
            layers = config.get("n_layers")
            return "llama", layers if type(layers) is int else None
        family = find_architecture(config)
        name = None if family is None else family.name
        try:
            sizes = (from_huggingface if checkpoint.convention == "hf" else from_megatron)(config)
        except CkptDiffError:
            return name, None
        return name, sizes.num_layers

    def assemble(self, checkpoint: Checkpoint) -> Assembled:
        from ckptdiff.assembly.assemble import assemble

        return assemble(checkpoint)

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
        """Yield the pair. It comes twice if tensors are matched by equal rows: before and after.

        `a` was assembled by itself, while `b` was being read.
        """
        from ckptdiff.comparison.pipeline import pair_checkpoints

        return pair_checkpoints(
            a.checkpoint, b, executor,
            alone=a, optimizer=optimizer, adapter=adapter, matching=matching, refused=refused,
        )  # fmt: skip

    def compare(
        self,
        pair: CheckpointPair,
        executor: Callable[[], Executor],
        *,
        tolerance: str,
        known: Mapping[str, TensorDiff],
        first: Callable[[], Iterable[str]],
    ) -> Generator[TensorDiff | DiffSummary, None, None]:
        from ckptdiff.comparison.pipeline import compare_pair
        from ckptdiff.comparison.verdict import Tolerance

        judge = Tolerance.parse(tolerance)
        return compare_pair(pair, executor, tolerance=judge, known=known, first=first)

    def diagnose(
        self,
        a: Assembled,
        b: Assembled,
        results: Sequence[TensorDiff],
        config: Sequence[ConfigDiff],
        executor: Executor,
    ) -> Iterator[Finding]:
        from ckptdiff.diagnosis.run import diagnose

        return diagnose(a, b, results, config, executor)

    def plan(
        self, source: Checkpoint, out: Path, target: Target, like: Checkpoint | None
    ) -> Conversion:
        from ckptdiff.assembly.assemble import assemble
        from ckptdiff.conversion.plan import plan_conversion

        lender = None if like is None else assemble(like)
        return plan_conversion(assemble(source, like=lender), out, target, lender)

    def convert(
        self, conversion: Conversion, executor: Executor
    ) -> Generator[Written | Lost | TensorDiff, None, None]:
        from ckptdiff.conversion.run import convert

        return convert(conversion, executor)

    def compare_with_like(self, conversion: Conversion, executor: Executor) -> DiffSummary:
        from ckptdiff.conversion.verify import compare_with_like

        return compare_with_like(conversion, executor)

    def read_prompt(self, text: str, a: Assembled, b: Assembled, executor: Executor) -> Prompt:
        """Tokenize a text, but read `ids:1,2,3` as ids, and without a tokenizer `1,2,3` too.

        Raises a CkptDiffError for another text without a tokenizer, or for an id outside a
        vocabulary.
        """
        from ckptdiff.logits.prompt import encode, prompt_of_ids, stated_ids, token_ids

        if (stated := stated_ids(text)) is not None:
            return prompt_of_ids(stated, a, b, executor)
        try:
            return encode(text, a, b, executor)
        except CkptDiffError as error:
            try:
                ids = token_ids(text)
            except ValueError:
                raise error from None
        return prompt_of_ids(ids, a, b, executor)

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
        from ckptdiff.logits.prompt import with_texts
        from ckptdiff.logits.run import compare_logits
        from ckptdiff.results import LogitDiff

        steps = compare_logits(
            a,
            b,
            prompt.ids,
            executor,
            device=device,
            attribute=attribute,
            config=prompt.config,
        )
        for step in steps:
            yield with_texts(step, prompt, executor) if isinstance(step, LogitDiff) else step

    def scores(
        self,
        a: Assembled,
        b: Assembled,
        asked: ScoreRequest,
        executor: Executor,
        folder: Path | None,
    ) -> ScoreWork:
        from ckptdiff.scores.run import ScoreComparison
        from ckptdiff.scores.tasks import TaskSpec

        return ScoreComparison(
            a,
            b,
            TaskSpec(asked.names, asked.limit),
            executor,
            dtype=asked.dtype,
            device=asked.device,
            folder=folder,
        )

    def cuda_devices(self, executor: Executor) -> tuple[str, ...]:
        from ckptdiff.logits.run import cuda_devices

        return cuda_devices(executor)

    def executor(self) -> Executor:
        from ckptdiff.executor import WorkerPool

        return WorkerPool(self._jobs)

    def torch_executor(self) -> Executor:
        """Return a pool of one worker: torch uses all CPUs, and takes much memory."""
        from ckptdiff.executor import WorkerPool

        return WorkerPool(1)
