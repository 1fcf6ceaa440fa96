"""What comparing logits takes: memory and time by layer of a 1B model; beside transformers."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .data import ONE_BILLION, SMOL
from .harness import CKPTDIFF, REPOSITORY, Result, race
from .rivals import RUN_TWO_MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from .data import Data

TOKENS = 32
MORE_MB = 300  # beside the weights of two layers
PROMPTS = (128, 512, 1024)  # tokens
MOST_COMPUTING = 3  # times two forwards of transformers
NO_TRANSFORMERS = "no transformers: name a Python that has it with --oracle"


def row_logits_memory(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Compare a model with its twin on two ranks, in fp32 and then in bf16, once."""
    hf, megatron = data.hf(ONE_BILLION, "base"), data.megatron(ONE_BILLION)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.logit_memory",
            str(hf),
            str(megatron),
            "bf16",
            str(TOKENS),
        ],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"] == "arithmetic", found
    size = ONE_BILLION
    kv = size.groups * size.head_dim
    layer = 4 * (2 * size.hidden * (size.hidden + kv) + 3 * size.hidden * size.ffn)
    seconds = found["seconds"]
    row, bar = "logits-memory", 2 * layer / 1e6 + MORE_MB
    note = f"{found['before'] / 1e6:.0f} MB before the first layer; {TOKENS} tokens"
    times = f"least {min(seconds):.2f} s, most {max(seconds):.2f} s; {len(seconds)} layers"
    return [
        Result(row, "1B, peak anonymous memory, MB", found["peak"] / 1e6, bar, "less", note),
        Result(row, "1B, fp32, a layer, s", statistics.median(seconds), 10, "less", times),
    ]


def row_logits_speed(data: Data, rounds: int, oracle: Path | None) -> list[Result]:
    """Compare a model of SmolLM2-135M's sizes with its twin on three ranks, fp32 and then bf16.

    Transformers, in the Python `oracle`, loads the model twice and runs both in fp32 with eager
    attention. Each figure is over transformers'; each process computes once.
    """
    hf, megatron = data.hf(SMOL, "base"), data.megatron(SMOL, tp=3)
    results: list[Result] = []
    for count in PROMPTS:
        found = (
            None if oracle is None else _beside_transformers(hf, megatron, count, rounds, oracle)
        )
        figures = found or [(None, NO_TRANSFORMERS)] * 3
        kinds = (("computing", MOST_COMPUTING), ("whole process", 1), ("peak resident memory", 1))
        results += [
            Result(
                "logits-speed", f"{count} tokens, {what} / transformers", value, bar, "less", note
            )
            for (what, bar), (value, note) in zip(kinds, figures, strict=True)
        ]
    return results


def _beside_transformers(
    hf: Path, megatron: Path, count: int, rounds: int, oracle: Path
) -> list[tuple[float, str]]:
    """Return the ratios of computing, of whole processes and of peak memory, each with a note."""
    ids = ",".join(map(str, range(1, count + 1)))
    ours = _Process([*CKPTDIFF, "logits", hf, megatron, "--ids", ids])
    inner = _Process([sys.executable, "-m", "tests.support.logit_seconds", hf, megatron, count])
    theirs = _Process([oracle, "-c", RUN_TWO_MODELS, hf, count])
    times = race(
        {"ckptdiff": ours, "computing": inner, "transformers": theirs}, rounds=rounds, warm=False
    )
    assert {told["verdict"] for told in inner.told} == {"arithmetic"}
    computing, forwards = (
        statistics.median(told["seconds"] for told in process.told) for process in (inner, theirs)
    )
    peak, other = max(ours.peaks), max(theirs.peaks)
    return [
        (computing / forwards, f"{computing:.2f} / {forwards:.2f} s"),
        (times.ratio("ckptdiff", "transformers"), times.text()),
        (peak / other, f"{peak / 1e6:.0f} / {other / 1e6:.0f} MB"),
    ]


@dataclass
class _Process:
    """A program to run: keeps what it tells in JSON, and the peak of its resident bytes."""

    command: list[Any]
    told: list[dict[str, Any]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        process = subprocess.Popen(
            [str(word) for word in self.command], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout as stdout:
            said = stdout.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, self.command
        self.peaks.append(1024 * used.ru_maxrss)  # of it, or of a process that it started
        if said.startswith("{"):
            self.told.append(json.loads(said))
