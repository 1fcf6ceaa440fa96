"""Tasks that are loaded: the questions of their documents, and the scores of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.results import Answer, Answers
from ckptdiff.scores.loading import reason_of
from ckptdiff.scores.results import Asked, Item, Question, Scored, TaskScore
from ckptdiff.scores.tasks import GENERATES, listed, refuse_generation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptdiff.scores.results import Kind
    from ckptdiff.scores.tasks import TaskSpec

_FEWSHOT_SEED = 1234  # lm-eval's own default


class LoadedTasks:
    """Tasks that are loaded, and what they ask of one model.

    `library` is lm-eval, `loaded` its tasks and groups, `asking` a model of its that notes what it
    is asked, and `looking_up` makes one that knows the answers.
    """

    def __init__(
        self,
        library: Any,
        loaded: dict[str, Any],
        spec: TaskSpec,
        asking: Any,
        looking_up: Callable[[Callable[[Any], Any]], Any],
        notes: list[str],
    ) -> None:
        self.library, self.spec, self.notes = library, spec, notes
        self.asking, self.looking_up = asking, looking_up
        self.questions: dict[Question, int] = {}
        self.of_request: dict[int, tuple[Question, ...]] = {}  # by id of lm-eval's request
        self.loaded, self.tasks = loaded, loaded["tasks"]
        self.documents: dict[str, dict[int, list[Any]]] = {}
        for name, task in self.tasks.items():
            self._set_fewshot(name, task)
            self.documents[name] = self._ask(name, task)
        self._try_metrics()
        self.versions = (
            ("lm-eval", self.library.__version__),
            *((name, str(task.VERSION)) for name, task in self.tasks.items()),
        )

    def asked(self) -> Asked:
        """Return what the tasks ask, each question once."""
        return Asked(
            tuple(self.questions),
            tuple((name, len(self.documents[name])) for name in self.tasks),
            tuple(self._numbers(name) for name in self.tasks),
            tuple(self.notes),
            self.versions,
        )

    def _set_fewshot(self, name: str, task: Any) -> None:
        """Set the number of examples as lm-eval's `simple_evaluate` does."""
        own = task.get_config("num_fewshot")
        if self.spec.fewshot is None:
            if own is None:
                task.set_config(key="num_fewshot", value=0)
        elif own == 0:
            if self.spec.fewshot:
                self.notes.append(f"{name} has no examples: its file says so, as lm-eval reads it")
        else:
            task.set_config(key="num_fewshot", value=self.spec.fewshot)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)

    def _ask(self, name: str, task: Any) -> dict[int, list[Any]]:
        """Return a task's requests by document, and note the questions of each."""
        limit = self.library.evaluator_utils.get_sample_size(task, self.spec.limit)
        try:
            task.build_all_requests(limit=limit)
        except (CkptDiffError, MemoryError, ModuleNotFoundError):
            raise
        except Exception as error:
            raise BadArgument(f"{name}: {_why_not_asked(task, error)}") from error
        documents: dict[int, list[Any]] = {}
        cut = 0
        for request in task.instances:
            if request.request_type == GENERATES:
                refuse_generation([name])
            try:
                found = self.asking.questions(request)
            except BadArgument as error:
                raise BadArgument(f"{name}, document {request.doc_id}: {error}") from error
            cut += self.asking.was_cut
            for question in found:
                self.questions.setdefault(question, len(self.questions))
            self.of_request[id(request)] = found
            documents.setdefault(request.doc_id, []).append(request)
        if cut:
            self.notes.append(
                f"{name}: {cut} of {len(task.instances)} prompts are longer than the "
                f"{self.asking.max_length} positions of the model; they lose their first tokens, "
                "as in lm-eval"
            )
        return documents

    def _try_metrics(self) -> None:
        """Raise BadArgument if lm-eval cannot make scores of answers: better now than at the end.

        Two documents of a task do, unless its metric needs more of them.
        """
        one = Answer(-1.0, is_greedy=False)
        given = Answers(one, one, one, 0.0, 0.0, 0.0)
        for most in (2, None):
            asked = (
                request
                for documents in self.documents.values()
                for requests in list(documents.values())[:most]
                for request in requests
            )
            questions = (one for request in asked for one in self.of_request[id(request)])
            try:
                self._evaluate(dict.fromkeys(questions, given), "a")
            except (CkptDiffError, MemoryError, ModuleNotFoundError):
                raise
            except Exception as error:
                if most is None:
                    names = listed(list(self.tasks))
                    raise BadArgument(
                        f"{names}: lm-evaluation-harness cannot score answers: {reason_of(error)}"
                    ) from error
            else:
                return

    def _numbers(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the questions that a task asks, each once."""
        requests = (one for some in self.documents[name].values() for one in some)
        found = (
            self.questions[one] for request in requests for one in self.of_request[id(request)]
        )
        return tuple(dict.fromkeys(found))

    def score(self, answers: Mapping[Question, Answers]) -> Scored:
        """Return the scores of both sides, over the documents that are answered."""
        a, b = (self._evaluate(answers, side) for side in ("a", "b"))
        items = tuple(item for name in self.tasks for item in self._items(name, answers, a, b))
        return Scored(tuple(self._rows(a, b)), items)

    def _evaluate(self, answers: Mapping[Question, Answers], side: str) -> dict[str, Any]:
        """Return lm-eval's results of one side."""

        def loglik(request: Any) -> Any:
            found = [answers.get(one) for one in self.of_request[id(request)]]
            if None in found:
                return None
            given: list[Answer] = [getattr(one, side) for one in found]
            if request.request_type == "loglikelihood_rolling":
                return sum(one.loglik for one in given)
            return given[0].loglik, given[0].is_greedy

        for task in self.tasks.values():
            _answer_only(task)
        results: dict[str, Any] = self.library.evaluator.evaluate(
            self.looking_up(loglik), self.loaded, limit=self.spec.limit, bootstrap_iters=2
        )
        return results

    def _rows(self, a: dict[str, Any], b: dict[str, Any]) -> Iterator[TaskScore]:
        for name, found in a["results"].items():
            other = b["results"][name]
            for key, value in found.items():
                metric, _, kind = key.partition(",")
                if not kind or metric.endswith("_stderr") or not _is_number(value):
                    continue
                stderr = found.get(f"{metric}_stderr,{kind}")
                is_mean = self._is_mean(name, metric)
                yield TaskScore(
                    name,
                    "other",
                    "",
                    metric if kind == "none" else f"{metric} ({kind})",
                    float(value),
                    float(other[key]),
                    int(found.get("sample_len", 0)),
                    float(stderr) if is_mean and _is_number(stderr) else None,
                )

    def _is_mean(self, name: str, metric: str) -> bool:
        """Return whether a metric's standard error follows from a formula, not from a lottery."""
        mean = self.library.api.metrics.mean
        if name in self.tasks:
            return self.tasks[name].aggregation().get(metric, mean) is mean
        tasks = self.loaded["groups"][name].get_all_tasks()
        return all(one.aggregation().get(metric, mean) is mean for one in tasks)

    def _items(
        self, name: str, answers: Mapping[Question, Answers], a: dict[str, Any], b: dict[str, Any]
    ) -> Iterator[Item]:
        task = self.tasks[name]
        metrics: tuple[dict[int, dict[str, float]], ...] = ({}, {})
        for of_side, results in zip(metrics, (a, b), strict=True):
            for sample in results["samples"][name]:
                kind = sample["filter"]
                found = of_side.setdefault(sample["doc_id"], {})
                for metric in sample["metrics"]:
                    if _is_number(sample[metric]):
                        key = metric if kind == "none" else f"{metric} ({kind})"
                        found[key] = float(sample[metric])
        for doc, requests in self.documents[name].items():
            questions = [one for request in requests for one in self.of_request[id(request)]]
            if any(one not in answers for one in questions):
                continue
            shown = _shown(task, requests)
            asked = tuple(one for request in shown.requests for one in self.of_request[id(request)])
            yield Item(
                name,
                doc,
                shown.kind,
                shown.text,
                shown.choices,
                shown.target,
                asked,
                tuple(answers[one] for one in asked),
                tuple(metrics[0].get(doc, {}).items()),
                tuple(metrics[1].get(doc, {}).items()),
            )


def _why_not_asked(task: Any, error: Exception) -> str:
    """Return why lm-eval cannot put a task's questions, as far as that can be told."""
    wanted = task.get_config("num_fewshot") or 0
    there = len(list(task.fewshot_docs())) if wanted else 0
    if wanted >= there > 0:
        return f"{wanted} examples before each question are asked for, and there are {there} in all"
    return f"lm-evaluation-harness cannot put its questions: {reason_of(error)}"


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bytes, tuple, list)) and float(value) is not None
    except (TypeError, ValueError):
        return False


