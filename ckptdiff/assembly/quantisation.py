"""Quantised Hugging Face tensors: join block factors to their weights, name other schemes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.recipe import PackedWeight
from ckptdiff.checkpoint import BlockScale, TensorRef

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTORS = "_scale_inv"  # how DeepSeek's block factors are named; not inverses
_DEFAULT_BLOCK = [128, 128]  # rows and columns, if the config states none
_FP8 = ("F8_E4M3", "F8_E5M2")

# The other schemes. Of each: the suffix of the tensor that marks it, the suffix of the plain
# weight, the suffixes of the other stored tensors, and the name of the scheme.
_SCHEMES = (
    (".qweight", ".weight", (".qzeros", ".scales", ".g_idx"), "GPTQ or AWQ"),
    (
        ".weight_packed",
        ".weight",
        (".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"),
        "compressed-tensors",
    ),
    (".weight.absmax", ".weight", (".weight", ".weight."), "bitsandbytes 4-bit"),
    (".SCB", ".weight", (".weight", ".weight_format"), "bitsandbytes 8-bit"),
    ("_blocks", "", ("_scales",), "mxfp4"),
    (
        ".weight_scale",
        ".weight",
        (".weight", ".input_scale", ".weight_zero_point"),
        "a scale for each row or tensor",
    ),
)
_MARKS = tuple(mark for mark, *_ in _SCHEMES)


def join_factors(
    tensors: dict[str, TensorRef], settings: Mapping[str, Any]
) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Return the tensors with block factors joined to their weights, and errors by weight name.

    Factors of a (rows, columns) weight have the shape (rows / block rows, columns / block columns),
    each rounded up.
    """
    quantisation = settings.get("quantization_config")
    block = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
    rows, columns = block if isinstance(block, list) and _is_block(block) else _DEFAULT_BLOCK
    joined = dict(tensors)
    errors = {}
    for name in [name for name in tensors if name.endswith(FACTORS)]:
        weight = name.removesuffix(FACTORS)
        ref, factors = joined.get(weight), tensors[name]
        if ref is None:
            continue
        del joined[name]
        wanted = (-(-ref.shape[0] // rows), -(-ref.shape[1] // columns)) if _is_codes(ref) else ()
        if factors.shape == wanted:
            scale = BlockScale(factors, (rows, columns))
            joined[weight] = TensorRef(
                ref.name, ref.shape, ref.dtype, ref.file, ref.offset, ref.stride, scale
            )
        else:
            errors[weight] = (
                f"{factors.file}: {factors.name} of shape {list(factors.shape)} does not give the "
                f"factors of {ref.dtype} {list(ref.shape)} in blocks of {rows}x{columns}"
            )
            del joined[weight]
    return joined, errors


def find_packed(
    tensors: Mapping[str, TensorRef], settings: Mapping[str, Any]
) -> dict[str, PackedWeight]:
    """Return, by plain name, the weights packed by a scheme that ckptdiff does not decode."""
    quantisation = settings.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    found: dict[str, PackedWeight] = {}
    if not any(name.endswith(_MARKS) for name in tensors):
        return found
    by_prefix: dict[str, list[str]] = defaultdict(list)  # names without their last 1 to 3 parts
    for name in tensors:
        parts = name.split(".")
        for depth in (1, 2, 3):
            by_prefix[".".join(parts[:-depth])].append(name)
    for mark, weight, others, scheme in _SCHEMES:
        for name in [name for name in tensors if name.endswith(mark)]:
            prefix = name.removesuffix(mark)
            if prefix + weight in found:
                continue
            beside = by_prefix[prefix] if weight else [f"{prefix}{other}" for other in others]
            parts = [
                other
                for other in beside
                if other in tensors
                and any(
                    other == prefix + end or (end.endswith(".") and other.startswith(prefix + end))
                    for end in others
                )
            ]
            if not weight and not parts:
                continue
            label = f"{method} ({scheme})" if isinstance(method, str) else scheme
            found[prefix + weight] = PackedWeight(
                (name, *parts),
                f"quantised by {label}, whose numbers ckptdiff does not compute; dequantise it "
                f"first (stored as {', '.join(n.removeprefix(prefix) for n in (name, *parts))})",
            )
    return found


def _is_block(sizes: list[Any]) -> bool:
    return len(sizes) == 2 and all(type(n) is int and n > 0 for n in sizes)


def _is_codes(ref: TensorRef) -> bool:
    return len(ref.shape) == 2 and ref.dtype in _FP8
