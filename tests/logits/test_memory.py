"""One step's weights are in memory at a time, however deep the model is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ckptdiff.forward import blocks, reading
from ckptdiff.forward.reading import Reader
from tests.support.corpus import REPOSITORY
from tests.support.logit_runs import compare_logits
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.forward.holdings import HeldTensor

SIZES: dict[str, Any] = {
    "hidden": 640,
    "heads": 10,
    "groups": 10,
    "head_dim": 64,
    "ffn": 1280,
    "vocab": 61,
}
LAYER = 4 * (4 * 640 * 640 + 3 * 640 * 1280)  # bytes of a layer's weights in float32: 16 MB


def measured(a: Path, b: Path, dtype: str = "bf16", tokens: int = 8) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.logit_memory", str(a), str(b), dtype, str(tokens)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[int], tuple[Path, Path]]:
    def made(layers: int) -> tuple[Path, Path]:
        hf, megatron = (tmp_path / f"{kind}-{layers}" for kind in ("hf", "megatron"))
        weights = make_hf(hf, layers=layers, **SIZES)
        config = json.loads((hf / "config.json").read_text())
        return hf, make_megatron(megatron, weights, config, tp=2)

    return made


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what memory is anonymous")
def test_memory_does_not_grow_with_depth(pair: Callable[[int], tuple[Path, Path]]) -> None:
    found = {layers: measured(*pair(layers)) for layers in (2, 8)}
    more = {layers: told["peak"] - told["before"] for layers, told in found.items()}
    print(more)  # noqa: T201
    assert all(told["verdict"] == "arithmetic" for told in found.values())
    assert [len(told["seconds"]) for told in found.values()] == [2, 8]
    assert more[2] > LAYER / 8  # else nothing was measured
    # Kept in bf16, six layers more would be three times `LAYER` more. A busy machine, which looks
    # too late to see the peak of two layers, finds some half of `LAYER` more.
    assert more[8] < more[2] + 1.5 * LAYER
    assert more[8] < 2 * LAYER + 40e6


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        tensors = (one for one in tree_leaves(given) if isinstance(one, torch.Tensor))
        self.elements = max([self.elements, *(one.numel() for one in tensors)])
        return given


def test_memory_does_not_grow_with_vocabulary_times_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 14
    monkeypatch.setattr(blocks, "MOST_LOGITS", limit)
    small: dict[str, Any] = {
        "hidden": 16,
        "heads": 2,
        "groups": 2,
        "head_dim": 8,
        "ffn": 48,
        "vocab": 1000,
    }
    make_hf(tmp_path, layers=1, **small)
    with Largest() as largest:
        found = compare_logits(tmp_path, tmp_path, range(1, 65), device="cpu")
    assert (found.verdict, len(found.top)) == ("arithmetic", 64)
    assert limit / 2 < largest.elements <= limit  # all the logits of a side are 64,000


def test_experts_are_read_once_for_all_evaluations_of_a_step_if_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is needed for A, for A's weights in B's arithmetic, for B, and for B by itself."""
    hf, megatron = tmp_path / "hf", tmp_path / "megatron"
    weights = make_hf(hf, "mixtral", layers=1, dtype=torch.float16)
    make_megatron(megatron, weights, json.loads((hf / "config.json").read_text()), tp=2)
    read: Counter[tuple[torch.dtype, HeldTensor]] = Counter()
    converted = Reader._converted

    def counted(reader: Reader, stored: Tensor, held: HeldTensor, *more: Any) -> Tensor:
        if ".experts." in held.name:
            read[reader.dtype, held] += 1
        return converted(reader, stored, held, *more)

    monkeypatch.setattr(Reader, "_converted", counted)
    kept = compare_logits(hf, megatron, range(1, 40), device="cpu")
    # Of each of 4 experts w1, w2 and w3, and of two ranks fc1 and fc2: in fp32, then in fp16.
    assert (len(read), set(read.values())) == (2 * 4 * (3 + 2 * 2), {1})
    read.clear()
    one = 4 * 48 * 32  # bytes of w1 in fp32, as of w2 and w3
    monkeypatch.setattr(reading, "MOST_KEPT", 3 * one)
    assert compare_logits(hf, megatron, range(1, 40), device="cpu").taps == kept.taps
    wide = [count for (dtype, _), count in read.items() if dtype is torch.float32]
    # There is room for 3 of w1 and w3 in their step, and of w2 in its; of a rank's fc1, and for 6
    # of its fc2, which are half as large.
    assert (wide.count(1), wide.count(2)) == (3 + 3 + 3 + 6, 5 + 1 + 5 + 2)
