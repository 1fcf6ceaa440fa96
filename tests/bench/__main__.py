"""Measure the program against its rivals and its bars, in one command.

    python -m tests.bench [--rows 1,4,frame] [--rounds 5] [--data DIR] [--json FILE] [--sft COMMAND]
                          [--oracle PYTHON]

Run it from the top of the repository, on a machine that does nothing else: it makes about 14 GB of
checkpoints in a temporary folder (or in DIR, where they stay), takes contenders in turn, and judges
by the medians. Ratios of one run are what counts; absolute speeds are the machine's. The sparse
checkpoints of rows 16, 17 and 671b are zeros without a place on the disk: fair for headers, growth
and memory, not for speed. Ends with 1 if a row is short of its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from . import (
    attribution_rows,
    convert_rows,
    diagnose_rows,
    giant_rows,
    kernel_rows,
    logit_rows,
    program_rows,
    rivals,
    score_rows,
)
from .data import Data
from .harness import Result, environment

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
        "17", "18", "attribution", "diagnose", "logits-memory", "logits-speed", "scores",
        "frame", "671b-list", "671b-frame")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", default=",".join(ROWS), help="numbers, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="where the checkpoints are, or are made and kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sft", metavar="COMMAND", help="sft-cli, if it is not on the path")
    parser.add_argument(
        "--oracle", type=Path, metavar="PYTHON", help="that has transformers and lm-eval"
    )
    options = parser.parse_args()
    wanted = set(options.rows.split(","))
    if wanted - set(ROWS):
        parser.error(f"rows are {', '.join(ROWS)}")

    about = environment()
    print(json.dumps(about))
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="ckptdiff-bench-") as temporary:
        folder = options.data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sft, oracle = rivals.sft(options.sft), rivals.oracle(options.oracle)
        for measure in _chosen(wanted, Data(folder), options.rounds, sft, oracle):
            os.sync()
            found = measure()
            results += found
            for result in found:
                print(result.line(), flush=True)
    if options.json:
        rows = [{**asdict(result), "verdict": result.verdict} for result in results]
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1))
    return int(any(result.verdict == "short" for result in results))


def _chosen(
    wanted: set[str], data: Data, rounds: int, sft: str | None, oracle: Path | None
) -> list[Callable[[], list[Result]]]:
    """Return what to measure; the last fill the page cache with zeros."""
    kernel, whole = kernel_rows, program_rows
    plain = [
        ({"1", "4", "5", "8"}, kernel.rows_1_4_5_8),
        ({"6"}, kernel.row_6),
        ({"18"}, kernel.row_18),
        ({"9"}, whole.row_9),
        ({"10"}, whole.row_10),
        ({"14"}, whole.row_14),
        ({"11", "12", "13"}, convert_rows.rows_11_12_13),
        ({"15"}, convert_rows.row_15),
        ({"attribution"}, attribution_rows.row_attribution),
        ({"diagnose"}, diagnose_rows.row_diagnose),
        ({"logits-memory"}, logit_rows.row_logits_memory),
        ({"frame"}, whole.row_frame),
        ({"16"}, whole.row_16),
        ({"671b-list"}, giant_rows.row_671b_list),
        ({"671b-frame"}, giant_rows.row_671b_frame),
        ({"17"}, whole.row_17),
    ]
    chosen: list[Callable[[], list[Result]]] = []
    if wanted & {"2", "3"}:
        chosen.append(lambda: whole.rows_2_3(data, wanted, rounds, sft))
    if "7" in wanted:
        chosen.append(lambda: whole.row_7(data, wanted, rounds, sft))
    if "logits-speed" in wanted:
        chosen.append(lambda: logit_rows.row_logits_speed(data, rounds, oracle))
    if "scores" in wanted:
        chosen.append(lambda: score_rows.row_scores(data, rounds, oracle))
    for rows, measure in plain:
        if wanted & rows:
            chosen.append(lambda measure=measure: measure(data, wanted, rounds))  # type: ignore[misc]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
