"""What lm-eval's own `hf` backend is asked, and what it scores. Run by `oracle_server`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def compare(*, cases: dict[str, dict[str, Any]], **_: Any) -> dict[str, Any]:
    """Return, for each case, the tokens of each request, the answers, and the results of tasks.

    What a case raises is its answer as well.
    """
    found: dict[str, Any] = {}
    for name, case in cases.items():
        try:
            found[name] = run(**case)
        except Exception as error:  # noqa: BLE001 -- the test sees it
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def run(
    *, model: str, names: list[str], fewshot: int | None = None, limit: float | None = None
) -> dict[str, Any]:
    import lm_eval  # type: ignore[import-untyped]
    import lm_eval.evaluator  # type: ignore[import-untyped]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    # lm-eval looks for data in the folder where it was started.
    os.chdir(Path(names[0]).parent)
    asked: list[tuple[list[int], int]] = []
    answers: list[tuple[float, bool]] = []

    class Recording(HFLM):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
            found = super()._loglikelihood_tokens(requests, **options)
            for _text, context, answer in requests:
                asked.append(((context + answer)[-(self.max_length + 1) :], len(answer)))
            answers.extend(found)
            return found

    results = lm_eval.evaluator.simple_evaluate(
        Recording(pretrained=model, device="cpu", dtype="float32", batch_size=3),
        tasks=names,
        num_fewshot=fewshot,
        limit=limit,
        bootstrap_iters=2,
        task_manager=TaskManager(include_defaults=False),
    )
    return {
        "asked": asked,
        "answers": answers,
        "results": {
            name: {k: v for k, v in found.items() if isinstance(v, float)}
            for name, found in results["results"].items()
        },
    }
