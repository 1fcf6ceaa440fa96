"""The dtypes that a conversion writes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.dtypes import BY_FLAG, FLOATS, has_numbers

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled


def cast_to(side: Assembled, dtype: str | None) -> Assembled:
    """Return the tensors with the dtypes to write: floats as `dtype`, a key of dtypes.BY_FLAG."""
    tensors = {}
    for name, tensor in side.tensors.items():
        wanted = tensor.dtype
        if tensor.is_scaled:
            wanted = "BF16"  # quantised codes are multiplied by their scales
        if dtype is not None and tensor.dtype in FLOATS and not _stays_exact(name):
            wanted = BY_FLAG[dtype]
        tensors[name] = replace(tensor, dtype=wanted)
    return replace(side, tensors=tensors)


def _stays_exact(name: str) -> bool:
    """Return whether a tensor is a buffer that Megatron and Hugging Face keep in float32."""
    return name.endswith("e_score_correction_bias")


def main_dtype(side: Assembled) -> str:
    """Return the dtype with numbers that most bytes have: the one that a config states."""
    sizes: dict[str, int] = {}
    for tensor in side.tensors.values():
        if has_numbers(tensor.dtype):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default="BF16")
