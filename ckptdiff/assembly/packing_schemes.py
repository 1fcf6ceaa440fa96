"""The schemes that pack weights: the tensors that each stores, and what their headers say."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.codes import NUMBERED_FP8, codes_in_blocks, codes_in_groups, codes_of_fp8
from ckptdiff.config.quantisation import Quantisation, plain_object, size
from ckptdiff.dtypes import FLOATS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptdiff.assembly.codes import Codes
    from ckptdiff.checkpoint import TensorRef

    Parts = Mapping[str, TensorRef]  # by what follows the name of the module

FP8 = frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"))
_POWERS = frozenset(("U8", "F8_E8M0"))  # dtypes that hold a power of two as its exponent
_BYTES = frozenset(("U8", "I8"))
_NVFP4_BLOCK, _MX_BLOCK = 16, 32  # columns that share a factor


@dataclass(frozen=True, slots=True)
class Found:
    """A packed weight, as the headers of its tensors describe it."""

    scheme: str
    form: str  # what shares a factor, in words
    codes: TensorRef
    shape: tuple[int, ...] | None  # of the plain weight, as it would be stored; None: not stated
    problem: str | None = None  # why no loader can read it
    numbers: Codes | None = None  # None: it is not known how to multiply them out

    @property
    def dtype(self) -> str:
        return self.codes.dtype

    @property
    def file(self) -> Path:
        return self.codes.file

    @property
    def experts(self) -> int:
        """How many experts the tensor holds; 0 if it is a plain matrix."""
        return self.codes.shape[0] if len(self.codes.shape) > 2 else 0


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a family of schemes names its tensors, and the reading of their headers."""

    mark: str  # how the name of the tensor ends that shows the scheme
    weight: str  # how the plain weight's name would end; the rest is its module
    parts: tuple[str, ...]  # how the names of all its tensors may end
    describe: Callable[[Parts, Quantisation, str], Found | None]  # None: it is something else
    open_ended: tuple[str, ...] = ()  # beginnings of further endings


def _blocks(parts: Parts, _: Quantisation, __: str) -> Found | None:
    """Describe gpt-oss: `_blocks` (experts, rows, blocks, 16 bytes), two codes in a byte.

    The plain weight is (experts, columns, rows): transformers transposes it.
    """
    (blocks, scales) = (next((parts[e] for e in ends if e in parts), None) for ends in _MX_ENDS)
    if blocks is None or scales is None or blocks.dtype != "U8" or len(blocks.shape) < 3:
        return None
    *lead, rows, count, size = blocks.shape
    columns = count * size * 2
    shape = (*lead, columns, rows) if lead else (rows, columns)
    problem = _unfit(scales, blocks.shape[:-1], f"blocks of {2 * size}")
    numbers = None if problem else codes_in_blocks(blocks, scales)
    return Found("mxfp4", _per_block(_MX_BLOCK, "E8M0"), blocks, shape, problem, numbers)


