"""What a run takes: memory from the models' sizes, time from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptdiff.checkpoint import Chunk, TensorRef
from ckptdiff.errors import OutOfMemory
from ckptdiff.forward import plan
from ckptdiff.forward.holdings import HeldTensor
from ckptdiff.forward.model import LayerSpec, Model
from ckptdiff.forward.plan import PackedSequence, Section
from ckptdiff.scores import cost as costs
from ckptdiff.scores.batches import QuestionBatch
from ckptdiff.scores.cost import MOST_ON_CPU, MOST_ON_GPU, Cost, Pace, batch_tokens, free_memory
from ckptdiff.scores.results import Question

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1 << 30


def held(name: str, *shape: int) -> HeldTensor:
    ref = TensorRef(name, shape, "BF16", Path("f"), 0, ())
    return HeldTensor(name, shape, "BF16", (Chunk(ref, tuple((0, n) for n in shape)),))


def sections(layer: Mapping[str, tuple[int, ...]], layers: int) -> list[Section]:
    rank = {name: held(name, *shape) for name, shape in layer.items()}
    head = {"lm_head.weight": held("lm_head.weight", 1000, 8)}
    return [
        Section("first", 0, ({},), ({},)),
        *(Section("layer", n, (rank,), (rank,)) for n in range(layers)),
        Section("last", 0, (head,), (head,)),
    ]


def cost(layer: Mapping[str, tuple[int, ...]], dtype: str = "fp32", layers: int = 3) -> Cost:
    model = Model("llama", (LayerSpec(None),) * layers, 4096, 32, 32, 128, 1e-5, 0.1)
    return Cost([model], sections(layer, layers), dtype)


DENSE = {"mlp.up_proj.weight": (16384, 4096), "mlp.down_proj.weight": (4096, 16384)}


def test_both_layers_and_the_states_are_counted() -> None:
    found = cost(DENSE)
    two_layers = 2 * 2 * 16384 * 4096 * 4
    assert found.memory(0, 100) > two_layers
    assert found.memory(0, 100) < 2 * two_layers + costs.PROGRAM
    states = found.memory(10_000, 100) - found.memory(0, 100)
    assert states >= 10_000 * 3 * 4096 * 4
    assert cost(DENSE, "fp64").memory(1000, 100) > found.memory(1000, 100)
    assert cost(DENSE, layers=80).memory(1000, 100) == found.memory(1000, 100)


def test_the_inside_of_a_layer_is_counted_for_as_many_tokens_as_are_computed_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = cost(DENSE).memory(0, 100)
    for constant in (plan.CHUNK_TOKENS, plan.CHUNK_BYTES):
        with monkeypatch.context() as patched:
            patched.setitem(constant, "cpu", 1)
            assert cost(DENSE).memory(0, 100) < before


def test_what_is_read_is_all_of_both_sides() -> None:
    assert cost(DENSE, layers=3).read == 2 * (3 * 2 * 16384 * 4096 * 2 + 8000 * 2)


def test_experts_are_kept_on_a_cpu_alone() -> None:
    expert = {f"mlp.experts.{n}.up_proj.weight": (16384, 4096) for n in range(64)}
    found = cost(expert)
    assert found.memory(100, 10) > 2 * 64 * 16384 * 4096 * 4
    assert found.memory(100, 10, "cuda:0") < 4 * GIB


def test_a_batch_takes_what_fits_but_never_more_than_pays() -> None:
    found = cost(DENSE)
    assert batch_tokens(found, 100, 1000 * GIB, None, "cpu") == MOST_ON_CPU
    assert batch_tokens(found, 100, 1000 * GIB, None, "cuda") == MOST_ON_GPU
    assert batch_tokens(found, 100, None, None, "cpu") == MOST_ON_CPU
    assert batch_tokens(found, 100_000, None, None, "cpu") == 100_000  # its longest sequence
    assert batch_tokens(found, 100, 1000 * GIB, 10, "cpu") == 100
    some = batch_tokens(found, 100, 4 * GIB, None, "cpu")
    assert 100 < some < MOST_ON_CPU
    assert found.memory(some, 100) <= 0.8 * 4 * GIB < found.memory(some + 1, 100)
    assert batch_tokens(found, 100, 4 * GIB, some, "cpu") == some
    with pytest.raises(OutOfMemory, match=rf"; {some} tokens fit$"):
        batch_tokens(found, 100, 4 * GIB, some + 1, "cpu")
    with pytest.raises(OutOfMemory, match="the longest question, of 100 tokens"):
        batch_tokens(found, 100, GIB, None, "cpu")


def test_a_container_has_less_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = free_memory()
    assert found is not None
    assert found > 1 << 20
    files = {
        "/proc/meminfo": "MemTotal: 64 kB\nMemAvailable:   100000 kB\n",
        "/sys/fs/cgroup/memory.max": "50000000\n",
        "/sys/fs/cgroup/memory.current": "30000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 12000000\n",
    }

    def read_text(self: Path, *_: object) -> str:
        if str(self) not in files:
            raise FileNotFoundError(self)
        return files[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert free_memory() == 32_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory() == 102_400_000
    del files["/proc/meminfo"]
    assert free_memory() is None


def test_the_time_left_follows_from_the_layers_that_were_measured() -> None:
    def batch(tokens: int) -> QuestionBatch:
        sequence = PackedSequence(bytes(4 * tokens), ())
        return QuestionBatch((sequence,), ((Question(bytes(8), 1), 0, 0),))

    pace = Pace([batch(100), batch(50)], sections({}, 3))
    assert (pace.left, pace.rate) == (None, None)
    pace.took(0, 0, 1.0)
    assert pace.left is None
    pace.took(0, 1, 4.0)
    # Two more layers and the last section, like a layer; then all five for half the tokens.
    assert pace.left == pytest.approx(3 * 4.0 + (1 + 4 * 4.0) / 2)
    pace.took(0, 2, 8.0)
    # The first layer waited for threads: those that are not measured are like the others.
    assert pace.left == pytest.approx(2 * 8.0 + (1 + 4.0 + 8.0 + 2 * 8.0) / 2)
    for section in (3, 4):
        pace.took(0, section, 2.0)
    assert pace.left == pytest.approx((1 + 4 + 8 + 2 + 2) / 2)
    assert pace.rate == pytest.approx(2 / ((1 + 4 + 8 + 2 + 2) / 2), rel=0.01)
    for section in range(5):
        pace.took(1, section, 1.0)
    assert pace.left == 0
