"""What a pickle may cost: keys quick to hash and compare, memory in proportion to its bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.inert import Placeholder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_ODD_KEYS = 1000  # keys of dictionaries and members of sets that are not plain
MAX_KEY_PARTS = 200  # nested parts of one such key
MAX_KEY_BITS = 4096  # of an integer in such a key: its hash is taken each time
MAX_KEY_TEXT = 1000  # characters or bytes of a text in such a key
_SMALL = 1 << 60  # an integer below it is its own hash
# What a builder may copy as a whole.
COPIED = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset})
FEW = 16  # arguments of a call; torch's have up to 8

# Memory that the objects of a pickle may take: this many bytes, and so many for each of its own.
# What torch.save writes takes some 5 for each.
MEMORY, MEMORY_PER_BYTE = 64 << 20, 32
# Bytes that an opcode takes though it is itself only one or two bytes long.
_COSTS = {
    0x28: 40,  # MARK
    0x51: 80,  # BINPERSID
    0x52: 160,  # REDUCE
    0x5D: 72,  # EMPTY_LIST
    0x64: 96,  # DICT
    0x69: 160,  # INST
    0x6C: 72,  # LIST
    0x6F: 160,  # OBJ
    0x71: 100,  # BINPUT
    0x72: 100,  # LONG_BINPUT
    0x74: 72,  # TUPLE
    0x7D: 96,  # EMPTY_DICT
    0x81: 160,  # NEWOBJ
    0x85: 64,  # TUPLE1
    0x86: 72,  # TUPLE2
    0x87: 80,  # TUPLE3
    0x8C: 60,  # SHORT_BINUNICODE
    0x8F: 232,  # EMPTY_SET
    0x91: 232,  # FROZENSET
    0x92: 240,  # NEWOBJ_EX
    0x94: 120,  # MEMOIZE
}
_STOP = 0x2E
_MOST = max(_COSTS.values())
_UNCOUNTED = bytes(set(range(256)) - _COSTS.keys())
# The bytes that follow an opcode: a fixed number, a length and so many, or lines.
_FIXED = {
    **dict.fromkeys((0x4B, 0x68, 0x71, 0x80, 0x82), 1),
    **dict.fromkeys((0x4D, 0x83), 2),
    **dict.fromkeys((0x4A, 0x6A, 0x72, 0x84), 4),
    **dict.fromkeys((0x47, 0x95), 8),
}
_SIZED = {
    **dict.fromkeys((0x43, 0x55, 0x8A, 0x8C), struct.Struct("<B")),
    **dict.fromkeys((0x42, 0x54, 0x58, 0x8B), struct.Struct("<I")),
    **dict.fromkeys((0x8D, 0x8E, 0x96), struct.Struct("<Q")),
}
_LINES = {**dict.fromkeys((0x46, 0x49, 0x4C, 0x50, 0x53, 0x56, 0x67, 0x70), 1), 0x63: 2, 0x69: 2}


def check_memory(data: bytes) -> None:
    """Raise CorruptFile if the objects of a pickle would take memory out of proportion."""
    limit = MEMORY + MEMORY_PER_BYTE * len(data)
    if _MOST * len(data) <= limit:
        return
    # Bytes that look like opcodes are at least as many as the opcodes.
    maybe = data.translate(None, _UNCOUNTED)
    if sum(maybe.count(op) * cost for op, cost in _COSTS.items()) <= limit:
        return
    cost = 0
    for op, _ in _opcodes(data):
        cost += _COSTS.get(op, 0)
        if cost > limit:
            break
    if cost > limit:
        raise CorruptFile(
            f"the pickle, of {len(data)} bytes, makes objects that take more than {limit} bytes"
        )


def end_of(data: bytes) -> int | None:
    """Return where the first pickle in `data` ends; None if its end is not there."""
    return next((pos for op, pos in _opcodes(data) if op == _STOP and pos <= len(data)), None)


def _opcodes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each opcode of a pickle up to STOP, and where the next one is."""
    pos = 0
    while pos < len(data):
        op = data[pos]
        pos += 1
        if op in _SIZED:
            if pos + _SIZED[op].size > len(data):
                return  # the machine says that it ends there
            pos += _SIZED[op].size + _SIZED[op].unpack_from(data, pos)[0]
        elif op in _LINES:
            for _ in range(_LINES[op]):
                pos = data.find(b"\n", pos) + 1 or len(data)
        else:
            pos += _FIXED.get(op, 0)
        yield op, pos
        if op == _STOP:
            return


class Limits:
    """Counts what a pickle gives to `hash` and has copied, before it is."""

    def __init__(self, nbytes: int) -> None:
        self._odd_keys = 0
        self._copied = 0
        self._most_copied = 4 * nbytes + 10_000

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Raise CorruptFile for keys made to be slow: deeply nested, or many with the same hash.

        Python's hash of every multiple of 2**61 - 1 is 0, those of tuples can be chosen, and
        hashing nested tuples has no limit.
        """
        for key in keys:
            kind = type(key)
            # A placeholder's hash is its place in memory, and few floats have the same hash.
            if (
                kind is str
                or (kind is int and -_SMALL < key < _SMALL)
                or kind in (bytes, float, bool, type(None))
                or kind is Placeholder
            ):
                continue
            self._odd_keys += 1
            if self._odd_keys > MAX_ODD_KEYS:
                raise CorruptFile(f"the pickle has more than {MAX_ODD_KEYS} odd keys")
            _check_parts(key)

    def count_call(self, args: tuple[Any, ...], *, pairs: bool) -> None:
        """Count the elements that a builder copies; raise CorruptFile if they would fill memory.

        A short pickle can have one long container copied again and again. `pairs` says that the
        builder makes a dictionary of them.
        """
        first = args[0] if args else None
        if len(args) > FEW:
            self._copied += len(args)
        if isinstance(first, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
            self._copied += len(first)
        if self._copied > self._most_copied:
            raise CorruptFile("the pickle copies more than it holds")
        if not isinstance(first, (list, tuple, set, frozenset)):
            return
        if not pairs:
            self.check_keys(first)
        elif all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in first):
            self.check_keys(pair[0] for pair in first)
        else:
            raise CorruptFile("the pickle makes a dictionary of something that is not pairs")


def _check_parts(key: object) -> None:
    """Raise CorruptFile for a key that is nested deeply, or has large parts."""
    parts = [key]
    for part in parts:
        if isinstance(part, (tuple, frozenset)):
            if len(parts) + len(part) > MAX_KEY_PARTS:
                raise CorruptFile("the pickle has a key of too many parts")
            parts.extend(part)
        elif isinstance(part, int):
            if part.bit_length() > MAX_KEY_BITS:
                raise CorruptFile("the pickle has a key with too large an integer")
        elif isinstance(part, (str, bytes)) and len(part) > MAX_KEY_TEXT:
            raise CorruptFile("the pickle has a key with too long a text")
