"""The command line: parse, call, print, and turn every trouble into one paragraph."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff import __version__
from ckptdiff.cli.arguments import page, positive
from ckptdiff.errors import BadArgument, CkptDiffError, NotACheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckptdiff.assembly.assemble import Assembled
    from ckptdiff.results import TensorDiff

EXAMPLES = """\
examples:
  ckptdiff demo                                       a small pair with a fault to find
  ckptdiff llama-hf run7/iter_0001000                 compare two checkpoints on the screen
  ckptdiff diff llama-hf run7 --json -                the same for a script; exit 0 same, 1 differ
  ckptdiff ls run7 --filter 'layers.0 qkv' --raw      what is in the files, from headers alone

A is the reference. `ckptdiff COMMAND --help` tells the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: for `diff` 0 same, 1 differ, else 0; 2 trouble."""
    options = argparse.Namespace(verbose=False)
    if sys.stdout is None:  # `>&-`: a result that nobody sees must not look like one that was given
        print("ckptdiff: the output is closed", file=sys.stderr)
        return 2
    try:
        try:
            options = _parse(list(sys.argv[1:] if argv is None else argv))
            code: int = options.run(options)
        finally:  # after --help too
            sys.stdout.flush()
    except CkptDiffError as error:
        from ckptdiff.text import printable

        if options.verbose:
            traceback.print_exc()
        text = printable(str(error))
        if len(text) > 2500:  # a name in a file may have any length
            text = f"{text[:1200]} … {text[-1200:]}"
        print(f"ckptdiff: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ckptdiff: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output left; keep the interpreter from complaining on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Only writing to the output gets here: a full disk is trouble, not a difference.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"ckptdiff: the output cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    except Exception:  # noqa: BLE001 -- the border: a bug must not exit as 1, which means "differ"
        traceback.print_exc()
        print("ckptdiff: this is a bug in ckptdiff, please report it", file=sys.stderr)
        return 2
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    words = [word for word in arguments if not word.startswith("-")]
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if command is None and words and words[0] in COMMANDS:  # ckptdiff -v diff A B
        command = words[0]
    parser = argparse.ArgumentParser(
        prog="ckptdiff" if command is None else f"ckptdiff {command}",
        description="Compare a Hugging Face checkpoint with a sharded Megatron checkpoint.",
        usage=None if command else _USAGE,
        epilog=None if command else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show a traceback for trouble")
    if command is None:
        parser.add_argument("--version", action="version", version=f"ckptdiff {__version__}")
        _screen_options(parser)
    else:
        arguments.remove(command)
        COMMANDS[command](parser)
    return parser.parse_args(arguments)


_USAGE = """\
ckptdiff [PATH | A B]           browse one checkpoint, or compare two, on the screen
       ckptdiff diff A B               compare, print a summary
       ckptdiff ls PATH                list a checkpoint from its headers
       ckptdiff convert SRC OUT        convert, cut anew, cast; verified
       ckptdiff logits A B             compare the logits of one prompt: fault, or arithmetic?
       ckptdiff demo [DIR]             make a small pair with one planted fault, and open it
       ckptdiff help [TOPIC]           print a page of the guide"""


def _screen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="one or two checkpoints"
    )
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    parser.add_argument("--jobs", type=positive, metavar="N", help=_JOBS_HELP)
    parser.add_argument("--optimizer", action="store_true", help=_OPTIMIZER_HELP)
    parser.set_defaults(run=_run_screen)


def _ls_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "List a checkpoint's tensors from its headers alone."
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--raw", action="store_true", help="native names, file by file")
    parser.add_argument("--filter", metavar="PATTERN", help=_PATTERN_HELP)
    parser.set_defaults(run=_run_ls)


def _diff_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare checkpoint B with the reference A. "
        "Exit code: 0 same or close, 1 differ, 2 trouble."
    )
    parser.add_argument("a", type=Path, metavar="A", help="the reference")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--json", metavar="FILE", help="write a JSON document; - is the output")
    parser.add_argument(
        "--report", metavar="FILE", type=page, help="write a page: FILE.md or FILE.html"
    )
    parser.add_argument(
        "--tolerance",
        default="cast",
        metavar="T",
        help="exact, cast (default: equal after the one rounding to the narrower dtype), "
        "ulp:N or rel:X",
    )
    parser.add_argument("--filter", metavar="PATTERN", help=_PATTERN_HELP)
    parser.add_argument("--jobs", type=positive, metavar="N", help=_JOBS_HELP)
    parser.add_argument(
        "--no-diagnose",
        action="store_true",
        help="do not look for the cause of differences",
    )
    parser.add_argument("--optimizer", action="store_true", help=_OPTIMIZER_HELP)
    parser.add_argument("--ignore-config", action="store_true", help="judge by the weights alone")
    parser.set_defaults(run=_run_diff)


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make a small Hugging Face and Megatron pair with one planted fault."
    parser.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="default: ckptdiff-demo")
    parser.add_argument("--fault", default="kv-swap", metavar="NAME", help=_FAULT_HELP)
    parser.add_argument("--no-tui", action="store_true", help="only write the pair")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    parser.set_defaults(run=_run_demo, jobs=None, optimizer=False)


def _convert_options(parser: argparse.ArgumentParser) -> None:
    from ckptdiff.cli import convert as cli_convert

    cli_convert.add_options(parser)
    parser.set_defaults(run=cli_convert.run)


def _logits_options(parser: argparse.ArgumentParser) -> None:
    from ckptdiff.cli import logits as cli_logits

    cli_logits.add_options(parser)
    parser.set_defaults(run=cli_logits.run)


def _help_options(parser: argparse.ArgumentParser) -> None:
    from ckptdiff.cli import help as cli_help

    cli_help.add_options(parser)
    parser.set_defaults(run=cli_help.run)


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "ls": _ls_options,
    "diff": _diff_options,
    "convert": _convert_options,
    "logits": _logits_options,
    "demo": _demo_options,
    "help": _help_options,
}
_FAULT_HELP = "kv-swap (default), tp-swap, gate-up, rope, stale, rope-base or none"
_PATTERN_HELP = "words that must all occur in a name, or re: and a regular expression"
_OPTIMIZER_HELP = "compare master weights and moments as well"
_JOBS_HELP = "worker processes (default: the CPUs that may be used)"


def _run_ls(options: argparse.Namespace) -> int:
    from ckptdiff.assembly.assemble import assemble
    from ckptdiff.name_filter import matcher
    from ckptdiff.report import ls as listing

    wanted = matcher(options.filter or "")
    side = assemble(_open(options.path, "headers"))
    if options.json:
        from ckptdiff.report.pages import print_json

        make = listing.raw_document if options.raw else listing.listing_document
        print_json(make(side, wanted), "-")
    else:
        for line in (listing.raw_lines if options.raw else listing.listing_lines)(side, wanted):
            print(line)
    return 0


def _run_diff(options: argparse.Namespace) -> int:
    from ckptdiff.executor import WorkerPool

    started = time.monotonic()
    # Forked before any thread exists: ten times faster than spawning. Workers import numpy while
    # this process imports the rest and reads the headers.
    with WorkerPool(options.jobs, start="fork" if sys.platform == "linux" else "spawn") as pool:
        pool.warm()
        from dataclasses import replace

        from ckptdiff.assembly.optimizer_pair import master_holders, with_optimizer
        from ckptdiff.assembly.row_matching import match_by_content
        from ckptdiff.comparison.run import diff, pair_names
        from ckptdiff.comparison.verdict import Tolerance, summarise
        from ckptdiff.name_filter import matcher
        from ckptdiff.report import diff as report

        tolerance = Tolerance.parse(options.tolerance)
        wanted = matcher(options.filter or "")
        counter = _counter("looking for equal rows", "tensors")
        a, b = match_by_content(*_open_pair(options.a, options.b), pool, counter)
        if options.optimizer:
            a, b = with_optimizer(a, b)
        # What the filter leaves out is not judged either.
        a, b = (replace(x, unmapped=tuple(filter(wanted, x.unmapped))) for x in (a, b))
        order = {name: i for i, name in enumerate(pair_names(a, b)) if wanted(name)}
        if options.filter is not None and not (order or a.unmapped or b.unmapped):
            # An empty comparison must not read as "same".
            raise BadArgument(f"--filter '{options.filter}': no tensor of either side matches")
        stream = diff(a, b, pool, tolerance=tolerance, names=order)
        results = list(_with_progress(stream, a, b))
        results.sort(key=lambda result: order[result.name])
        summary = replace(
            summarise(results, a, b, ignore_config=options.ignore_config),
            masters=tuple(master_holders(a, b, results)),
        )
        if not options.no_diagnose and summary.verdict != "same":
            from ckptdiff.diagnosis.run import diagnosed

            config = () if options.ignore_config else summary.config
            findings, trouble = diagnosed(a, b, results, config, pool)
            if trouble is not None:
                print(f"ckptdiff: the diagnosis stopped: {trouble}", file=sys.stderr)
            summary = replace(summary, findings=findings)
    if options.json is not None:
        document = report.diff_document(a, b, results, summary, pattern=options.filter)
        from ckptdiff.report.pages import print_json

        print_json(document, options.json)
    if options.report is not None:
        from ckptdiff.report.pages import write_report

        write_report(options.report, a, b, results, summary, pattern=options.filter)
    if options.json != "-":
        seconds = time.monotonic() - started
        for line in report.diff_lines(
            a, b, results, summary, pattern=options.filter, seconds=seconds
        ):
            print(line)
    if summary.has_errors:
        return 2
    return 1 if summary.verdict == "differ" else 0


def _run_demo(options: argparse.Namespace) -> int:
    from ckptdiff.demo import make_demo

    hf, megatron = make_demo(options.dir or Path("ckptdiff-demo"), fault=options.fault)
    if options.no_tui or not _has_terminal():
        print(f"A  {hf}\nB  {megatron}\nckptdiff {hf} {megatron}")
        return 0
    options.paths = [hf, megatron]
    return _run_screen(options)


def _run_screen(options: argparse.Namespace) -> int:
    for path in options.paths:
        if not path.exists():
            raise NotACheckpoint(f"{path}: there is no such file or folder{_meant(str(path))}")
    if len(options.paths) > 2:
        raise BadArgument(f"{len(options.paths)} paths: give one to browse, or two to compare")
    if not _has_terminal():
        if len(options.paths) == 2:
            more = [] if options.jobs is None else ["--jobs", str(options.jobs)]
            more += ["--optimizer"] if options.optimizer else []
            return _run_diff(_parse(["diff", *more, "--", *map(str, options.paths)]))
        if len(options.paths) == 1:
            return _run_ls(_parse(["ls", "--", *map(str, options.paths)]))
        raise BadArgument("there is no terminal to draw on; see ckptdiff --help for the commands")
    # A process pool made inside the running app fails without this: Textual replaces stderr by
    # something that has no file descriptor to inherit.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    from ckptdiff.tui import launch as app

    return app.run(
        options.paths,
        ascii=options.ascii,
        mouse=not options.no_mouse,
        jobs=options.jobs,
        optimizer=options.optimizer,
    )


def _meant(word: str) -> str:
    """Return a question if this is nearly the name of a command."""
    from difflib import get_close_matches

    found = get_close_matches(word, COMMANDS, n=1)
    return f". Is `ckptdiff {found[0]}` meant?" if found else ""


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _open(path: Path, what: str) -> Any:
    from ckptdiff.formats import open_checkpoint

    return open_checkpoint(path, progress=_counter(f"reading {what}", "files"))


def _counter(doing: str, things: str) -> Callable[[int, int], None] | None:
    """Return what counts on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        return None

    def count(done: int, total: int) -> None:
        end = "\r\033[K" if done == total else "\r"
        print(f"\r{doing} {done} of {total} {things}", end=end, file=sys.stderr, flush=True)

    return count


def _open_pair(a: Path, b: Path) -> tuple[Assembled, Assembled]:
    from ckptdiff.assembly.assemble import assemble_pair

    return assemble_pair(_open(a, "headers of A"), _open(b, "headers of B"))


def _with_progress(
    results: Iterable[TensorDiff], a: Assembled, b: Assembled
) -> Iterator[TensorDiff]:
    """Pass results on, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        total = a.nbytes + b.nbytes
        task = bar.add_task("compare", total=total)
        for result in results:
            bar.advance(task, result.nbytes)
            yield result
