"""What is asked is what lm-eval's own `hf` backend asks, token by token; so are its scores."""

from __future__ import annotations

import json
import shutil
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.results import Answer, Answers
from ckptdiff.scores.harness import ask, score
from ckptdiff.scores.results import Question
from ckptdiff.scores.tasks import ModelFacts, TaskSpec
from tests.support.tasks_made import KINDS, make_tasks
from tests.support.tokenizers_made import llama_json, tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle
LENGTH = 100  # of the model; some texts are longer
NAMED = {"bos_token": "<s>", "eos_token": "<unk>"}
ANY = {"tokenizer_class": "PreTrainedTokenizerFast"}


@dataclass(frozen=True)
class Case:
    """A tokenizer's files, and how its tasks are asked."""

    tokenizer: str
    config: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)  # special_tokens_map.json
    fewshot: int | None = 0
    limit: float | None = None
    prefix: str = ""  # of the texts

    @property
    def content(self) -> str:
        kind, _, bos = self.tokenizer.partition(" ")
        return llama_json() if kind == "llama" else tokenizer_json(bos=bos == "bos")


CASES = {
    "llama": Case("llama", {"tokenizer_class": "LlamaTokenizer", **NAMED}),
    "llama, legacy": Case(
        "llama", {"tokenizer_class": "LlamaTokenizer", **NAMED, "legacy": True}, limit=5
    ),
    "llama, but for the class": Case("llama", {**ANY, **NAMED}, limit=5),
    "llama, by its class": Case("llama", {"tokenizer_class": "LlamaTokenizer"}, limit=2),
    "two examples": Case("llama", {"tokenizer_class": "LlamaTokenizer", **NAMED}, fewshot=2),
    "bytes": Case("bytes", {"tokenizer_class": "GPT2Tokenizer", **NAMED}),
    "bytes after BOS": Case("bytes bos", {**ANY, **NAMED}),
    "BOS in the text": Case("bytes bos", {**ANY, **NAMED}, prefix="<s>"),
    "EOS alone": Case("bytes bos", {**ANY, "eos_token": "<unk>"}, limit=3),
    "the older file": Case("bytes bos", {**ANY, **NAMED}, {"bos_token": "<unk>"}, limit=0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    case: Case
    model: ModelFacts
    spec: TaskSpec
    theirs: dict[str, Any]

    @property
    def asked(self) -> list[Question]:
        return [Question(array("i", ids).tobytes(), count) for ids, count in self.theirs["asked"]]


@pytest.fixture(scope="module")
def cases(
    oracle: Oracle, tiny_hf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Made]:
    root = tmp_path_factory.mktemp("scores")
    source = tiny_hf(vocab=420)
    questions: dict[str, Any] = {}
    made: dict[str, tuple[ModelFacts, TaskSpec]] = {}
    for name, case in CASES.items():
        folder = root / name.replace(" ", "-")
        shutil.copytree(source, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"max_position_embeddings": LENGTH})
        )
        (folder / "tokenizer.json").write_text(case.content)
        (folder / "tokenizer_config.json").write_text(json.dumps(case.config))
        if case.beside:
            (folder / "special_tokens_map.json").write_text(json.dumps(case.beside))
        tasks = make_tasks(root / f"tasks{case.prefix}", prefix=case.prefix)
        names = [str(tasks / f"{kind}.yaml") for kind in KINDS]
        questions[name] = {
            "model": str(folder), "names": names, "fewshot": case.fewshot, "limit": case.limit,
        }  # fmt: skip
        made[name] = (
            ModelFacts(folder / "tokenizer.json", LENGTH, family="llama"),
            TaskSpec(tuple(names), case.limit, case.fewshot),
        )
    found = oracle.compare("oracle_scores", ranks=1, cases=questions)
    return {name: Made(CASES[name], *made[name], found[name]) for name in CASES}


def test_tokens_and_scores_are_those_of_the_hf_backend(cases: dict[str, Made]) -> None:
    """One test of all cases, since their set-up is dear: workers of pytest would each have it."""
    for name, case in cases.items():
        assert "error" not in case.theirs, (name, case.theirs)
        asked = ask(case.spec, case.model)
        # The `hf` backend runs all rolling requests after the others; theirs come last here too.
        assert list(asked.questions) == list(dict.fromkeys(case.asked)), name
        scores_are_theirs(name, case)


def scores_are_theirs(name: str, case: Made) -> None:
    """Give the answers of the `hf` backend, and compare the scores that come of them."""
    answers = {}
    for question, (loglik, is_greedy) in zip(case.asked, case.theirs["answers"], strict=True):
        answer = Answer(loglik, is_greedy)
        other = Answer(loglik - 1, is_greedy)
        answers[question] = Answers(answer, answer, other, 0, 0, 0)
    scored = score(case.spec, case.model, answers)
    found = {(row.task, row.metric): row for row in scored.tasks}
    count = 0
    for task, results in case.theirs["results"].items():
        for key, value in results.items():
            metric = key.removesuffix(",none")
            if metric.endswith("_stderr"):
                row = found[task, metric.removesuffix("_stderr")]
                if row.stderr is not None:
                    assert row.stderr == pytest.approx(value, rel=1e-6), name
                continue
            row = found[task, metric]
            assert row.a == pytest.approx(value, rel=1e-5), name
            assert row.b != row.a or metric.startswith(("acc", "exact"))
            count += 1
    assert count == len(found) == 14, name
