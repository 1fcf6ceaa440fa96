"""Tasks are asked and scored by lm-eval without a model; what could run code is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.errors import BadArgument, CkptDiffError, CorruptFile
from ckptdiff.executor import WorkerPool
from ckptdiff.results import Answer, Answers
from ckptdiff.scores import harness
from ckptdiff.scores.harness import _libraries, ask, score
from ckptdiff.scores.tasks import ModelFacts, TaskSpec
from tests.support.cached_data import cache_data
from tests.support.tasks_made import KINDS, make_tasks
from tests.support.tokenizers_made import sentencepiece_model, tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.scores.results import Asked, Item, Question

LENGTH = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    file = tmp_path_factory.mktemp("model") / "tokenizer.json"
    file.write_text(tokenizer_json())
    return ModelFacts(file, LENGTH, 0, 1)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tasks(tmp_path_factory.mktemp("given") / "tasks")


def spec_of(folder: Path, *kinds: str, limit: float | None = None) -> TaskSpec:
    return TaskSpec(tuple(str(folder / f"{kind}.yaml") for kind in kinds), limit)


def answer(question: Question) -> Answers:
    """Return made-up answers that follow from the question's tokens alone."""
    number = int.from_bytes(hashlib.sha256(question.ids).digest()[:4])
    a, b = Answer(-number / 2**30, number % 2 == 0), Answer(-(number % 997) / 99, number % 3 == 0)
    return Answers(a, a, b, 0, 0, 0)


def answers_to(questions: Iterable[Question]) -> dict[Question, Answers]:
    return {question: answer(question) for question in questions}


# What is asked


def test_equal_questions_are_asked_once(tasks: Path, model: ModelFacts) -> None:
    asked = ask(spec_of(tasks, "letters", "unconditional"), model)
    assert len(set(asked.questions)) == len(asked.questions)
    assert asked.tasks == (("letters", 7), ("unconditional", 7))
    letters, unconditional = asked.of
    assert len(letters) == 14
    assert len(unconditional) < 28  # " sea" without a question is asked more than once
    assert sorted({*letters, *unconditional}) == list(range(len(asked.questions)))
    assert dict(asked.versions)["letters"] == "1.5"


