"""The command `diff`: compare two checkpoints, and report what differs and why."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.cli.arguments import (
    ADAPTER_HELP,
    JOBS_HELP,
    JSON_HELP,
    OPTIMIZER_HELP,
    PATTERN_HELP,
    page,
    positive,
)
from ckptdiff.cli.fetching import add_download
from ckptdiff.cli.progress import ProgressBar, counter
from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from concurrent.futures import Executor

    from ckptdiff.comparison.pipeline import CheckpointPair
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import TensorDiff


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `diff` to a parser."""
    parser.description = (
        "Compare checkpoint B with the reference A. "
        "Exit code: 0 same or close, 1 differ, 2 trouble."
    )
    parser.add_argument("a", type=Path, metavar="A", help="the reference")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--json", metavar="FILE", help=JSON_HELP)
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=page,
        action="append",
        default=[],
        help="write a page: FILE.md or FILE.html; may be given more than once",
    )
    parser.add_argument(
        "--tolerance",
        default="cast",
        metavar="T",
        help="exact, cast (default: equal after the one rounding to the narrower dtype), "
        "ulp:N or rel:X",
    )
    parser.add_argument("--filter", metavar="PATTERN", help=PATTERN_HELP)
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument(
        "--no-diagnose",
        action="store_true",
        help="do not look for the cause of differences",
    )
    parser.add_argument("--optimizer", action="store_true", help=OPTIMIZER_HELP)
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=ADAPTER_HELP.format("A"))
    parser.add_argument("--ignore-config", action="store_true", help="judge by the weights alone")
    add_download(parser)


def run(options: argparse.Namespace) -> int:
    """Compare; return 0 for `same` and `close`, 1 for `differ`, 2 if a tensor has an error.

    Raises a CkptDiffError if the checkpoints cannot be compared at all.
    """
    from ckptdiff.executor import WorkerPool

    started = time.monotonic()
    start: Any = "fork" if sys.platform == "linux" else "spawn"
    # Forking before any thread exists is ten times faster than spawning. Workers import numpy while
    # this process imports the rest and reads the headers.
    with WorkerPool(options.jobs, start=start) as pool:
        pool.warm()
        from dataclasses import replace

        from ckptdiff.cli.output import print_parts
        from ckptdiff.report import diff as report

        pair, results, summary = compared(options, pool)
        is_whole = not (pair.a.shortfall or pair.b.shortfall or pair.b.wrapping)
        if not options.no_diagnose and not (is_whole and summary.verdict == "same"):
            from ckptdiff.diagnosis.run import diagnosed

            config = () if options.ignore_config else summary.config
            findings, trouble = diagnosed(pair.a, pair.b, results, config, pool)
            findings = (*summary.findings, *findings)
            summary = replace(summary, findings=findings, diagnosis_error=trouble)
    comparison = pair.a, pair.b, results, summary
    if options.json is not None:
        document = report.diff_document(*comparison, pattern=options.filter)
        from ckptdiff.report.pages import print_json

        print_json(document, options.json)
    for file in options.report:
        from ckptdiff.report.pages import write_report

        write_report(file, *comparison, pattern=options.filter)
    if options.json != "-":
        seconds = time.monotonic() - started
        print_parts(report.diff_parts(*comparison, pattern=options.filter, seconds=seconds))
    if summary.has_errors:
        return 2
    return 0 if summary.verdict in ("same", "close") else 1


def compared(
    options: argparse.Namespace, pool: Executor
) -> tuple[CheckpointPair, list[TensorDiff], DiffSummary]:
    """Return the pair, the results in model order, and their summary."""
    from ckptdiff.comparison.pipeline import CheckpointPair, compare_checkpoints
    from ckptdiff.comparison.verdict import Tolerance

    if options.adapter is not None and options.optimizer:
        raise BadArgument("--adapter: is added to weights, so there is no --optimizer with it")
    events = compare_checkpoints(
        options.a, options.b, lambda: pool,
        tolerance=Tolerance.parse(options.tolerance),
        pattern=options.filter,
        optimizer=options.optimizer,
        ignore_config=options.ignore_config,
        adapter=options.adapter,
        reading=lambda side: counter(f"reading headers of {side}", "files"),
        matching=counter("looking for equal rows", "tensors"),
    )  # fmt: skip
    with closing(events):
        pair = next(x for x in events if isinstance(x, CheckpointPair) and x.is_complete)
        results, summary = _follow(events, pair)
    order = {name: number for number, name in enumerate(pair.names)}
    results.sort(key=lambda result: order[result.name])
    return pair, results, summary


def _follow(
    events: Iterable[CheckpointPair | TensorDiff | DiffSummary], pair: CheckpointPair
) -> tuple[list[TensorDiff], DiffSummary]:
    """Return the results and the summary; show progress if stderr is a terminal."""
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import TensorDiff

    results: list[TensorDiff] = []
    with ProgressBar("bytes", shows_what=False) as bar:
        bar.begin("compare", pair.a.nbytes + pair.b.nbytes)
        for event in events:
            if isinstance(event, TensorDiff):
                bar.advance(event.nbytes)
                results.append(event)
            elif isinstance(event, DiffSummary):
                return results, event
    raise AssertionError("a comparison ends with its summary")