def _answer_only(task: Any) -> None:
    """Have a task keep its requests as they are, and leave out documents without an answer.

    lm-eval's `samples=` asks for some documents too, but draws other examples for them.
    """
    kind = type(task)

    def build_all_requests(**_: Any) -> None:
        for request in task.instances:
            request.resps, request.filtered_resps = [], {}

    def process_results(doc: Any, results: Any) -> Any:
        if any(one is None for one in results):
            return {}
        return kind.process_results(task, doc, results)

    task.build_all_requests, task.process_results = build_all_requests, process_results


@dataclass(frozen=True, slots=True)
class _Shown:
    """A document as it is shown: what is asked, and the answers there are."""

    kind: Kind
    text: str
    choices: tuple[str, ...]
    target: int | None
    requests: list[Any]  # of these answers


def _shown(task: Any, requests: list[Any]) -> _Shown:
    first = requests[0]
    if first.request_type == "loglikelihood_rolling":
        return _Shown("rolling", first.args[0], (), None, requests)
    contexts = [request.args[0] for request in requests]
    answers = tuple(request.args[1] for request in requests)
    if task.OUTPUT_TYPE != "multiple_choice":
        kind: Kind = "choices" if requests[1:] else "one"
        gold = first.doc.get("gold") if isinstance(first.doc, dict) else None
        target = gold if type(gold) is int and 0 <= gold < len(answers) and requests[1:] else None
        return _Shown(kind, contexts[0], answers, target, requests)
    choices = task.doc_to_choice(first.doc)
    own = requests[: len(choices)]  # beyond them, the same answers without a question may be asked
    if task.multiple_input:
        text = f"{_common(contexts[: len(own)])}…{answers[0]}"
        gold = task.doc_to_text(first.doc)
    else:
        text, gold = contexts[0], task.doc_to_target(first.doc)
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else None
    target = int(gold) if isinstance(gold, int) and 0 <= gold < len(own) else None
    return _Shown("choices", text, tuple(str(one) for one in choices), target, own)


def _common(texts: list[str]) -> str:
    """Return what all texts begin with."""
    shortest, last = min(texts), max(texts)
    same = zip(shortest, last, strict=False)
    return shortest[: next((i for i, (x, y) in enumerate(same) if x != y), len(shortest))]
