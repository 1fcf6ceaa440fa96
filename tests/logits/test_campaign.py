"""Of random odd configs the verdict is right, or says that it cannot tell.

`python -m tests.support.campaign` asks about hundreds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.campaign import RIGHT, WRONG, Campaign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

SEED = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kind", "families"),
    [
        ("config", ["llama", "qwen2", "qwen3_moe", "deepseek_v3", "gemma3_text", "phi3"]),
        ("args", ["llama", "qwen3", "mixtral", "nemotron", "mistral", "qwen2_moe"]),
    ],
)
def test_no_verdict_on_a_random_change_is_wrong(
    kind: str, families: list[str], oracle: Oracle, tmp_path: Path
) -> None:
    campaign = Campaign(oracle, tmp_path, SEED)
    outcomes = list(campaign.outcomes(len(families), families, [kind]))
    print(*outcomes, sep="\n")  # noqa: T201
    assert [str(outcome) for outcome in outcomes if outcome.judged == WRONG] == []
    assert any(outcome.judged == RIGHT for outcome in outcomes)
