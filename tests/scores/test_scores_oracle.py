"""From tasks to the table: what lm-eval's own `hf` backend and the real megatron-core answer."""

from __future__ import annotations

import json
import shutil
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.scores.results import ScoreDiff
from ckptdiff.scores.run import compare_scores
from tests.support.tasks_made import KINDS, make_tasks
from tests.support.tokenizers_made import llama_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.results import Answers
    from ckptdiff.scores.results import Question
    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle
VOCAB = 420
LENGTH = 100  # of the model; the rolling texts have several windows
NATS = 1e-4


@dataclass(frozen=True)
class Answered:
    """What both sides of a comparison answer, and what the programs themselves do."""

    ours: ScoreDiff
    asked: list[tuple[list[int], int]]  # ids, of which the last are the answer
    theirs: dict[str, Any]  # of the `hf` backend
    megatron: list[tuple[float, bool]]

    @property
    def answers(self) -> dict[Question, Answers]:
        items = self.ours.items
        return {q: a for one in items for q, a in zip(one.questions, one.answers, strict=True)}

    def by_ids(self, answers: list[tuple[float, bool]]) -> dict[tuple[bytes, int], Any]:
        keys = [(array("i", ids).tobytes(), count) for ids, count in self.asked]
        return dict(zip(keys, answers, strict=True))


@pytest.fixture(scope="module")
def answered(
    oracle: Oracle,
    tiny_hf: Callable[..., Path],
    tiny_megatron: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Answered:
    root = tmp_path_factory.mktemp("answers")
    hf = root / "hf"
    shutil.copytree(tiny_hf(vocab=VOCAB), hf)
    megatron = tiny_megatron(model={"vocab": VOCAB}, tp=2)
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"max_position_embeddings": LENGTH}))
    (hf / "tokenizer.json").write_text(llama_json())
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<unk>"}
    (hf / "tokenizer_config.json").write_text(json.dumps(named))
    tasks = make_tasks(root / "tasks")
    names = [str(tasks / f"{kind}.yaml") for kind in KINDS]
    case = {"model": str(hf), "names": names}
    theirs = oracle.compare("oracle_scores", ranks=1, cases={"it": case})["it"]
    assert "error" not in theirs, theirs
    (iteration,) = megatron.glob("iter_*")
    core = oracle.compare(
        "oracle_logits",
        ranks=2,
        task="answers",
        hf=str(hf),
        iteration=str(iteration),
        tp=2,
        asked=theirs["asked"],
    )
    pair = assemble_pair(open_checkpoint(hf), open_checkpoint(megatron))
    # Several batches, so that none has all that is asked.
    *_, ours = compare_scores(*pair, names, InlineExecutor(), device="cpu", batch_tokens=500)
    assert isinstance(ours, ScoreDiff)
    return Answered(ours, theirs["asked"], theirs, core["answers"])


def test_what_is_computed_is_what_both_programs_answer(answered: Answered) -> None:
    hf, core = answered.by_ids(answered.theirs["answers"]), answered.by_ids(answered.megatron)
    found = {(question.ids, question.answer): one for question, one in answered.answers.items()}
    # Items have all of them but what `unconditional` asks beside its choices.
    assert found.keys() <= hf.keys()
    assert len(found) > 70
    for key, both in found.items():
        for ours, theirs in ((both.a, hf[key]), (both.b, core[key])):
            assert ours.loglik == pytest.approx(theirs[0], abs=NATS)
            assert ours.is_greedy == theirs[1]
    # Answers are as many nats apart as to tell one from another.
    assert max(both.a.loglik for both in found.values()) > -20
    assert min(both.a.loglik for both in found.values()) < -400


def test_both_sides_choose_as_the_programs_do(answered: Answered) -> None:
    hf, core = answered.by_ids(answered.theirs["answers"]), answered.by_ids(answered.megatron)
    chosen = []
    for item in answered.ours.items:
        if item.kind != "choices":
            continue
        keys = [(question.ids, question.answer) for question in item.questions]
        for side, theirs in (("a", hf), ("b", core)):
            ours = [getattr(one, side).loglik for one in item.answers]
            wanted = [theirs[key][0] for key in keys]
            assert ours.index(max(ours)) == wanted.index(max(wanted))
            chosen.append(ours.index(max(ours)))
    assert len(chosen) > 40
    assert set(chosen) >= {0, 1}


def test_the_table_is_that_of_the_hf_backend(answered: Answered) -> None:
    found = {(row.task, row.metric): row for row in answered.ours.tasks}
    seen = set()
    for task, results in answered.theirs["results"].items():
        for key, value in results.items():
            metric = key.removesuffix(",none")
            if not metric.endswith("_stderr"):
                for side in (found[task, metric].a, found[task, metric].b):
                    assert side == pytest.approx(value, rel=1e-5)
                seen.add((task, metric))
    assert seen == found.keys()
    assert len(seen) == 14
    assert answered.ours.verdict == "arithmetic"
    assert answered.ours.complete
