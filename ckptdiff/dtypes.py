"""Every dtype: its name in safetensors, torch and command lines, its size, its float format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Float:
    """A binary floating-point format with a sign bit on top."""

    precision: int  # significant bits, the hidden one included
    min_exponent: int  # of the smallest normal number
    bits: int
    overflow: int  # the bits that a too large number rounds to: infinity, or NaN if there is none

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next larger number."""
        return 2.0 ** (1 - self.precision)


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype; its key in DTYPES is its name in safetensors."""

    nbytes: int  # of one element
    torch: str  # its name in torch, without the `torch.`
    flag: str | None = None  # its name in options of Megatron-LM and ckptdiff, such as bf16
    float: Float | None = None  # None: an integer, or no plain floating-point format


DTYPES = {
    "F64": Dtype(8, "float64", "fp64", Float(53, -1022, 64, 0x7FF0 << 48)),
    "F32": Dtype(4, "float32", "fp32", Float(24, -126, 32, 0x7F80_0000)),
    "F16": Dtype(2, "float16", "fp16", Float(11, -14, 16, 0x7C00)),
    "BF16": Dtype(2, "bfloat16", "bf16", Float(8, -126, 16, 0x7F80)),
    "F8_E5M2": Dtype(1, "float8_e5m2", None, Float(3, -14, 8, 0x7C)),
    "F8_E4M3": Dtype(1, "float8_e4m3fn", None, Float(4, -6, 8, 0x7F)),
    "F8_E8M0": Dtype(1, "float8_e8m0fnu"),  # powers of two; no sign, no zero
    "I64": Dtype(8, "int64"),
    "I32": Dtype(4, "int32"),
    "I16": Dtype(2, "int16"),
    "I8": Dtype(1, "int8"),
    "U64": Dtype(8, "uint64"),
    "U32": Dtype(4, "uint32"),
    "U16": Dtype(2, "uint16"),
    "U8": Dtype(1, "uint8"),
    "BOOL": Dtype(1, "bool"),
    "C64": Dtype(8, "complex64"),
    "F8_E4M3FNUZ": Dtype(1, "float8_e4m3fnuz"),  # of AMD's MI300: no infinity, no -0
    "F8_E5M2FNUZ": Dtype(1, "float8_e5m2fnuz"),
}
# Their numbers are not computed: elements are compared and copied as unsigned integers.
AS_BITS = {"C64": "U64", "F8_E4M3FNUZ": "U8", "F8_E5M2FNUZ": "U8"}
# Bits of an element, where it has no byte of its own. Tensors of such a dtype, and of one that is
# in no table here, are compared and copied as a whole.
BELOW_A_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
ITEMSIZE = {word: dtype.nbytes for word, dtype in DTYPES.items()}
FLOATS = {word: dtype.float for word, dtype in DTYPES.items() if dtype.float}  # widest first
INTEGERS = DTYPES.keys() - FLOATS.keys() - AS_BITS.keys() - {"F8_E8M0"}
BY_TORCH = {dtype.torch: word for word, dtype in DTYPES.items()}
BY_FLAG = {dtype.flag: word for word, dtype in DTYPES.items() if dtype.flag}

_BY_WIDTH = list(FLOATS)


def has_numbers(dtype: str) -> bool:
    """Return whether the numbers of a dtype are computed; else only its bits are compared."""
    return dtype in DTYPES and dtype not in AS_BITS


def narrower(a: str, b: str) -> str:
    """Return the float dtype in which two dtypes, not both integers, are compared.

    Of two floats it is the narrower one, of an integer and a float the float. F8_E8M0 cannot hold
    signs and zeros, so its values are rounded to the other dtype.
    """
    floats = [dtype for dtype in (a, b) if dtype in FLOATS]
    if floats:
        return max(floats, key=_BY_WIDTH.index)
    return "F8_E8M0" if a == b else "F32"
