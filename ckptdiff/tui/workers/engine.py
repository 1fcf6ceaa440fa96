"""The seam between the screens and the engine: what they call, and how tests replace it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
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
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.run import Lost, Written
    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import Finding, LogitDiff, LogitProgress, TensorDiff


class Engine(Protocol):
    """Everything here may block, so screens call it in thread workers only."""

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint: ...

    def open_first(self, path: Path) -> Checkpoint | None: ...

    def describe(self, checkpoint: Checkpoint) -> tuple[str | None, int | None]: ...

    def assemble(self, checkpoint: Checkpoint) -> Assembled: ...

    def pair(self, a: Assembled, b: Checkpoint) -> tuple[Assembled, Assembled, list[str]]: ...

    def can_match(self, a: Assembled, b: Assembled) -> bool: ...

    def match(
        self, a: Assembled, b: Assembled, executor: Executor, progress: Callable[[int, int], None]
    ) -> tuple[Assembled, Assembled, list[str]]: ...

    def with_optimizer(
        self, a: Assembled, b: Assembled
    ) -> tuple[Assembled, Assembled, list[str]]: ...

    def diff(
        self,
        a: Assembled,
        b: Assembled,
        executor: Executor,
        names: Collection[str],
        first: Callable[[], Iterable[str]],
        tolerance: str,
    ) -> Generator[TensorDiff, None, None]: ...

    def summarise(
        self, results: Mapping[str, TensorDiff], a: Assembled, b: Assembled
    ) -> DiffSummary: ...

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

    def read_prompt(self, text: str, a: Assembled, b: Assembled, executor: Executor) -> Prompt: ...

    def compare_logits(
        self, a: Assembled, b: Assembled, prompt: Prompt, executor: Executor, *, attribute: bool
    ) -> Generator[LogitProgress | LogitDiff, None, None]: ...

    def executor(self) -> Executor: ...

    def torch_executor(self) -> Executor: ...


class LocalEngine:
    """The engine on this machine. Its modules are imported on first use, in the worker thread."""

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def open(self, path: Path, progress: Callable[[int, int], None]) -> Checkpoint:
        from ckptdiff.formats import open_checkpoint

        return open_checkpoint(path, progress=progress)

    def open_first(self, path: Path) -> Checkpoint | None:
        """Return the first file of many as a checkpoint; None where all are read soon."""
        from ckptdiff.formats import open_first

        return open_first(path)

    def describe(self, checkpoint: Checkpoint) -> tuple[str | None, int | None]:
        """Return the family and the number of layers, as far as the config tells."""
        from ckptdiff.arch import find_architecture
        from ckptdiff.config.model import from_huggingface, from_megatron

        config = checkpoint.config
        if config is None:
            return None, None
        if checkpoint.format == "meta":
            layers = config.get("n_layers")
            return "llama", layers if type(layers) is int else None
        family = find_architecture(config)
        name = None if family is None else family.name
        try:
            sizes = (from_huggingface if checkpoint.format == "hf" else from_megatron)(config)
        except CkptDiffError:
            return name, None
        return name, sizes.num_layers

    def assemble(self, checkpoint: Checkpoint) -> Assembled:
        from ckptdiff.assembly.assemble import assemble

        return assemble(checkpoint)

    def pair(self, a: Assembled, b: Checkpoint) -> tuple[Assembled, Assembled, list[str]]:
        """Return both sides and all their names; `a` was assembled before it was known of `b`."""
        from ckptdiff.assembly.assemble import assemble_pair
        from ckptdiff.comparison.run import pair_names

        side_a, side_b = assemble_pair(a.checkpoint, b, alone=a)
        return side_a, side_b, list(pair_names(side_a, side_b))

    def can_match(self, a: Assembled, b: Assembled) -> bool:
        from ckptdiff.assembly.row_matching import can_match

        return can_match(a, b)

    def match(
        self, a: Assembled, b: Assembled, executor: Executor, progress: Callable[[int, int], None]
    ) -> tuple[Assembled, Assembled, list[str]]:
        from ckptdiff.assembly.row_matching import match_by_content
        from ckptdiff.comparison.run import pair_names

        side_a, side_b = match_by_content(a, b, executor, progress)
        return side_a, side_b, list(pair_names(side_a, side_b))

    def with_optimizer(self, a: Assembled, b: Assembled) -> tuple[Assembled, Assembled, list[str]]:
        from ckptdiff.assembly.optimizer_pair import with_optimizer
        from ckptdiff.comparison.run import pair_names

        side_a, side_b = with_optimizer(a, b)
        return side_a, side_b, list(pair_names(side_a, side_b))

    def diff(
        self,
        a: Assembled,
        b: Assembled,
        executor: Executor,
        names: Collection[str],
        first: Callable[[], Iterable[str]],
        tolerance: str,
    ) -> Generator[TensorDiff, None, None]:
        from ckptdiff.comparison.run import diff
        from ckptdiff.comparison.verdict import Tolerance

        judge = Tolerance.parse(tolerance)
        return diff(a, b, executor, tolerance=judge, names=names, first=first)

    def summarise(
        self, results: Mapping[str, TensorDiff], a: Assembled, b: Assembled
    ) -> DiffSummary:
        from dataclasses import replace

        from ckptdiff.assembly.optimizer_pair import master_holders
        from ckptdiff.comparison.verdict import summarise

        summary = summarise(results, a, b)
        return replace(summary, masters=tuple(master_holders(a, b, results.values())))

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

    def read_prompt(self, text: str, a: Assembled, b: Assembled, executor: Executor) -> Prompt:
        """Return the tokens of a text, or ids that are typed as such where no tokenizer works.

        Raises a CkptDiffError for a text without a tokenizer, and for an id that a side lacks.
        """
        from ckptdiff.errors import BadArgument
        from ckptdiff.logits.prompt import encode, prompt_of_ids, token_ids

        try:
            return encode(text, a, b, executor)
        except CkptDiffError as error:
            try:
                ids = token_ids(text)
            except ValueError:
                words = str(error).replace("give --ids", "type ids of tokens, as 1,2,3")
                raise BadArgument(words) from error
        return prompt_of_ids(ids, a, b, executor)

    def compare_logits(
        self, a: Assembled, b: Assembled, prompt: Prompt, executor: Executor, *, attribute: bool
    ) -> Generator[LogitProgress | LogitDiff, None, None]:
        from ckptdiff.logits.prompt import with_texts
        from ckptdiff.logits.run import compare_logits
        from ckptdiff.results import LogitDiff

        for step in compare_logits(a, b, prompt.ids, executor, attribute=attribute):
            yield with_texts(step, prompt, executor) if isinstance(step, LogitDiff) else step

    def executor(self) -> Executor:
        from ckptdiff.executor import WorkerPool

        return WorkerPool(self._jobs)

    def torch_executor(self) -> Executor:
        """Return one worker: a model is computed with all CPUs anyway, and torch is large."""
        from ckptdiff.executor import WorkerPool

        return WorkerPool(1)
