"""Where the logits are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.errors import BadArgument, OutOfMemory
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.forward import device
from ckptdiff.forward.arithmetic import Arithmetic
from ckptdiff.logits.run import compare_logits
from ckptdiff.results import LogitDiff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS = torch.get_num_threads()
HAS_CUDA = torch.cuda.is_available()


def gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Pretend that there is a GPU with so many free bytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number=None: (free, free))


@pytest.mark.skipif(HAS_CUDA, reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert device.choose("auto", 1, THREADS) == ("cpu", "")
    with pytest.raises(BadArgument, match="finds no CUDA device"):
        device.choose("cuda", 1, THREADS)


def test_a_gpu_with_room_is_taken_unless_the_cpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(monkeypatch, free=2**30)
    assert device.choose("auto", 2**29, THREADS) == ("cuda", "")
    assert device.choose("cpu", 2**29, THREADS) == ("cpu", "")


def test_a_gpu_that_is_too_full_is_left_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, free=2**30)
    chosen, why = device.choose("auto", 2**31, THREADS)
    assert chosen == "cpu"
    assert "1.0 GiB free, a step takes 2.0" in why
    with pytest.raises(BadArgument, match=r"1\.0 GiB free"):
        device.choose("cuda", 2**31, THREADS)


def test_a_gpu_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, free=2**30)
    assert device.choose("cuda:1", 2**29, THREADS) == ("cuda:1", "")
    with pytest.raises(BadArgument, match="there is no cuda:2: cuda:0 to cuda:1 are there"):
        device.choose("cuda:2", 2**29, THREADS)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_is_said_as_that(
    tiny_hf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def attend(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Arithmetic, "attend", attend)
    pair = assemble_pair(*(open_checkpoint(tiny_hf()) for _ in "ab"))
    with pytest.raises(OutOfMemory, match="A, layer 0, ctx: cpu ran out of memory"):
        list(compare_logits(*pair, range(8), InlineExecutor(), device="cpu"))


@pytest.mark.skipif(not HAS_CUDA, reason="there is no GPU")
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_a_gpu_tells_a_correct_conversion_from_that_of_another_model(
    tiny_hf: Callable[..., Path], tiny_megatron: Callable[..., Path], dtype: str
) -> None:
    verdicts = []
    for seed in (0, 1):
        a, b = (open_checkpoint(path) for path in (tiny_hf(seed=seed), tiny_megatron(tp=2)))
        *_, last = compare_logits(
            *assemble_pair(a, b), range(8), InlineExecutor(), device="cuda", dtype=dtype
        )
        assert isinstance(last, LogitDiff)
        assert last.device == "cuda"
        verdicts.append(last.verdict)
    assert verdicts == ["arithmetic", "weights-or-config"]
