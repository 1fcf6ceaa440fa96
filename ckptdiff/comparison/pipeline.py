"""Every step of a comparison in order: open, pair, match, optimizer state, diff, summarise."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.assembly.completeness import with_shortfall
from ckptdiff.assembly.merging import with_merged
from ckptdiff.assembly.optimizer_pair import master_holders, with_optimizer
from ckptdiff.assembly.row_matching import can_match, match_by_content
from ckptdiff.comparison.run import diff, pair_names
from ckptdiff.comparison.saved_hashes import Hashing, with_hashes
from ckptdiff.comparison.verdict import CAST, summarise
from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.formats import open_adapter, open_checkpoint
from ckptdiff.name_filter import matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary, Tolerance
    from ckptdiff.results import TensorDiff

    Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True, slots=True)
class CheckpointPair:
    """Both sides of a comparison, and the names to compare, in model order."""

    a: Assembled
    b: Assembled
    names: tuple[str, ...]
    is_complete: bool = True  # False: paired by name alone; equal rows are still looked for


def compare_checkpoints(
    a: Path,
    b: Path,
    executor: Callable[[], Executor],
    *,
    tolerance: Tolerance = CAST,
    pattern: str | None = None,
    optimizer: bool = False,
    ignore_config: bool = False,
    adapter: Path | None = None,
    reading: Callable[[str], Progress | None] = lambda _side: None,
    matching: Progress | None = None,
) -> Generator[CheckpointPair | TensorDiff | DiffSummary, None, None]:
    """Yield the pair, one TensorDiff per name in completion order, and last the summary.

    If tensors are to be matched by content, the pair comes twice: before and after. `executor` is
    called once there is work for it. `adapter` is added to A's weights. `reading` is called with
    `A` and `B` and returns the progress callback for that side's files; `matching` is the one for
    matching by content. Raises a CkptDiffError if a side cannot be opened or assembled, or if the
    adapter is not one of A's, BadArgument if no name matches `pattern`.
    """
    matcher(pattern or "")  # raises for a bad pattern before anything is read
    first, second = (
        open_checkpoint(path, progress=reading(side)) for side, path in (("A", a), ("B", b))
    )
    third = open_adapter(adapter) if adapter is not None else None
    for pair in pair_checkpoints(
        first, second, executor,
        pattern=pattern, optimizer=optimizer, adapter=third, matching=matching,
    ):  # fmt: skip
        yield pair
    yield from compare_pair(pair, executor, tolerance=tolerance, ignore_config=ignore_config)


def pair_checkpoints(
    a: Checkpoint,
    b: Checkpoint,
    executor: Callable[[], Executor],
    *,
    alone: Assembled | None = None,
    pattern: str | None = None,
    optimizer: bool = False,
    adapter: Checkpoint | None = None,
    matching: Progress | None = None,
    refused: Callable[[CkptDiffError], object] | None = None,
) -> Generator[CheckpointPair, None, None]:
    """Yield the pair; before it, if tensors are to be matched by content, the pair by name alone.

    `alone` is `assemble(a)` if the caller has it already. `adapter` is added to A's weights. If
    there is no optimizer state to compare, `refused` is called with the error; without `refused` it
    is raised. Raises BadArgument if no name matches the pattern.
    """
    one, other = assemble_pair(a, b, alone=alone)
    if can_match(one, other):
        yield _pair_of(one, other, pattern, is_complete=False)
        found = match_by_content(one, other, executor(), matching)
        one, other = map(with_shortfall, found)
    if adapter is not None:
        one = with_merged(one, assemble(adapter, like=one))
    if optimizer:
        try:
            one, other = with_optimizer(one, other)
        except CkptDiffError as error:
            if refused is None:
                raise
            refused(error)
    pair = _pair_of(one, other, pattern, is_complete=True)
    if pattern is not None and not (pair.names or pair.a.unmapped or pair.b.unmapped):
        # The verdict of an empty comparison would be "same".
        raise BadArgument(f"filter '{pattern}': no tensor of either side matches")
    yield pair


def compare_pair(
    pair: CheckpointPair,
    executor: Callable[[], Executor],
    *,
    tolerance: Tolerance = CAST,
    ignore_config: bool = False,
    known: Mapping[str, TensorDiff] | None = None,
    first: Callable[[], Iterable[str]] | None = None,
) -> Generator[TensorDiff | DiffSummary, None, None]:
    """Yield one TensorDiff per name in completion order, then the summary.

    Names in `known` are not compared again, and only the summary uses them. Names that `first`
    returns are compared before others. There is no summary if the executor was shut down meanwhile.
    """
    results = dict(known or {})
    remaining = [name for name in pair.names if name not in results]
    # Files are hashed even if each result is known: that says nothing of the bytes between tensors.
    with closing(Hashing(executor, pair.a, pair.b, names=pair.names)) as hashing:
        if remaining:
            stream = diff(
                pair.a, pair.b, executor(), tolerance=tolerance, names=remaining, first=first
            )
            with closing(stream):
                for result in stream:
                    hashing.go_on()
                    results[result.name] = result
                    yield result
        if all(name in results for name in pair.names):
            found = [results[name] for name in pair.names]
            summary = summarise(found, pair.a, pair.b, ignore_config=ignore_config)
            summary = replace(summary, masters=tuple(master_holders(pair.a, pair.b, found)))
            yield with_hashes(summary, hashing.results())


def _pair_of(
    a: Assembled, b: Assembled, pattern: str | None, *, is_complete: bool
) -> CheckpointPair:
    names = pair_names(a, b)
    if pattern:
        wanted = matcher(pattern)
        names = list(filter(wanted, names))
        # Names that the filter leaves out do not count in the verdict either.
        a, b = (replace(side, unmapped=tuple(filter(wanted, side.unmapped))) for side in (a, b))
    return CheckpointPair(a, b, tuple(names), is_complete)
