"""What comparing logits takes: memory and time by layer of a 1B model; beside transformers."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from .data import ONE_BILLION, SMOL
from .harness import CKPTDIFF, REPOSITORY, Result, peak_memory, race
from .rivals import RUN_TWO_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable
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
    attention. Each figure is over transformers'; each process computes once. The ratios are of the
    clock; where other programs run, the processor seconds in the notes tell more.
    """
    hf, megatron = data.hf(SMOL, "base"), data.megatron(SMOL, tp=3)
    kinds = ("computing", MOST_COMPUTING), ("whole process", 1), ("peak resident memory", 1)
    results: list[Result] = []
    for count in PROMPTS:
        figures: list[tuple[float | None, str]] = [(None, NO_TRANSFORMERS) for _ in kinds]
        if oracle is not None:
            figures = [*_beside_transformers(hf, megatron, count, rounds, oracle)]
        for (kind, bar), (value, note) in zip(kinds, figures, strict=True):
            what = f"{count} tokens, {kind} / transformers"
            results.append(Result("logits-speed", what, value, bar, "less", note))
    return results


def _beside_transformers(
    hf: Path, megatron: Path, count: int, rounds: int, oracle: Path
) -> list[tuple[float, str]]:
    """Return the ratios of computing, of whole processes and of peak memory, each with a note."""
    ids = ",".join(map(str, range(1, count + 1)))
    ours = _Process(*CKPTDIFF, "logits", hf, megatron, "--ids", ids)
    inner = _Process(sys.executable, "-m", "tests.support.logit_seconds", hf, megatron, count)
    theirs = _Process(oracle, "-c", RUN_TWO_MODELS, hf, count)
    contenders: dict[str, Callable[[], object]] = {
        "ckptdiff": ours,
        "computing": inner,
        "transformers": theirs,
    }
    times = race(contenders, rounds=rounds, warm=False)
    assert {told["verdict"] for told in inner.told} == {"arithmetic"}
    computing, forwards = _medians(inner.told), _medians(theirs.told)
    whole = " / ".join(f"{statistics.median(one.processor):.2f}" for one in (ours, theirs))
    peak, other = (sum(peak_memory(*one.command).values()) for one in (ours, theirs))
    return [
        (
            computing["seconds"] / forwards["seconds"],
            f"{computing['seconds']:.2f} / {forwards['seconds']:.2f} s; "
            f"processor {computing['processor']:.2f} / {forwards['processor']:.2f} s",
        ),
        (times.ratio("ckptdiff", "transformers"), f"{times.text()}; processor {whole} s"),
        (peak / other, f"{peak / 1e6:.0f} / {other / 1e6:.0f} MB"),
    ]


def _medians(told: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in told) for name in ("seconds", "processor")}


class _Process:
    """A program to run: keeps what it tells in JSON, and its processor seconds, by run."""

    def __init__(self, *command: object) -> None:
        self.command = [str(word) for word in command]
        self.told: list[dict[str, Any]] = []
        self.processor: list[float] = []

    def __call__(self) -> None:
        before = _of_children()
        done = subprocess.run(
            self.command, cwd=REPOSITORY, capture_output=True, check=True, text=True
        )
        self.processor.append(_of_children() - before)
        if done.stdout.startswith("{"):
            self.told.append(json.loads(done.stdout))


def _of_children() -> float:
    """Return the processor seconds of all programs that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
