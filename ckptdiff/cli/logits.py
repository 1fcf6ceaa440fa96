"""The command `logits`: its options, its progress, and its report at the end."""

from __future__ import annotations

import re
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.cli.arguments import JSON_HELP
from ckptdiff.cli.fetching import add_download
from ckptdiff.cli.hints import OPTIONS
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.logits.prompt import token_ids

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.logits.prompt import Prompt
    from ckptdiff.results import Finding, LogitDiff, LogitProgress, Tap

EXAMPLES = """\
examples:
  ckptdiff logits llama-hf run7 --prompt 'The capital of France is'
  ckptdiff logits llama-hf run7 --ids 128000,791,6864 --json -
  ckptdiff logits llama-hf run7 --prompt - --attribute < prompt.txt

Both sides are computed layer by layer, one block's weights in memory at a time. Exit code: 0 if
only arithmetic tells them apart; 1 if weights or config do, if it is undecided, as a setting is not
computed here, or if the two tokenizers give the prompt other ids, as where one puts no BOS before
it; 2 trouble.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `logits` to a parser."""
    parser.description = (
        "Compare the logits of one prompt and say whether a difference is a fault or arithmetic."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("a", type=Path, metavar="A", help="the reference")
    parser.add_argument("b", type=Path, metavar="B")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt", metavar="TEXT", help="by the tokenizer of A, or of B; - is the standard input"
    )
    prompt.add_argument(
        "--ids", type=token_ids, metavar="1,2,3", help="token ids, taken as they are"
    )
    parser.add_argument(
        "--bos",
        choices=("auto", "yes", "no"),
        help="add BOS to the prompt (auto: as the tokenizer)",
    )
    parser.add_argument(
        "--device", type=device_name, metavar="auto|cpu|cuda|cuda:N", default="auto",
        help="auto: CUDA where there is one",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("fp32", "fp64", "bf16", "fp16"), default="fp32",
        help="fp32 (default) or fp64: compute the verdict in it; bf16 or fp16: compute the verdict "
        "in fp32 and, if it is `arithmetic`, show logits in this dtype (default: A's)",
    )  # fmt: skip
    parser.add_argument(
        "--reference", choices=("hf", "meta"), default="hf",
        help="compute a Hugging Face side as transformers (default) or as Meta's code does",
    )  # fmt: skip
    parser.add_argument(
        "--attribute", action="store_true", help="tell how much each cause of rounding contributes"
    )
    parser.add_argument(
        "--no-diagnose", action="store_true",
        help="do not look for the fault behind the first step that differs",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help=JSON_HELP)
    add_download(parser)


def device_name(text: str) -> str:
    """Return `auto`, `cpu`, `cuda` or `cuda:N`. Raises ValueError for any other text."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", text):
        raise ValueError
    return text


# Argparse names a type by this in its error.
device_name.__name__ = "device such as auto, cpu, cuda or cuda:1"


def run(options: argparse.Namespace) -> int:
    """Compare; return 0 for the verdict `arithmetic` of the same ids, else 1.

    Raises a CkptDiffError.
    """
    from ckptdiff.executor import WorkerPool

    if options.ids is not None and options.bos is not None:
        raise BadArgument("--bos is for --prompt: --ids are taken as they are")
    started = time.monotonic()
    start: Any = "fork" if sys.platform == "linux" else "spawn"
    with WorkerPool(1, start=start) as pool:
        pool.warm()
        from ckptdiff.assembly.assemble import assemble_pair
        from ckptdiff.formats import open_checkpoint
        from ckptdiff.report import logits as logit_report

        a, b = assemble_pair(open_checkpoint(options.a), open_checkpoint(options.b))
        found = _compare(a, b, _prompt(a, b, options, pool), options, pool)
    findings: list[Finding] = []
    if found.first is not None and not options.no_diagnose:
        try:
            findings = _findings(options, found.first)
        except CkptDiffError as error:
            why = f"the fault behind the first step was not looked for: {error.with_hint(OPTIONS)}"
            found = replace(found, notes=(*found.notes, why))
    if options.json is not None:
        from ckptdiff.report.pages import print_json

        print_json(logit_report.logit_document(a, b, found, findings), options.json)
    if options.json != "-":
        from ckptdiff.cli.output import print_parts

        seconds = time.monotonic() - started
        print_parts(logit_report.logit_lines(a, b, found, findings, seconds=seconds))
    return 0 if found.verdict == "arithmetic" and found.same_ids else 1


def _findings(options: argparse.Namespace, first: Tap) -> list[Finding]:
    """Return the findings of `ckptdiff diff` that explain the first step that differs."""
    from argparse import Namespace

    from ckptdiff.cli.diff import compared
    from ckptdiff.diagnosis.of_step import findings_of_step
    from ckptdiff.diagnosis.run import diagnosed
    from ckptdiff.executor import WorkerPool

    asked = Namespace(
        a=options.a,
        b=options.b,
        tolerance="cast",
        filter=None,
        optimizer=False,
        ignore_config=False,
        adapter=None,
    )
    # This process has threads by now, so workers are not forked.
    with WorkerPool(start="spawn") as pool:
        pair, results, summary = compared(asked, pool)
        findings, trouble = diagnosed(pair.a, pair.b, results, summary.config, pool)
    if trouble is not None:
        raise CkptDiffError(trouble)
    return [finding for _, finding in findings_of_step(findings, first, summary.config)]


def _prompt(a: Assembled, b: Assembled, options: argparse.Namespace, pool: Executor) -> Prompt:
    from ckptdiff.logits.prompt import encode, prompt_of_ids

    if options.ids is not None:
        return prompt_of_ids(options.ids, a, b, pool)
    text = _standard_input() if options.prompt == "-" else options.prompt
    return encode(text, a, b, pool, bos=options.bos or "auto")


def _standard_input() -> str:
    """Return the standard input without its last line feed. Raises BadArgument."""
    if sys.stdin is None:
        raise BadArgument("--prompt -: the standard input is closed")
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise BadArgument("--prompt -: the standard input is not UTF-8") from error
    return text.removesuffix("\n")


def _compare(
    a: Assembled, b: Assembled, prompt: Prompt, options: argparse.Namespace, pool: Executor
) -> LogitDiff:
    from ckptdiff.logits.prompt import with_texts
    from ckptdiff.logits.run import compare_logits

    is_storage = options.dtype in ("bf16", "fp16")
    events = compare_logits(
        a, b, prompt.ids, pool,
        device=options.device,
        dtype="fp32" if is_storage else options.dtype,
        storage=options.dtype if is_storage else None,
        reference=options.reference,
        attribute=options.attribute,
        config=prompt.config,
    )  # fmt: skip
    with closing(events):
        found, notes = _follow(events)
    found = replace(found, notes=tuple(dict.fromkeys((*notes, *found.notes))))
    return with_texts(found, prompt, pool)


def _follow(events: Iterable[LogitProgress | LogitDiff]) -> tuple[LogitDiff, list[str]]:
    """Return the result and the notes on the way; show progress if stderr is a terminal."""
    from ckptdiff.results import LogitProgress

    notes: list[str] = []
    doing: str | None = None
    with ProgressBar("steps") as bar:
        for event in events:
            if not isinstance(event, LogitProgress):
                return event, notes
            if event.doing != doing:
                doing = event.doing
                bar.begin(doing, event.total)
            bar.reach(event.done, event.total, seconds=event.seconds)
            if event.note:
                notes.append(event.note)
    raise AssertionError("a comparison ends with its result")
