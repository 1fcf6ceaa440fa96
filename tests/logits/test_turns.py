"""Gate and up that take turns in the experts' first layer, as args say and fused kernels want it.

The order is that of `_remove_glu_interleaving` in megatron-core's moe/experts.py, the other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.logit_runs import compare_logits
from tests.support.native import Native
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Make = Callable[..., Path]

TURN = 8
MIXTRAL = {"family": "mixtral"}


def in_turns(rows: Tensor) -> Tensor:
    return rows.reshape(2, -1, TURN, rows.shape[1]).transpose(0, 1).reshape(rows.shape).contiguous()


def planted(folder: Path, out: Path, **args: Any) -> Path:
    native = Native.read(folder, trusted=True)
    for state in native.states.values():
        vars(state["args"]).update(args)
        for name, value in state["model"].items():
            if ".experts." in name and name.endswith("linear_fc1.weight"):
                state["model"][name] = in_turns(value)
    return native.write(out)


@pytest.mark.parametrize("tp", [1, 2])
def test_they_are_read_so(tp: int, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path) -> None:
    hf, megatron = tiny_hf(**MIXTRAL), tiny_megatron(MIXTRAL, tp=tp)
    right = planted(megatron, tmp_path / "right", moe_mlp_glu_interleave_size=TURN)
    assert compare(hf, right).statuses == {}
    found = compare_logits(hf, right, (3, 1, 4, 1, 5))
    assert found.verdict == "arithmetic", found.sentence


def test_without_the_arg_they_differ(tiny_hf: Make, tiny_megatron: Make, tmp_path: Path) -> None:
    wrong = planted(tiny_megatron(MIXTRAL), tmp_path / "wrong")
    assert set(compare(tiny_hf(**MIXTRAL), wrong).statuses.values()) == {"differ"}
