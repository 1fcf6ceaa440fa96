"""A tensor of another shape than the config promises is a misfit, whatever part it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.arch.base import row
from ckptdiff.arch.promised_shapes import promised_sizes
from ckptdiff.assembly.assemble import assemble
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from tests.support.conversions import converted
from tests.support.qwen3_moe import shapes, write_qwen3_moe

if TYPE_CHECKING:
    from pathlib import Path

OF_ONE_LAYER = [n for n in shapes() if "layers.1" in n or "layers" not in n]
OF_ONE_LAYER = [n for n in OF_ONE_LAYER if "experts." not in n or "experts.3." in n]


@pytest.mark.parametrize("name", OF_ONE_LAYER)
def test_each_dimension_of_each_tensor_is_promised(tmp_path: Path, name: str) -> None:
    whole = shapes()[name]
    for dim in range(len(whole)):
        shape = tuple(n - (d == dim) for d, n in enumerate(whole))
        write_qwen3_moe(tmp_path / f"{dim}", **{name: shape})
        (misfit,) = assemble(open_checkpoint(tmp_path / f"{dim}")).shortfall.misfits
        assert (misfit.name, misfit.shape, misfit.promised) == (name, shape, whole)
        with pytest.raises(UnsupportedLayout, match="not what its config promises"):
            converted(tmp_path / f"{dim}", tmp_path / "out", "hf")


def test_a_tower_beside_the_language_model_has_sizes_of_its_own(tmp_path: Path) -> None:
    write_qwen3_moe(tmp_path / "hf")
    side = assemble(open_checkpoint(tmp_path / "hf"))
    assert side.architecture is not None
    assert side.config is not None
    native, stored = "decoder.layers.{layer}.self_attention.linear_proj.weight", "o_proj.{layer}"
    of_model, of_tower = (
        row(prefix + native, stored, lambda c: c.hidden_size) for prefix in ("", "vision_model.")
    )
    assert promised_sizes(side.architecture, of_model, side.config) == {0: side.config.hidden_size}
    assert promised_sizes(side.architecture, of_tower, side.config) == {}
