"""Quantised Hugging Face matrices: join block factors to their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import BlockScale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.checkpoint import TensorRef

FACTORS = "_scale_inv"  # how DeepSeek's block factors are named; not inverses
_DEFAULT_BLOCK = [128, 128]  # rows and columns, if the config states none
_SINGLE = "fp8 (one factor for the tensor)"
_FP8 = ("F8_E4M3", "F8_E5M2")


def join_factors(
    tensors: dict[str, TensorRef], settings: Mapping[str, Any]
) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Return the tensors with block factors joined to their weights, and errors by weight name.

    Factors of a (rows, columns) weight have the shape (rows / block rows, columns / block columns),
    each rounded up. Where the config states no block, a single one is that of the whole weight.
    """
    quantisation = settings.get("quantization_config")
    block = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
    is_stated = isinstance(block, list) and _is_block(block)
    rows, columns = block if isinstance(block, list) and is_stated else _DEFAULT_BLOCK
    joined = dict(tensors)
    errors = {}
    for name in [name for name in tensors if name.endswith(FACTORS)]:
        weight = name.removesuffix(FACTORS)
        ref, factors = joined.get(weight), tensors[name]
        if ref is None:
            continue
        del joined[name]
        wanted = (-(-ref.shape[0] // rows), -(-ref.shape[1] // columns)) if _is_codes(ref) else ()
        if not is_stated and factors.shape in ((), (1,)) and _is_codes(ref):
            single = replace(factors, shape=(1, 1), stride=(1, 1))
            scale = BlockScale(single, (ref.shape[0], ref.shape[1]), words=_SINGLE)
            joined[weight] = replace(ref, scale=scale)
        elif factors.shape == wanted:
            joined[weight] = replace(ref, scale=BlockScale(factors, (rows, columns)))
        else:
            errors[weight] = (
                f"{factors.file}: {factors.name} of shape {list(factors.shape)} does not give the "
                f"factors of {ref.dtype} {list(ref.shape)} in blocks of {rows}x{columns}"
            )
            del joined[weight]
    return joined, errors


def is_factor_of_matrix(name: str, tensors: Mapping[str, TensorRef]) -> bool:
    """Return whether a tensor holds the block factors of a matrix, which are joined to it."""
    if not name.endswith(FACTORS):
        return False
    codes = tensors.get(name.removesuffix(FACTORS))
    return codes is not None and len(codes.shape) <= 2


def _is_block(sizes: list[Any]) -> bool:
    return len(sizes) == 2 and all(type(n) is int and n > 0 for n in sizes)


def _is_codes(ref: TensorRef) -> bool:
    return len(ref.shape) == 2 and ref.dtype in _FP8 and 0 not in ref.shape
