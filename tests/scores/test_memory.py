"""Two layers' weights and a batch's states are in memory at a time, however deep the model is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.corpus import REPOSITORY
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.tasks_made import make_tasks
from tests.support.tokenizers_made import llama_json

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN, FFN, VOCAB = 512, 1024, 420
SIZES: dict[str, Any] = {
    "hidden": HIDDEN, "heads": 8, "groups": 8, "head_dim": 64, "ffn": FFN, "vocab": VOCAB,
}  # fmt: skip
LAYER = 4 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN)  # bytes of its weights in float32: 10 MB
STREAMS = 3
SHALLOW, DEEP = 2, 6
# The shallow one first: what it left would count for the deep one, and not the other way round.
SCRIPT = """
import json, sys
from tests.support.score_seconds import measured
pairs, tasks = json.loads(sys.argv[1])
print(json.dumps([measured("memory", *pair, *tasks) for pair in pairs]))
"""


def pair_of(folder: Path, layers: int) -> tuple[str, str]:
    hf, megatron = folder / f"hf-{layers}", folder / f"megatron-{layers}"
    weights = make_hf(hf, layers=layers, **SIZES)
    make_megatron(megatron, weights, json.loads((hf / "config.json").read_text()), tp=2)
    (hf / "tokenizer.json").write_text(llama_json())
    return str(hf), str(megatron)


def measured(folder: Path) -> list[dict[str, Any]]:
    """Return what a shallow and a deep model take, in a process of their own."""
    tasks = make_tasks(folder / "tasks")
    names = [str(tasks / f"{kind}.yaml") for kind in ("letters", "cloze", "rolling")]
    asked = [pair_of(folder, layers) for layers in (SHALLOW, DEEP)], names
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
             "HF_DATASETS_CACHE": str(folder / "datasets")},
        capture_output=True,
        check=True,
        text=True,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what memory is anonymous")
def test_two_layers_and_a_batch_are_in_memory(tmp_path: Path) -> None:
    shallow, deep = measured(tmp_path)
    print(deep["peak"], shallow["peak"], deep["tokens"], deep["before"])  # noqa: T201
    assert (deep["verdict"], shallow["verdict"]) == ("arithmetic", "arithmetic")
    assert len(deep["tokens"]) > 1
    assert (deep["reads"], shallow["reads"]) == (1, 1)
    # All layers of both sides would be 80 MB more. Tasks of lm-eval and torch are in the 300 MB:
    # they take 250 of them here, before a layer is read.
    assert deep["peak"] < shallow["peak"] + 1.5 * LAYER
    states = 4 * STREAMS * HIDDEN * max(deep["tokens"])
    assert deep["peak"] < 2 * LAYER + states + 300e6
