"""Every family: what transformers' own classes hold is in the rules, each element exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import MODELS, Stored, cut, gathered, on_disk
from numbered import numbered

from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.arch.base import split_name
from ckptdiff.assemble import assemble

HERE = Path(__file__).resolve().parent

# How each family's rules were checked. "files": read off files that NVIDIA's code wrote.
# "logits": a model scattered by the rules gives the same logits in megatron-core.
# "names and shapes": nothing in transformers' model is left out or used twice, no more than that.
VERIFIED = {
    "llama": "files",
    "mistral": "files",
    "qwen2": "files",
    "qwen3": "files",
    "mixtral": "files",
    "qwen2_moe": "files",
    "qwen3_moe": "files",
    "deepseek": "files",
    "gpt2": "files",
    "nemotron": "files",
    "gemma": "names and shapes",
    "gemma2": "names and shapes",
    "gemma3": "names and shapes",
    "gpt_oss": "names and shapes",
    "glm4_moe": "names and shapes",
    "olmo2": "names and shapes",
    "olmoe": "names and shapes",
    "phi3": "names and shapes",
    "qwen3_next": "names and shapes",
    "qwen3_5": "names and shapes",
    "qwen3_5_moe": "names and shapes",
    "qwen3_vl_moe": "names and shapes",
    "gpt_neox": "names and shapes",
    "nemotron_h": "names and shapes",
}


def test_it_is_said_of_every_family_how_it_was_checked() -> None:
    assert set(VERIFIED) == {family.name for family in ARCHITECTURES}


@pytest.fixture(scope="session")
def described(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return every model's config and shapes, as transformers says."""
    python = request.config.getoption("--oracle") or sys.executable
    done = subprocess.run(
        [python, str(HERE / "families.py")],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.oracle
@pytest.mark.parametrize(("model", "ep"), [(m, ep) for m in MODELS for ep in (1, 2)])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_parameter_is_scattered_and_gathered_once(
    model: str, tp: int, ep: int, described: dict[str, Any]
) -> None:
    config, shapes = described[model]["config"], described[model]["shapes"]
    family = find_architecture(config)
    assert family is not None
    assert family.name == MODELS[model][0]
    stored: Stored = {}
    whole = assemble(on_disk(config, numbered(shapes), stored))
    assert whole.errors == {}
    assert [n for n in whole.tensors if family.order_of(split_name(n)[0]) is None] == []
    weights = gathered(whole, stored)
    elements = torch.cat([weight.reshape(-1) for weight in weights.values()])
    assert len(elements) == sum(len(flat) for flat in stored.values())
    assert len(elements) == len(set(elements.tolist()))
    side = assemble(cut(whole, weights, tp, ep, stored), like=whole)
    assert side.unmapped == ()
    assert side.errors == {}
    found = gathered(side, stored)
    assert set(found) == set(weights)
    assert [name for name in weights if not torch.equal(found[name], weights[name])] == []
