"""The command `scores`: its options, its progress, its report, and what an unfinished run found."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.cli.arguments import positive
from ckptdiff.cli.fetching import add_download
from ckptdiff.cli.hints import OPTIONS
from ckptdiff.cli.logits import device_name
from ckptdiff.cli.progress import LongProgress
from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.text import plural

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.executor import WorkerPool
    from ckptdiff.scores.results import ScoreDiff, ScoreProgress
    from ckptdiff.scores.run import ScoreComparison

EXAMPLES = """\
examples:
  ckptdiff scores llama-hf run7 --tasks boolq,piqa,mmlu --limit 200
  ckptdiff scores llama-hf run7 --tasks hellaswag --dtype bf16 --attribute --json out.json
  ckptdiff scores llama-hf run7 --tasks own.yaml --beside nvidia-llama2 --markdown table.md

The tasks are those of lm-evaluation-harness; `lm-eval ls tasks` lists them. Their data is read from
the local cache of `datasets`: nothing is fetched. Both sides are asked the same token ids, batch by
batch, a layer's weights in memory at a time. Answers are kept: a run that was stopped or that
failed prints what is there, and goes on where it was. Exit code: 0 if only arithmetic tells both
sides apart, 1 if weights or config do or if it is undecided, whatever the scores are; 2 trouble,
130 stopped.
"""
# Names of published tables: those of scores.published.
TABLES = ("nvidia-llama2",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `scores` to a parser."""
    parser.description = (
        "Compare the scores of both sides on benchmark tasks, and say what a difference means."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("a", type=Path, metavar="A", help="the reference")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument(
        "--tasks", type=task_names, required=True, metavar="TASK,...|FILE.yaml",
        help="tasks and groups of lm-evaluation-harness by their names, or files of your own",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="ask the first N items of each task"
    )
    parser.add_argument(
        "--fewshot", type=not_negative, metavar="N",
        help="examples before each question (default: as many as the task says)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("fp32", "fp64", "bf16", "fp16"), default="fp32",
        help="both sides are computed in it (default: fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--device", type=device_name, metavar="auto|cpu|cuda|cuda:N", default="auto",
        help="auto: CUDA where there is one",
    )  # fmt: skip
    parser.add_argument(
        "--batch-tokens", type=positive, metavar="N",
        help="tokens that are computed for each time the weights are read (default: what memory "
        "has room for)",
    )  # fmt: skip
    parser.add_argument(
        "--reference", choices=("hf", "meta"), default="hf",
        help="compute a Hugging Face side as transformers (default) or as Meta's code does",
    )  # fmt: skip
    parser.add_argument(
        "--attribute", action="store_true",
        help="with bf16 or fp16: tell how much each cause of rounding contributes",
    )  # fmt: skip
    parser.add_argument(
        "--beside", choices=TABLES, help="show figures that were published beside the table"
    )
    parser.add_argument("--json", metavar="FILE", help="write a JSON document; - is the output")
    parser.add_argument("--markdown", metavar="FILE", help="write a page; - is the output")
    parser.add_argument(
        "--no-cache", action="store_true", help="neither read answers of before nor keep any"
    )
    add_download(parser)


def task_names(text: str) -> tuple[str, ...]:
    """Return the names of `a,b,FILE.yaml`. Raises ValueError if one is empty."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError
    return names


def not_negative(text: str) -> int:
    """Return an integer of at least 0."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


# Argparse names a type by this in its error.
task_names.__name__ = "list of tasks such as boolq,piqa"
not_negative.__name__ = "number"


def run(options: argparse.Namespace) -> int:
    """Compare; return 0 for the verdict `arithmetic`, 1 for others, 130 if it was stopped.

    Raises a CkptDiffError, once what was answered before it is reported.
    """
    from ckptdiff.executor import WorkerPool

    if options.json == options.markdown == "-":
        raise BadArgument("--json - and --markdown -: the output can be one of them")
    for file in (options.json, options.markdown):
        _check_output(file)
    started = time.monotonic()
    start: Any = "fork" if sys.platform == "linux" else "spawn"
    with WorkerPool(1, start=start) as pool:
        pool.warm()
        from ckptdiff.assembly.assemble import assemble_pair
        from ckptdiff.formats import open_checkpoint

        a, b = assemble_pair(open_checkpoint(options.a), open_checkpoint(options.b))
        comparison = _comparison(a, b, options, pool)
        found, error = _compare(comparison, pool)
    if found is not None:
        _report(a, b, found, options, time.monotonic() - started, error)
    again = "; the same command goes on from here" if comparison.keeps else ""
    if error is not None:
        done, total = comparison.answered
        if done:
            words = f"ckptdiff: failed when {done:,} of {plural(total, 'question')} were answered"
            print(f"{words}{again}", file=sys.stderr)
        raise error
    assert found is not None
    if not found.complete:
        print(f"ckptdiff: stopped{again}", file=sys.stderr)
        return 130
    return 0 if found.verdict == "arithmetic" else 1


def _check_output(file: str | None) -> None:
    """Raise BadArgument if a file cannot be written: better now than after hours."""
    if file is None or file == "-":
        return
    path = Path(file)
    if path.is_dir():
        raise BadArgument(f"{path}: is a folder, not a file to write")
    if not path.parent.is_dir():
        raise BadArgument(f"{path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadArgument(f"{path}: cannot be written")


def _comparison(
    a: Assembled, b: Assembled, options: argparse.Namespace, pool: WorkerPool
) -> ScoreComparison:
    from ckptdiff.scores.journal import journal_folder
    from ckptdiff.scores.run import ScoreComparison
    from ckptdiff.scores.tasks import TaskSpec

    return ScoreComparison(
        a, b, TaskSpec(options.tasks, options.limit, options.fewshot), pool,
        dtype=options.dtype,
        device=options.device,
        reference=options.reference,
        batch_tokens=options.batch_tokens,
        folder=None if options.no_cache else journal_folder(),
        attribute=options.attribute,
    )  # fmt: skip


def _compare(
    comparison: ScoreComparison, pool: WorkerPool
) -> tuple[ScoreDiff | None, Exception | None]:
    """Return the result, and what made it fail.

    If it fails or is stopped, the result is of what was answered. Where nothing was, None for a
    failure; for a stop, raises KeyboardInterrupt.
    """
    try:
        with closing(comparison.results()) as events:
            return _follow(events), None
    except KeyboardInterrupt:
        pool.kill()  # a layer of a large model may take minutes
        found = _so_far(comparison)
        if found is None:
            raise
        return found, None
    except Exception as error:  # noqa: BLE001 -- it is raised again, behind what hours have found
        pool.kill()  # memory may have run out
        with suppress(CkptDiffError, MemoryError, OSError):
            return _so_far(comparison), error
        return None, error


def _so_far(comparison: ScoreComparison) -> ScoreDiff | None:
    from ckptdiff.executor import WorkerPool

    with WorkerPool(1) as pool:
        return comparison.so_far(pool)


def _follow(events: Iterable[ScoreProgress | ScoreDiff]) -> ScoreDiff:
    """Return the result; show progress on the way."""
    from ckptdiff.scores.results import ScoreProgress

    with LongProgress("questions") as shown:
        for event in events:
            if not isinstance(event, ScoreProgress):
                return event
            if event.note:
                shown.say(event.note)
            sections = event.sections
            shown.reach(
                event.doing,
                max(0, event.batch - 1) * sections + event.section,
                event.batches * sections or sections,
                part=f"batch {event.batch} of {event.batches}" if event.batches > 1 else "",
                rate=event.rate,
                left=event.left,
            )
    raise AssertionError("a comparison ends with its result")


def _report(
    a: Assembled,
    b: Assembled,
    found: ScoreDiff,
    options: argparse.Namespace,
    seconds: float,
    error: Exception | None,
) -> None:
    """Print or write the result; files say which error cut it short."""
    from ckptdiff.report.pages import print_json, write_whole
    from ckptdiff.report.score_page import score_page
    from ckptdiff.report.scores import score_document, score_lines
    from ckptdiff.scores.published import PUBLISHED

    beside = None if options.beside is None else PUBLISHED[options.beside]
    told = found
    if error is not None:
        why = type(error).__name__
        if isinstance(error, CkptDiffError):
            why = error.with_hint(OPTIONS)
        told = replace(found, notes=(f"the run failed: {why}", *found.notes))
    if options.json is not None:
        print_json(score_document(a, b, told, beside), options.json)
    if options.markdown is not None:
        page = score_page(a, b, told, beside)
        if options.markdown == "-":
            sys.stdout.write(page)
        else:
            write_whole(Path(options.markdown), page)
    if "-" not in (options.json, options.markdown):
        from ckptdiff.cli.output import print_parts

        print_parts(score_lines(a, b, found, seconds=seconds, beside=beside))
