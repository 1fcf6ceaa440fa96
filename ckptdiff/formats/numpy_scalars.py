"""Numbers of numpy in a pickle, read without numpy."""

from __future__ import annotations

import struct

from ckptdiff.formats.inert import Global, Placeholder

# What numpy's dtypes are called in a pickle, and in the module `struct`.
_CODES = {
    "b1": "?",
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
}


def number_of(value: object) -> bool | int | float | None:
    """Return the number that a call of numpy's makes; None if it makes something else."""
    if not isinstance(value, Placeholder) or not isinstance(value.args, tuple):
        return None
    what = value.what
    if not isinstance(what, Global) or not what.module.startswith("numpy") or len(value.args) != 2:
        return None
    dtype, raw = value.args
    if what.name != "scalar" or not isinstance(dtype, Placeholder) or not isinstance(raw, bytes):
        return None
    names = dtype.args if isinstance(dtype.args, tuple) else ()
    code = _CODES.get(names[0]) if names and isinstance(names[0], str) else None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and dtype.state[1:] else "|"
    if code is None or len(raw) != struct.calcsize(f"<{code}"):
        return None
    (number,) = struct.unpack(f"{'>' if order == '>' else '<'}{code}", raw)
    return number if isinstance(number, (bool, int, float)) else None
