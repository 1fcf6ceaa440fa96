"""What comparing scores takes, beside lm-eval's own `hf` backend: speed, memory, what is read."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support.tokenizers_made import tokenizer_json

from .data import SMALL_SMOL
from .harness import REPOSITORY, Result
from .rivals import SCORE_WITH_LM_EVAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .data import Data

TRIED = (1, 4, 16)  # batch sizes of lm-eval's backend, of which the best is taken
MORE_MB = 300  # beside the weights of two layers and the batch
STREAMS = 3
QUESTIONS, TEXTS = 6, 1  # of a task of letters and of one of answers written out; rolling texts
WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "with"),
    *("was", "on", "by", "at", "from", "are", "this", "be", "an", "or", "which"),
)
TASKS = {
    "letters": """output_type: multiple_choice
doc_to_text: "{{question}}\\n\\
  {% for one in choices %}{{'ABCD'[loop.index0]}}. {{one}}\\n{% endfor %}Answer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{metric: acc}]
""",
    "cloze": """output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list: [{metric: word_perplexity}]
""",
}


def row_scores(data: Data, rounds: int, oracle: Path | None) -> list[Result]:
    """Score a model of SmolLM2's sizes, of six layers, and its twin on three ranks, in fp32.

    lm-eval's `hf` backend, in the Python `oracle`, answers the same requests once for each side, at
    the batch size at which it is fastest; both compute with one thread. Contenders take turns, and
    the medians count. What starting programs and loading models takes is not counted.
    """
    hf, megatron = data.hf(SMALL_SMOL, "base"), data.megatron(SMALL_SMOL, tp=3)
    (hf / "tokenizer.json").write_text(tokenizer_json(bos=False, words=" ".join(WORDS)))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"}
    (hf / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    tasks = _tasks(data.folder / "score-tasks")
    module = (sys.executable, "-m", "tests.support.score_seconds")
    ours, memory = ([*module, what, hf, megatron, *tasks] for what in ("time", "memory"))
    results: list[Result] = []
    if oracle is None:
        what = "requests a second of both sides / lm-eval's hf backend"
        note = "no lm-eval: name a Python that has it with --oracle"
        results.append(Result("scores", what, None, 1, "more", note))
    else:
        theirs = [oracle, "-c", SCORE_WITH_LM_EVAL, hf]
        more = [tasks[0].parent, *tasks]
        tried = _told([*theirs, ",".join(map(str, TRIED)), *more])
        best = min(tried, key=lambda one: one["processor"])["size"]
        print(_tried(tried), flush=True)
        found: list[dict[str, Any]] = []
        twice: list[list[dict[str, Any]]] = []
        for _ in range(min(rounds, 3)):
            found.append(_told(ours))
            twice.append(_told([*theirs, f"{best},{best}", *more]))
        results += _ratios(found, twice)
    return [*results, *_held(_told(memory))]


def _ratios(ours: list[dict[str, Any]], theirs: list[list[dict[str, Any]]]) -> list[Result]:
    count, size = theirs[0][0]["requests"], theirs[0][0]["size"]
    results = []
    for key, what, bar in (
        ("processor", "requests a second of processor time", 1),
        ("all_processor", "the same, tasks and scoring counted", 0),
        ("seconds", "requests a second of the clock", 0),
    ):
        mine = statistics.median(one[key] for one in ours)
        other = statistics.median(sum(run[key] for run in two) for two in theirs)
        note = (
            f"{count / mine:.1f} / {count / other:.1f} a second: {count} requests of both sides in "
            f"{mine:.2f} / {other:.2f} s, batches of {size}"
        )
        results.append(Result("scores", f"{what} / lm-eval's hf", other / mine, bar, "more", note))
    return results


def _held(one: dict[str, Any]) -> list[Result]:
    """Return what is held of memory, and how often weights are read."""
    assert one["verdict"] == "arithmetic", one
    size = SMALL_SMOL
    kv = size.groups * size.head_dim
    layer = 4 * (2 * size.hidden * (size.hidden + kv) + 3 * size.hidden * size.ffn)
    states = 4 * STREAMS * size.hidden * max(one["tokens"])
    bar = (2 * layer + states) / 1e6 + MORE_MB
    note = (
        f"two layers {2 * layer / 1e6:.0f}, the batch of {max(one['tokens'])} tokens "
        f"{states / 1e6:.0f} MB; {one['before'] / 1e6:.0f} MB before tasks are read; "
        f"{one['resident'] / 1e6:.0f} MB with the pages of mapped files"
    )
    reads = f"{len(one['tokens'])} batches, of {', '.join(map(str, one['tokens']))} tokens"
    return [
        Result("scores", "peak anonymous memory, MB", one["peak"] / 1e6, bar, "less", note),
        Result("scores", "times a batch reads a weight, at most", one["reads"], 1, "less", reads),
    ]


def _told(command: Sequence[object]) -> Any:
    done = subprocess.run(
        list(map(str, command)),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY),
             "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        check=False,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def _tried(tried: list[dict[str, Any]]) -> str:
    each = ", ".join(f"{one['size']}: {one['processor']:.2f} s" for one in tried)
    return f"lm-eval's hf backend by batch size: {each}"


def _tasks(folder: Path) -> list[Path]:
    """Write the tasks and their documents, of about the lengths that MMLU's have."""
    folder.mkdir(exist_ok=True)
    chosen = random.Random(1)

    def text(words: int) -> str:
        return " ".join(chosen.choices(WORDS, k=words))

    def written(name: str, docs: list[dict[str, object]]) -> None:
        (folder / name).write_text("".join(json.dumps(doc) + "\n" for doc in docs))

    written(
        "questions.jsonl",
        [
            {
                "question": text(chosen.randint(20, 90)),
                "choices": [text(chosen.randint(2, 8)) for _ in range(4)],
                "answer": chosen.randrange(4),
            }
            for _ in range(QUESTIONS)
        ],
    )
    written("texts.jsonl", [{"question": text(200)} for _ in range(TEXTS)])
    files = []
    for name, rest in TASKS.items():
        data = "texts.jsonl" if name == "rolling" else "questions.jsonl"
        file = folder / f"{name}.yaml"
        file.write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
            f"    test: {data}\ntest_split: test\n{rest}"
        )
        files.append(file)
    return files
