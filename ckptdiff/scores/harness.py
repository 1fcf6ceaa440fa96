"""lm-evaluation-harness: what its tasks ask of a model, and what its metrics make of the answers.

The one module that imports it. `ask` and `score` run in a worker process, offline and silent.
"""

from __future__ import annotations

import logging
import os
import random
import warnings
from array import array
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError, NotInstalled
from ckptdiff.extras import require
from ckptdiff.logits.tokenizer import OpenTokenizer
from ckptdiff.scores.loaded_tasks import LoadedTasks
from ckptdiff.scores.loading import load_tasks, reason_of
from ckptdiff.scores.results import Question
from ckptdiff.scores.task_index import index_of
from ckptdiff.scores.templates import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptdiff.results import Answers
    from ckptdiff.scores.results import Asked, Scored
    from ckptdiff.scores.tasks import ModelFacts, TaskSpec

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_TRUST_REMOTE_CODE": "0",
    "LMEVAL_DISABLE_MULTIPROC": "1",
}
_NO_LENGTH = 2048  # positions that lm-eval takes for a model whose config tells none


def ask(spec: TaskSpec, model: ModelFacts, cache: Path | None = None) -> Asked:
    """Return what the tasks ask. Runs in a worker process, which keeps the tasks for `score`.

    `cache` is a folder in which the names of lm-eval's tasks are kept, which it takes long to read.
    Raises BadArgument for a task that does not exist, is generated or has no data here,
    NotInstalled without the libraries, CorruptFile for a tokenizer that does not work.
    """
    require("scores")
    with _silent(), _offline():
        _kept.clear()  # a file may have changed meanwhile
        return _loaded(spec, model, cache).asked()


def score(
    spec: TaskSpec,
    model: ModelFacts,
    answers: Mapping[Question, Answers],
    cache: Path | None = None,
) -> Scored:
    """Return what lm-eval's metrics make of both sides' answers. Runs in a worker process.

    Only documents count of which every question is answered. Raises as `ask` does.
    """
    require("scores")
    with _silent(), _offline():
        return _loaded(spec, model, cache).score(answers)


@cache
def _libraries() -> Any:
    """Return the library, imported without a way to the network."""
    os.environ.update(_OFFLINE)
    import datasets  # type: ignore[import-untyped]
    import lm_eval.evaluator  # type: ignore[import-untyped]
    import lm_eval.tasks  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    lm_eval.utils.env = sandbox(lm_eval.utils.env)
    return lm_eval


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the libraries off the network, those too that were imported before by somebody else."""
    _libraries()
    import datasets.config  # type: ignore[import-untyped]
    import huggingface_hub.constants

    switches = [
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
    ]
    before = [getattr(module, name) for module, name in switches]
    for module, name in switches:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep lm-eval's messages and progress bars away, and turn what it raises into an error."""
    state = random.getstate()
    disabled = logging.root.manager.disable
    with (
        Path(os.devnull).open("w") as sink,
        redirect_stdout(sink),
        redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        except (CkptDiffError, MemoryError):
            raise
        except ModuleNotFoundError as error:
            raise NotInstalled(
                f"a task needs {error.name}, which is not installed: pip install {error.name}"
            ) from error
        except Exception as error:
            raise BadArgument(f"lm-evaluation-harness: {reason_of(error)}") from error
        finally:
            logging.disable(disabled)
            random.setstate(state)


_kept: dict[tuple[TaskSpec, ModelFacts], LoadedTasks] = {}  # the last one


def _loaded(spec: TaskSpec, model: ModelFacts, folder: Path | None) -> LoadedTasks:
    """Return the tasks as they were loaded before, or load them."""
    if (spec, model) not in _kept:
        _kept.clear()
        library = _libraries()
        notes: list[str] = []
        # Some tasks put the order of their choices to chance: that of lm-eval's own runs.
        random.seed(0)
        library.evaluator.np.random.seed(1234)
        tasks = load_tasks(library, partial(_manager, folder), spec, notes)
        asking = _asking(model)
        _kept[spec, model] = LoadedTasks(library, tasks, spec, asking, _looking_up, notes)
    return _kept[spec, model]


@cache
def _manager(folder: Path | None, *, has_own: bool) -> Any:
    """Return what loads tasks, with lm-eval's own or without them."""
    library = _libraries()
    manager = library.tasks.TaskManager(include_defaults=False)
    if has_own:
        found = index_of(library, folder, lambda: library.tasks.TaskManager().task_index)
        manager.task_index.update(found)
    return manager


def _asking(model: ModelFacts) -> Any:
    """Return a model of lm-eval that notes what it is asked, as its `hf` backend would see it."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]

    tokenizer = OpenTokenizer(model.tokenizer, (model.bos, model.eos), model.family)
    longest = model.max_length or tokenizer.max_length or _NO_LENGTH
    # A question comes once for each of its choices.
    encode = lru_cache(maxsize=2)(tokenizer.encode)

    class Asking(TemplateLM):  # type: ignore[misc]
        """Notes the tokens of a request, and answers nothing."""

        max_length = longest
        was_cut = False
        _found: tuple[Question, ...] = ()

        @property
        def eot_token_id(self) -> int:
            if tokenizer.prefix is None:
                raise BadArgument(
                    f"{tokenizer.file}: names neither BOS nor EOS, and a text that has nothing "
                    "before it is asked for. Name one in tokenizer_config.json"
                )
            return tokenizer.prefix

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,  # noqa: FBT001 -- as lm-eval calls it
            **_: Any,
        ) -> list[int]:
            if add_special_tokens is None:
                # BOS that a text brings along is not doubled.
                has_own = bool(tokenizer.prefix_text) and string.startswith(tokenizer.prefix_text)
                add_special_tokens = not has_own
            return encode(string, special=add_special_tokens)

        def questions(self, request: Any) -> tuple[Question, ...]:
            """Return what one request of a task asks."""
            self._found, self.was_cut = (), False
            if request.request_type == "loglikelihood_rolling":
                self.loglikelihood_rolling([request])
            else:
                self.loglikelihood([request], disable_tqdm=True)
            return self._found

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=longest,
                    context_len=1,
                )
                pairs = map(utils.make_disjoint_window, windows)
                self._loglikelihood_tokens([(None, *pair) for pair in pairs])
            return []

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self._found = tuple(self._question(*given) for _, *given in requests)
            return []

        def _question(self, context: list[int], answer: list[int]) -> Question:
            if not answer:
                raise BadArgument("an answer has no token of its own: nothing can be scored")
            if len(answer) > longest:
                raise BadArgument(
                    f"an answer has {len(answer)} tokens, more than the model has positions "
                    f"({longest})"
                )
            ids = [*context, *answer]
            self.was_cut |= len(ids) > longest + 1
            return Question(array("i", ids[-(longest + 1) :]).tobytes(), len(answer))

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            raise NotImplementedError

    return Asking()


def _looking_up(answer: Callable[[Any], Any]) -> Any:
    """Return a model of lm-eval whose answer to a request is known; None where it is not."""
    from lm_eval.api.model import LM

    class LookingUp(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any) -> list[Any]:
            return [answer(request) for request in requests]

        def loglikelihood_rolling(self, requests: Any) -> list[Any]:
            return [answer(request) for request in requests]

        def generate_until(self, requests: Any) -> list[Any]:
            raise NotImplementedError

    return LookingUp()
