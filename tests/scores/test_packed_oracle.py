"""Log-likelihoods of a batch are those of transformers and of the real megatron-core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.logit_runs import free_run
from tests.support.packed_runs import run_batch, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = [pytest.mark.oracle, pytest.mark.mostly_slow(one_in=4)]

# Model, TP, EP: dense, learned positions, windows and sinks, soft caps, experts, latent attention,
# DeltaNet and Mamba.
RUNS = [
    ("qwen3_next", 2, 1),
    ("gpt2", 2, 1),
    ("gemma2", 2, 1),
    ("gpt_oss", 1, 2),
    ("deepseek_v3", 2, 1),
    ("nemotron_h", 2, 1),
    ("mixtral", 2, 1),
    ("deepseek_v2", 2, 1),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def expected(file: Path, ids: list[int], vocabulary: int) -> float:
    """Return the log-likelihood of all tokens but the first, by logits that a program left."""
    logits = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32).view(len(ids), -1)
    rows = torch.log_softmax(logits[:-1, :vocabulary].double(), -1)
    return float(rows.gather(1, torch.tensor(ids[1:])[:, None]).sum())


@pytest.mark.parametrize(("model", "tp", "ep"), RUNS)
def test_answers_are_what_both_programs_give(
    model: str, tp: int, ep: int, oracle: Oracle, tmp_path: Path
) -> None:
    found = oracle.compare(
        "oracle_families",
        ranks=tp * ep,
        model=model,
        tp=tp,
        ep=ep,
        fault=False,
        folder=str(tmp_path),
        less_one=True,
    )
    hf, ranks, ids = tmp_path / "hf", tmp_path / "ranks", found["ids"]
    others = [ids[:11][::-1], ids[5:6] * 2, ids[3:33]]
    ran = run_batch(hf, ranks, [whole(one) for one in (others[0], ids, *others[1:])])
    one, _ = free_run(hf, ranks, ids, "fp32")
    for letter, name in (("a", "hf"), ("b", "megatron")):
        wanted = expected(tmp_path / f"{name}.logits", ids, one.shape[1])
        assert getattr(ran.answers[1][0], letter).loglik == pytest.approx(
            wanted, abs=1e-5 * len(ids)
        )
    # The others as each gives alone, whatever lies beside them.
    for ids_of, (answers,) in zip(others, (ran.answers[0], *ran.answers[2:]), strict=True):
        for logits, answer in zip(
            free_run(hf, ranks, ids_of, "fp32"), (answers.a, answers.b), strict=True
        ):
            rows = torch.log_softmax(logits[:-1].double(), -1)
            alone = float(rows.gather(1, torch.tensor(ids_of[1:])[:, None]).sum())
            assert answer.loglik == pytest.approx(alone, abs=1e-5 * len(ids_of))
    assert ran.large == []
    print(model, [(s.layer, s.name, s.rel) for s in ran.apart])  # noqa: T201