def _scaled(parts: Parts, stated: Quantisation, _: str) -> Found | None:
    """Describe codes beside a `weight_scale`: nvfp4, mxfp4, mxfp8, fp8, int8, packed integers."""
    codes = next((parts[end] for end in (".weight_packed", ".weight", "") if end in parts), None)
    scale = next((p for end, p in parts.items() if end.endswith("weight_scale")), None)
    if codes is None or not codes.shape:
        return None
    if codes.dtype == "I32":
        return _integers(parts, codes, scale, stated)
    unknown = Found(stated.method or "packed", f"codes of {codes.dtype}", codes, None)
    if scale is None:
        return unknown if ".weight_packed" in parts else None
    *lead, columns = codes.shape
    if codes.dtype in _BYTES and scale.dtype == "F8_E4M3":
        form = f"{_per_block(_NVFP4_BLOCK, 'E4M3')}, and one F32 factor for the tensor"
        problem = _unfit_blocks(scale, codes, 2 * columns, _NVFP4_BLOCK, "nvfp4")
        # ModelOpt multiplies by its second factor, compressed-tensors divides by its own.
        seconds = [ref for end, ref in parts.items() if end.endswith(_SECOND)]
        if not seconds:
            problem = problem or f"{codes.name} lacks its second factor"
        numbers = None
        if len(seconds) == 1 and not problem and _RESCALED.isdisjoint(parts):
            numbers = codes_in_groups(
                codes, scale, _NVFP4_BLOCK, in_halves=True, second=seconds[0],
                is_divisor=seconds[0].name.endswith("weight_global_scale"),
            )  # fmt: skip
        shape = _unless_fused(codes, (*lead, 2 * columns))
        return Found("nvfp4", form, codes, shape, problem, numbers)
    is_known = _RESCALED.isdisjoint(parts) and not any(end.endswith(_SECOND) for end in parts)
    if codes.dtype == "U8" and scale.dtype in _POWERS:
        problem = _unfit_blocks(scale, codes, 2 * columns, _MX_BLOCK, "mxfp4")
        shape = _unless_fused(codes, (*lead, 2 * columns))
        numbers = None
        if is_known and not problem and ".weight_packed" in parts:  # whose halves are in order
            numbers = codes_in_groups(codes, scale, _MX_BLOCK, in_halves=True)
        form = _per_block(_MX_BLOCK, "E8M0")
        return Found("mxfp4", form, codes, shape, problem, numbers)
    if codes.dtype in FP8 and scale.dtype in _POWERS:
        problem = _unfit_blocks(scale, codes, columns, _MX_BLOCK, "mxfp8")
        form = _per_block(_MX_BLOCK, "E8M0")
        numbers = None
        if is_known and not problem and codes.dtype in NUMBERED_FP8:
            numbers = codes_in_groups(codes, scale, _MX_BLOCK, in_halves=False)
        shape = _unless_fused(codes, codes.shape)
        return Found("mxfp8", form, codes, shape, problem, numbers)
    if codes.dtype in FP8 or (codes.dtype == "I8" and scale.dtype in FLOATS):
        name = "fp8" if codes.dtype in FP8 else "int8"
        form, problem = _factors(scale, codes, stated)
        numbers = codes_of_fp8(codes, scale, stated) if is_known and not problem else None
        return Found(name, form, codes, _unless_fused(codes, codes.shape), problem, numbers)
    if codes.dtype in FLOATS and ".weight_packed" not in parts:
        return None  # plain numbers, whatever the tensor beside them is
    return unknown


