"""Run models in transformers and in megatron-core, one process a rank, importing both only once.

`python -m tests.support.oracle_server`: each line on stdin names a module with a `compare` and its
arguments as a JSON object, each line on stdout is what rank 0 found, or the first error. A rank is
forked from this process, which has all modules and never patches or joins anything itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

MODULES = (
    "megatron.core.dist_checkpointing",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.ssm.gated_delta_net",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)
OURS = (
    "oracle_campaign",
    "oracle_families",
    "oracle_grids",
    "oracle_keys_computed",
    "oracle_logits",
    "oracle_megatron",
    "oracle_rank_files",
    "oracle_torch_dist",
)


def run_rank(job: dict[str, Any], rank: int, meeting: Path) -> None:
    """Leave what `compare` finds, or its error, in a file."""
    try:
        found = import_module(job["module"]).compare(
            rank=rank, meeting=f"file://{meeting}/point", **job["arguments"]
        )
    except Exception:
        (meeting / "error").write_text(traceback.format_exc())
        raise
    (meeting / str(rank)).write_text(json.dumps({"found": found}))


def run(job: dict[str, Any]) -> str:
    """Run every rank of a job; when one fails the others, which wait for it, are ended."""
    context = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder)
        ranks = [
            context.Process(target=run_rank, args=(job, rank, meeting))
            for rank in range(job["ranks"])
        ]
        for process in ranks:
            process.start()
        while alive := [process for process in ranks if process.is_alive()]:
            wait([process.sentinel for process in alive])
            if any(process.exitcode for process in ranks):
                for process in ranks:
                    process.kill()
        if any(process.exitcode for process in ranks):
            error = meeting / "error"
            return json.dumps({"error": error.read_text() if error.exists() else "a rank died"})
        return (meeting / "0").read_text()


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    # Whatever a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in (*MODULES, *(f"tests.support.{module}" for module in OURS)):
        import_module(module)
    for line in sys.stdin:
        answers.write(run(json.loads(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
