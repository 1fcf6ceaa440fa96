"""Quantised Hugging Face tensors: block factors join their weight, other schemes are named."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.recipe import PackedWeight
from ckptdiff.checkpoint import BlockScale, TensorRef

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTORS = "_scale_inv"  # behind the name of the weight; DeepSeek's, a factor in spite of its name
_BLOCK = [128, 128]  # where the config does not say
_EIGHT_BITS = ("F8_E4M3", "F8_E5M2")

# A tensor that gives a scheme away, by the end of its name; what stands for the weight in its
# place; and the ends of the other names of that scheme.
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
    """Return the tensors with block factors joined to their weights, and what does not fit."""
    quantisation = settings.get("quantization_config")
    block = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
    rows, columns = block if isinstance(block, list) and _is_block(block) else _BLOCK
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
    """Return the weights whose numbers are packed in a way that is not computed, by plain name."""
    quantisation = settings.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    found: dict[str, PackedWeight] = {}
    if not any(name.endswith(_MARKS) for name in tensors):
        return found
    below: dict[str, list[str]] = defaultdict(list)  # names by what is in front of their last dots
    for name in tensors:
        parts = name.split(".")
        for depth in (1, 2, 3):
            below[".".join(parts[:-depth])].append(name)
    for mark, weight, others, scheme in _SCHEMES:
        for name in [name for name in tensors if name.endswith(mark)]:
            front = name.removesuffix(mark)
            if front + weight in found:
                continue
            beside = below[front] if weight else [f"{front}{other}" for other in others]
            parts = [
                other
                for other in beside
                if other in tensors
                and any(
                    other == front + end or (end.endswith(".") and other.startswith(front + end))
                    for end in others
                )
            ]
            if not weight and not parts:
                continue
            what = f"{method} ({scheme})" if isinstance(method, str) else scheme
            found[front + weight] = PackedWeight(
                (name, *parts),
                f"quantised by {what}, whose numbers ckptdiff does not compute; dequantise it "
                f"first (stored as {', '.join(n.removeprefix(front) for n in (name, *parts))})",
            )
    return found


def _is_block(sizes: list[Any]) -> bool:
    return len(sizes) == 2 and all(type(n) is int and n > 0 for n in sizes)


def _is_codes(ref: TensorRef) -> bool:
    return len(ref.shape) == 2 and ref.dtype in _EIGHT_BITS