def test_texts_beyond_the_models_length_lose_their_first_tokens(
    tasks: Path, model: ModelFacts
) -> None:
    asked = ask(spec_of(tasks, "letters", "rolling"), model)
    sizes = [len(question.ids) // 4 for question in asked.questions]
    assert max(sizes) == LENGTH + 1
    (note,) = asked.notes
    assert note.startswith(f"letters: 2 of 14 prompts are longer than the {LENGTH} positions")


def test_windows_of_a_text_score_each_token_once(tasks: Path, model: ModelFacts) -> None:
    spec = spec_of(tasks, "rolling")
    asked = ask(spec, model)
    scored = score(spec, model, answers_to(asked.questions))
    longest = max(scored.items, key=lambda item: len(item.questions))
    assert longest.kind == "rolling"
    counts = [question.answer for question in longest.questions]
    assert len(counts) > 2
    assert counts[:-1] == [LENGTH] * (len(counts) - 1)
    row = {row.metric: row for row in scored.tasks}["byte_perplexity"]
    size = sum(len(item.text.encode()) for item in scored.items)
    total = sum(one.a.loglik for item in scored.items for one in item.answers)
    assert row.a == pytest.approx(2.718281828459045 ** (-total / size))


def test_without_a_length_in_the_config_the_tokenizer_names_it(
    tasks: Path, tmp_path: Path, model: ModelFacts
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(model.tokenizer.read_text())
    spec = spec_of(tasks, "rolling")
    longest = []
    for named in (50, 10**30):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": named}))
        asked = ask(spec, ModelFacts(file))
        longest.append(max(len(question.ids) // 4 for question in asked.questions))
    assert longest[0] == 51
    assert longest[1] > LENGTH


def test_a_limit_is_a_number_or_a_fraction_of_documents(tasks: Path, model: ModelFacts) -> None:
    assert ask(spec_of(tasks, "letters", limit=2), model).tasks == (("letters", 2),)
    assert ask(spec_of(tasks, "letters", limit=0.5), model).tasks == (("letters", 4),)


def test_sentencepiece_is_asked_with_its_bos_where_nothing_is_before(
    tasks: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(sentencepiece_model())
    asked = ask(spec_of(tasks, "nothing_before"), ModelFacts(file, LENGTH))
    assert {question.ids[:4] for question in asked.questions} == {(1).to_bytes(4, sys.byteorder)}


def test_without_bos_and_eos_a_bare_text_is_refused(tasks: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer_json(bos=False))
    with pytest.raises(BadArgument, match=r"nothing_before, document 0.*neither BOS nor EOS"):
        ask(spec_of(tasks, "nothing_before"), ModelFacts(file, LENGTH))
    assert ask(spec_of(tasks, "letters"), ModelFacts(file, LENGTH)).questions


def test_an_answer_longer_than_the_model_is_refused(tasks: Path, model: ModelFacts) -> None:
    short = ModelFacts(model.tokenizer, 12)
    with pytest.raises(BadArgument, match=r"blanks, document 1: an answer has \d+ tokens"):
        ask(spec_of(tasks, "blanks"), short)


def test_nothing_is_printed(
    tasks: Path, model: ModelFacts, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(tasks, "last_word", "rolling")
    score(spec, model, answers_to(ask(spec, model).questions))
    assert capfd.readouterr() == ("", "")


def test_it_runs_in_a_worker(tasks: Path, model: ModelFacts) -> None:
    spec = spec_of(tasks, "letters")
    pool = WorkerPool(1)
    try:
        asked: Asked = pool.submit(ask, spec, model).result()
        answers = answers_to(asked.questions)
        scored = pool.submit(score, spec, model, answers).result()
        assert pool.submit(sys_modules).result() == set()
    finally:
        pool.shutdown()
    assert asked == ask(spec, model)
    assert scored == score(spec, model, answers)
    assert pickle.loads(pickle.dumps(scored)) == scored


def sys_modules() -> set[str]:
    """Return what of the large libraries a worker has imported."""
    return {"torch", "transformers", "evaluate"} & set(sys.modules)


# What the answers score


def test_items_have_the_choices_and_both_sides_scores(tasks: Path, model: ModelFacts) -> None:
    spec = spec_of(tasks, "letters", "unconditional", "blanks", "last_word")
    scored = score(spec, model, answers_to(ask(spec, model).questions))
    first: dict[str, Item] = {}
    for item in scored.items:
        first.setdefault(item.task, item)
        assert item.answers == tuple(answer(question) for question in item.questions)
        for side, scores in (("a", item.scores_a), ("b", item.scores_b)):
            if item.kind == "choices" and item.task != "unconditional":
                logliks = [getattr(one, side).loglik for one in item.answers]
                right = logliks.index(max(logliks)) == item.target
                assert dict(scores)["acc"] == float(right)
    assert first["letters"].choices == ("A", "B")
    assert first["letters"].text.endswith("\nAnswer:")
    assert len(first["unconditional"].questions) == 2
    assert first["blanks"].kind == "choices"
    assert len(first["blanks"].choices) == 2
    assert first["last_word"].kind == "one"
    rows = {(row.task, row.metric): row for row in scored.tasks}
    acc = [dict(item.scores_b)["acc"] for item in scored.items if item.task == "letters"]
    assert rows["letters", "acc"].b == pytest.approx(sum(acc) / 7)
    assert rows["letters", "acc"].items == 7
    assert rows["letters", "acc"].stderr is not None
    assert rows["last_word", "perplexity"].stderr is None  # lm-eval draws lots for it


def test_only_documents_that_are_answered_count(tasks: Path, model: ModelFacts) -> None:
    spec = TaskSpec(tuple(str(tasks / f"{kind}.yaml") for kind in ("letters", "cloze")), None, 2)
    asked = ask(spec, model)
    whole = score(spec, model, answers_to(asked.questions))
    part = score(spec, model, answers_to(asked.questions[:5]))
    assert [item.doc for item in part.items] == [0, 1]
    # Examples are drawn for a document by those before it: they are as in the whole run.
    assert part.items == whole.items[:2]
    assert {row.task: row.items for row in part.tasks} == {"letters": 2}
    assert score(spec, model, {}).tasks == ()


def test_a_group_has_the_mean_that_its_file_asks_for(tasks: Path, model: ModelFacts) -> None:
    group = tasks / "both.yaml"
    group.write_text(
        "group: both\ntask: [letters, {task: cloze, num_fewshot: 1}]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    try:
        spec = TaskSpec((str(tasks),))
        asked = ask(spec, model)
        scored = score(spec, model, answers_to(asked.questions))
    finally:
        group.unlink()
    assert {name for name, _ in asked.tasks} == set(KINDS)
    rows = {(row.task, row.metric): row for row in scored.tasks}
    mean = (rows["letters", "acc"].a + rows["cloze", "acc"].a) / 2
    assert rows["both", "acc"].a == pytest.approx(mean)
    assert rows["both", "acc"].items == 14


# What lm-eval has, and what is not here


@pytest.mark.slow
def test_what_cannot_be_asked_of_lm_evals_own_is_one_sentence(
    tasks: Path, model: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some of lm-eval's own, since all are 13,000 files; the next test reads those.
    root = Path(_libraries().__file__).parent / "tasks"
    some = ("hellaswag", "gsm8k", "humaneval", "piqa", "super_glue/boolq", "mmlu/default")
    index = _libraries().tasks._index.TaskIndex.build([root / name for name in some])
    monkeypatch.setattr(harness, "index_of", lambda *_: index)
    folder = tmp_path / "index"  # a manager is kept by its folder
    with pytest.raises(BadArgument, match="no task hellaswg: did you mean hellaswag"):
        ask(TaskSpec(("hellaswg",)), model, folder)
    with pytest.raises(BadArgument, match=r"^gsm8k and humaneval let the model write its answer"):
        ask(TaskSpec(("humaneval", "piqa", "gsm8k")), model, folder)
    with pytest.raises(BadArgument) as refused:
        ask(TaskSpec(("boolq", str(tasks / "letters.yaml"), "mmlu_stem")), model, folder)
    text = str(refused.value)
    assert text.startswith("the data sets aps/super_glue/boolq, cais/mmlu/abstract_algebra, ")
    assert "cais/mmlu/machine_learning are not on this machine" in text
    assert 'python -c "from datasets import load_dataset; load_dataset(' in text
    command = text.partition('python -c "')[2].removesuffix('"')
    compile(command, "command", "exec")
    # A folder of the same name in the current folder would be read in the place of the data set.
    (tmp_path / "aps/super_glue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadArgument, match="the folder aps/super_glue here would be taken"):
        ask(TaskSpec(("boolq",)), model, folder)


@pytest.mark.slow
def test_a_group_of_lm_evals_own_is_read_from_the_cache(
    data_cache: Path, model: ModelFacts
) -> None:
    subjects = {
        "us_foreign_policy": 3,
        "sociology": 2,
        "public_relations": 1,
        "security_studies": 5,
    }
    school = (
        "geography",
        "government_and_politics",
        "macroeconomics",
        "microeconomics",
        "psychology",
    )
    rest = [f"high_school_{one}" for one in school]
    rest += ["econometrics", "human_sexuality", "professional_psychology"]
    for subject, count in (subjects | dict.fromkeys(rest, 1)).items():
        docs = [
            {"question": f"{n}?", "subject": subject, "choices": list("wxyz"), "answer": n % 4}
            for n in range(count)
        ]
        cache_data(data_cache, "cais/mmlu", subject, {"test": docs, "dev": docs})
    spec = TaskSpec(("mmlu_social_sciences",), None, 1)
    asked = ask(spec, model)
    assert dict(asked.tasks)["mmlu_security_studies"] == 5
    assert len(asked.tasks) == 12
    scored = score(spec, model, answers_to(asked.questions))
    rows = {row.task: row for row in scored.tasks if row.metric == "acc"}
    right = [dict(item.scores_a)["acc"] for item in scored.items]
    # Weighted by the number of documents, as lm-eval's own file of the group asks for.
    assert rows["mmlu_social_sciences"].a == pytest.approx(sum(right) / len(right))
    assert rows["mmlu_social_sciences"].items == len(right) == 19
    assert scored.items[0].text.startswith("The following are multiple choice questions")


# Files that could run code

GOOD = {
    "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "d.jsonl"}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}",
    "doc_to_choice": ["A", "B"], "doc_to_target": "0", "metric_list": [{"metric": "acc"}],
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "d.jsonl").write_text('{"q": "one"}\n{"q": "two"}\n')
    (tmp_path / "code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(*a): return a\n"
    )
    return tmp_path


def refused(folder: Path, model: ModelFacts, text: str | None = None, **changes: Any) -> str:
    """Return the error for a task; nothing that its folder has may have run."""
    file = folder / "mine.yaml"
    file.write_text(json.dumps(GOOD | changes) if text is None else text)
    with pytest.raises(CkptDiffError) as error:
        ask(TaskSpec((str(file),)), model)
    assert not (folder / "ran").exists()
    return str(error.value)


def test_the_good_file_is_good(here: Path, model: ModelFacts) -> None:
    (here / "mine.yaml").write_text(json.dumps(GOOD))
    assert len(ask(TaskSpec((str(here / "mine.yaml"),)), model).questions) == 4


@pytest.mark.parametrize(
    "tag",
    ["!function code.f", "!!python/name:os.system", "!!python/object/apply:os.system [touch ran]"],
)
def test_tags_are_refused(here: Path, model: ModelFacts, tag: str) -> None:
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in GOOD.items())
    assert "could run code" in refused(here, model, f"{text}\nprocess_docs: {tag}\n")
    (here / "base.yaml").write_text(f"process_results: {tag}\n")
    assert "could run code" in refused(here, model, f"{text}\ninclude: base.yaml\n")


TEMPLATES = (
    "{{ q.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ '{0.__class__}'.format(q) }}",
    "{{ lipsum.__globals__['os'].popen('touch ran').read() }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_see_nothing_of_python(here: Path, model: ModelFacts, template: str) -> None:
    assert "SecurityError" in refused(here, model, doc_to_text=template)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset_path": "code.py"}, "given as files"),
        ({"dataset_path": "./code.py"}, "given as files"),
        ({"dataset_path": "."}, "given as files"),
        ({"dataset_path": "pandas"}, "may hold code"),
        ({"dataset_path": "webdataset"}, "may hold code"),
        ({"dataset_path": "hf://datasets/x/y"}, "given as files"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "never done"),
        ({"dataset_kwargs": {"data_files": "https://x.org/d.json"}}, "local files alone"),
        ({"dataset_kwargs": {"data_files": {"test": ["zip://a::http://b"]}}}, "local files alone"),
        ({"dataset_kwargs": {"data_files": "none.jsonl"}}, "not there"),
        ({"dataset_kwargs": {"storage_options": {}}}, "may not hold"),
        ({"class": "os.system"}, "names a class"),
        ({"custom_dataset": "code.f"}, "names a function"),
        ({"use_prompt": "p.yaml:a"}, "another library"),
        ({"unsafe_code": True}, "runs code"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "hf_evaluate"),
        ({"metric_list": [{"metric": "./code.py"}]}, "none of lm-eval's own"),
        ({"metric_list": [{"metric": "code.py"}]}, "none of lm-eval's own"),
        ({"metric_list": [{"metric": "./code.py"}], "process_results": None}, "none of lm-eval's"),
        ({"output_type": "generate_until"}, "lets the model write"),
        ({"include": "mine.yaml"}, "includes itself"),
        ({"doc_to_text": "{{nothing}}"}, "nothing"),
        ({"dataset_path": "someone/no_such"}, "someone/no_such"),
        ({"doc_to_text": "{{ 'x' * 10000000000 }}"}, "makes too much by *"),
        ({"doc_to_text": "{{ 10000000000 * 'x' }}"}, "makes too much by *"),
        ({"doc_to_text": "{{ 9 ** (9 ** (9 ** 9)) }}"}, "makes too much by **"),
        ({"doc_to_text": "{% for i in range(10 ** 9) %}x{% endfor %}"}, "Range too big"),
        ({"doc_to_choice": ["", " b"]}, "mine: lm-evaluation-harness cannot load it: IndexError"),
        (
            {"fewshot_split": "test", "num_fewshot": 50},
            "mine: 50 examples before each question are asked for, and there are 2 in all",
        ),
        # What would fail after everything is computed fails before.
        (
            {"metric_list": [{"metric": "acc", "aggregation": "nonsense"}]},
            "mine: lm-evaluation-harness cannot score answers",
        ),
        (
            {"filter_list": [{"name": "f", "filter": [{"function": "custom", "filter_fn": "f"}]}]},
            "mine: lm-evaluation-harness cannot score answers",
        ),
    ],
    ids=str,
)
def test_settings_that_run_or_fetch_are_refused(
    here: Path, model: ModelFacts, changes: dict[str, Any], why: str
) -> None:
    assert why in refused(here, model, **changes)


@pytest.mark.parametrize(
    ("data", "why"),
    [("", "its data cannot be read, or there is none in it"), ("no json\n", "JSON parse error")],
)
def test_data_that_cannot_be_read_says_why(
    here: Path, model: ModelFacts, data: str, why: str
) -> None:
    (here / "d.jsonl").write_text(data)
    found = refused(here, model)
    assert found.startswith("mine: its data cannot be read")
    assert why in found


def test_a_group_of_a_file_is_held_to_the_same(here: Path, model: ModelFacts) -> None:
    inner = GOOD | {"dataset_kwargs": {"trust_remote_code": True}}
    assert "never done" in refused(here, model, json.dumps({"group": "g", "task": [inner]}))
    scripted = GOOD | {"metric_list": [{"metric": "./code.py"}]}
    assert "none of lm-eval's" in refused(
        here, model, json.dumps({"group": "g", "task": [scripted]})
    )
    assert "no task nonsense" in refused(
        here, model, json.dumps({"group": "g", "task": [GOOD, {"task": "nonsense"}]})
    )
    good = json.dumps({"group": "g", "task": [GOOD]})
    (here / "mine.yaml").write_text(good)
    asked = ask(TaskSpec((str(here / "mine.yaml"),)), model)
    assert asked.tasks == (("g::mine", 2),)


def test_files_that_are_no_task_are_one_sentence(here: Path, model: ModelFacts) -> None:
    assert "is no task" in refused(here, model, "- 1\n")
    assert "is no task" in refused(here, model, "dataset_path: json\n")
    (here / "mine.yaml").write_text("a: [")
    with pytest.raises(CorruptFile, match="is not YAML"):
        ask(TaskSpec((str(here / "mine.yaml"),)), model)
    for name, why in ((f"{here}/no.yaml", "no such file"), ("", "no task")):
        with pytest.raises(BadArgument, match=why):
            ask(TaskSpec((name,) if name else ()), model)
    (here / "empty").mkdir()
    with pytest.raises(BadArgument, match="no YAML file there has a task"):
        ask(TaskSpec((f"{here}/empty",)), model)


def test_data_lies_beside_the_file_wherever_it_is_started(
    here: Path, model: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "t.csv").write_text("q\tn\none\t1\n")
    (here / "t.txt").write_text("a line\nanother\n")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    for kind, options, text in (
        ("csv", {"data_files": {"test": "*.csv"}, "sep": "\t"}, "{{q}} {{n}}"),
        ("text", {"data_files": {"test": ["t.txt"]}}, "text"),
    ):
        config = GOOD | {"dataset_path": kind, "dataset_kwargs": options, "doc_to_text": text}
        (here / "mine.yaml").write_text(json.dumps(config))
        assert ask(TaskSpec(("../mine.yaml",)), model).questions
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