def _integers(
    parts: Parts, codes: TensorRef, scale: TensorRef | None, stated: Quantisation
) -> Found | None:
    """Describe integers packed into words of 32 bits, (rows, columns * bits / 32)."""
    bits, shape = stated.bits, None
    if bits and scale is not None and len(codes.shape) == len(scale.shape) == 2:
        columns = codes.shape[1] * 32 // bits
        group = stated.group or columns
        # Words may hold more than the last columns need: only whole groups state the width.
        if scale.shape == (codes.shape[0], -(-columns // group)):
            shape = (codes.shape[0], columns)
    groups = f"groups of {stated.group} with one factor" if stated.group else "with factors"
    zero = " and a zero point" if ".weight_zero_point" in parts else ""
    each = " each" if stated.group else ""
    return Found(f"int{bits}" if bits else "packed integers", groups + zero + each, codes, shape)


def _gptq(parts: Parts, stated: Quantisation, _: str) -> Found | None:
    """Describe GPTQ, words (columns * bits / 32, rows), and AWQ, words (columns, rows * bits / 32).

    Scales of both are (groups, rows).
    """
    words, scales, zeros = parts[".qweight"], parts.get(".scales"), parts.get(".qzeros")
    name = {"gptq": "GPTQ", "awq": "AWQ"}.get((stated.method or "").lower(), "GPTQ or AWQ")
    found = Found(name, "groups with a factor and a zero point each", words, None)
    if scales is None or 0 in scales.shape or not len(scales.shape) == len(words.shape) == 2:
        return found
    groups, rows = scales.shape
    bits = stated.bits
    if bits is None and zeros is not None and len(zeros.shape) == 2:
        bits = zeros.shape[1] * 32 // rows
    if not bits:
        return found
    if words.shape[1] == rows:
        name, columns = "GPTQ", words.shape[0] * 32 // bits
    elif words.shape[1] * 32 // bits == rows:
        name, columns = "AWQ", words.shape[0]
    else:
        return found
    form = f"{bits}-bit, groups of {-(-columns // groups)} with a factor and a zero point each"
    return Found(name, form, words, (rows, columns))


def _mlx(parts: Parts, stated: Quantisation, plain: str) -> Found | None:
    """Describe MLX: words (rows, columns * bits / 32), scales and biases (rows, groups)."""
    words, scales = parts.get(".weight"), parts[".scales"]
    if words is None or words.dtype != "U32" or len(words.shape) < 2:
        return None
    own = plain_object(stated.of_module.get(plain.removesuffix(".weight")))
    bits, group = (
        size(own.get("bits")) or stated.bits,
        size(own.get("group_size")) or stated.group,
    )
    biased = "a factor and a bias" if ".biases" in parts else "one factor"
    form = f"groups with {biased} each"
    shape, problem = None, None
    if bits and group:
        form = f"{bits}-bit, groups of {group} with {biased} each"
        *lead, count = words.shape
        shape = (*lead, count * 32 // bits)
        problem = _unfit(
            scales, (*lead, shape[-1] // group), f"{_by(shape)} values in groups of {group}"
        )
    return Found("MLX", form, words, shape, problem)


def _bitsandbytes4(parts: Parts, _: Quantisation, __: str) -> Found | None:
    codes, factors = parts.get(".weight"), parts[".weight.absmax"]
    if codes is None:
        return None
    kind = "4-bit"
    for end in parts:
        kind = end.rpartition("__")[2] if ".quant_state.bitsandbytes__" in end else kind
    size = 2 * codes.nbytes // max(1, prod(factors.shape))
    return Found(f"{kind} of bitsandbytes", f"blocks of {size} with one factor each", codes, None)


def _bitsandbytes8(parts: Parts, _: Quantisation, __: str) -> Found | None:
    codes = parts.get(".weight")
    if codes is None or codes.dtype != "I8":
        return None
    problem = _unfit(parts[".SCB"], codes.shape[:1], "the rows of the weight")
    return Found("int8 of bitsandbytes", "a factor for each row", codes, codes.shape, problem)


def _fused_fp8(parts: Parts, stated: Quantisation, _: str) -> Found | None:
    """Describe experts in one tensor of fp8; matrices have their factors joined to them."""
    codes, factors = parts.get(""), parts["_scale_inv"]
    if codes is None or codes.dtype not in FP8 or len(codes.shape) < 3:
        return None
    form, problem = _factors(factors, codes, stated)
    return Found("fp8", form, codes, codes.shape, problem)


def _named(scheme: str, codes: str, form: str, *, plain: bool = False) -> Callable[..., Any]:
    """Return the reading of a scheme whose names alone are known; `plain`: codes have its shape."""

    def describe(parts: Parts, _: Quantisation, __: str) -> Found | None:
        found = parts.get(codes) or next(
            (ref for end, ref in parts.items() if end.startswith(codes)), None
        )
        if found is None:
            return None
        whole = plain and (found.dtype in FP8 or found.dtype == "I8")
        return Found(scheme, form, found, found.shape if whole else None)

    return describe


# Scales that a quantised module may have besides those of its weight.
_ASIDE = (
    ".input_scale", ".output_scale", ".input_global_scale", ".pre_quant_scale", ".q_scale",
    ".k_scale", ".v_scale", ".input_zero_point", ".weight_zero_point", ".weight_g_idx",
)  # fmt: skip
# With one of these, codes times factors are not yet the plain weight.
_RESCALED = frozenset((".pre_quant_scale", ".weight_zero_point"))
_SECOND = ("weight_scale_2", "weight_global_scale")  # a factor of the factors
_HQQ = (
    ".W_q", ".scale", ".zero", ".axis", ".channel_wise", ".compute_dtype", ".encoded_state_dict",
    ".group_size", ".nbits", ".offload_meta", ".optimize", ".packing", ".quant_scale",
    ".quant_zero", ".round_zero", ".shape", ".stores_quant_config", ".unpack_view_dtype",
    ".view_as_float", ".meta",
)  # fmt: skip
_MX_ENDS = (("_blocks", ".blocks"), ("_scales", ".scales"))
_FUSED = (
    "", "_weight_scale", "_weight_scale_2", "_input_scale", "_weight_global_scale",
    "_input_global_scale",
)  # fmt: skip

SCHEMES = (
    Scheme(".qweight", ".weight", (".qweight", ".qzeros", ".scales", ".g_idx"), _gptq),
    Scheme(
        ".weight_packed",
        ".weight",
        (".weight_packed", ".weight_scale", ".weight_shape", ".weight_global_scale", *_ASIDE),
        _scaled,
    ),
    Scheme(".weight.absmax", ".weight", (".weight",), _bitsandbytes4, (".weight.",)),
    Scheme(".SCB", ".weight", (".weight", ".SCB", ".weight_format"), _bitsandbytes8),
    Scheme("_blocks", "", ("_blocks", "_scales"), _blocks),
    Scheme(".blocks", "", (".blocks", ".scales"), _blocks),
    Scheme(
        ".weight_scale",
        ".weight",
        (".weight", ".weight_scale", ".weight_scale_2", ".weight_global_scale", *_ASIDE),
        _scaled,
    ),
    Scheme("_weight_scale", "", _FUSED, _scaled),
    Scheme("_scale_inv", "", ("", "_scale_inv"), _fused_fp8),
    Scheme(".scales", ".weight", (".weight", ".scales", ".biases"), _mlx),
    Scheme(".W_q", ".weight", _HQQ, _named("HQQ", ".W_q", "groups with a factor and a zero point")),
    Scheme(
        ".weight._scale",
        ".weight",
        (".input_scale", ".output_scale"),
        _named("quanto", ".weight._data", "codes with factors", plain=True),
        (".weight._",),
    ),
    Scheme(
        "._weight_qdata",
        ".weight",
        (),
        _named("torchao", "._weight_qdata", "codes with factors", plain=True),
        ("._weight_",),
    ),
    Scheme(
        ".weight:qdata",
        ".weight",
        (),
        _named("torchao", ".weight:qdata", "codes with factors", plain=True),
        (".weight:",),
    ),
    Scheme(
        ".weight_scales",
        ".weight",
        (".weight", ".weight_scales"),
        _named("EETQ", ".weight", "a factor for each column"),
    ),
    Scheme(
        ".codebooks",
        ".weight",
        (".codes", ".codebooks", ".scales"),
        _named("AQLM", ".codes", "codes of learned codebooks, with factors"),
    ),
)
MARKS = tuple(scheme.mark for scheme in SCHEMES)


def _per_block(size: int, dtype: str) -> str:
    return f"blocks of {size} with one {dtype} factor each"


def _unless_fused(codes: TensorRef, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the plain shape of a matrix; experts in one tensor may be stored transposed."""
    return shape if len(codes.shape) <= 2 else None


def _unfit(factors: TensorRef, wanted: tuple[int, ...], what: str) -> str | None:
    """Return that factors do not have the shape that is wanted for `what`; None if they have."""
    if factors.shape == wanted:
        return None
    return f"{factors.name} is {_by(factors.shape)}; {what} take {_by(wanted)}"


def _unfit_blocks(
    factors: TensorRef, codes: TensorRef, columns: int, size: int, scheme: str
) -> str | None:
    """Return that factors are not one for each block of `size` columns; None if they are."""
    wanted = (*codes.shape[:-1], -(-columns // size))
    if len(codes.shape) > 2 and prod(factors.shape) == prod(wanted):
        return None  # experts may be stored transposed
    plain = _by((*codes.shape[:-1], columns))
    return _unfit(factors, wanted, f"{plain} values in {scheme}'s blocks of {size}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _factors(scale: TensorRef, codes: TensorRef, stated: Quantisation) -> tuple[str, str | None]:
    """Return what shares a factor, and why the factors do not fit the codes, if they do not."""
    count, rows = prod(scale.shape), prod(codes.shape[:-1])
    if count == 1:
        return "one factor for the tensor", None
    if len(codes.shape) > 2 and count == codes.shape[0]:
        return "a factor for each expert", None
    if len(codes.shape) == 1:
        return "with factors", None
    if count == rows and scale.shape[-1] in (1, codes.shape[-2]):
        return "a factor for each row", None
    if count == codes.shape[-1] * prod(codes.shape[:-2]) and 1 in scale.shape:
        return "a factor for each column", None
    down, across = stated.block
    wanted = (*codes.shape[:-2], -(-codes.shape[-2] // down), -(-codes.shape[-1] // across))
    form = f"a factor for each {down}x{across} block"
    if scale.shape == wanted:
        return form, None
    if stated.group and scale.shape == (*codes.shape[:-1], codes.shape[-1] // stated.group):
        return f"groups of {stated.group} with one factor each", None
    return "with factors", _unfit(
        scale, wanted, f"{_by(codes.shape)} values in blocks of {down}x{across}"
    )
