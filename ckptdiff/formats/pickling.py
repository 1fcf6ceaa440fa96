"""Write pickles of plain values and tensors; classes are written by name and never imported."""

from __future__ import annotations

import struct
from argparse import Namespace
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import contiguous
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.formats.torch_zip import STORAGES

if TYPE_CHECKING:
    from collections.abc import Iterable

_STORAGE_OF = {word: name for name, word in STORAGES.items() if name != "UntypedStorage"}
STORABLE = frozenset(_STORAGE_OF)  # the dtypes that can be written


@dataclass(frozen=True, slots=True)
class Blank:
    """A tensor in a pickle: its bytes are written elsewhere in the file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function, by the name under which the reader imports it."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call in the pickle: the reader calls `what` with these arguments."""

    what: Named
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """An instance that the reader makes without its constructor and gives this state."""

    what: Named
    state: Any


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dict as (key, value) pairs, for keys that are hashable only in the reader."""

    items: Iterable[tuple[Any, Any]]


_NAMESPACE = Named("argparse", "Namespace")
_REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
_ORDERED = Called(Named("collections", "OrderedDict"))


class Pickle:
    """Writes pickle protocol 2, as torch.save does."""

    def __init__(self) -> None:
        self._out = bytearray(b"\x80\x02")
        self._memo: dict[Named, int] = {}  # each name's index in the reader's memo
        self.tensors: list[Blank] = []  # in the order of their storage keys

    def dump(self, tree: object) -> bytes:
        """Return the pickle of a tree. Raises TypeError for a value that cannot be written."""
        self._value(tree)
        return bytes(self._out + b".")

    def _value(self, value: object) -> None:
        out = self._out
        match value:
            case None:
                out += b"N"
            case bool():
                out += b"\x88" if value else b"\x89"
            case int():
                self._integer(value)
            case float():
                out += struct.pack(">cd", b"G", value)
            case str():
                text = value.encode()
                out += struct.pack("<cI", b"X", len(text)) + text
            case dict():
                self._value(Pairs(value.items()))
            case Pairs():
                out += b"}("
                for key, item in value.items:
                    self._value(key)
                    self._value(item)
                out += b"u"
            case list():
                out += b"]("
                for item in value:
                    self._value(item)
                out += b"e"
            case tuple():
                out += b"("
                for item in value:
                    self._value(item)
                out += b"t"
            case Namespace():
                self._value(Built(_NAMESPACE, vars(value)))
            case Named():
                self._named(value)
            case Called():
                self._value(value.what)
                self._value(value.arguments)
                out += b"R"
            case Built():
                self._value(value.what)
                out += b")\x81"
                self._value(value.state)
                out += b"b"
            case Blank():
                self._tensor(value)
            case _:
                raise TypeError(f"{type(value).__name__} cannot be written")

    def _named(self, what: Named) -> None:
        number = self._memo.get(what)
        if number is not None:
            self._out += struct.pack("<cI", b"j", number)
            return
        self._memo[what] = number = len(self._memo)
        self._out += f"c{what.module}\n{what.name}\n".encode() + struct.pack("<cI", b"r", number)

    def _integer(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._out += struct.pack("<ci", b"J", value)
            return
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        self._out += struct.pack("<cB", b"\x8a", len(content)) + content

    def _tensor(self, tensor: Blank) -> None:
        storage = Named("torch", _STORAGE_OF[tensor.dtype])
        key = str(len(self.tensors))
        self.tensors.append(tensor)
        out = self._out
        self._value(_REBUILD)
        out += b"("
        self._value(("storage", storage, key, "cpu", prod(tensor.shape)))
        out += b"Q"
        self._value(0)
        self._value(tensor.shape)
        self._value(contiguous(tensor.shape))
        self._value(False)  # noqa: FBT003 -- requires_grad
        self._value(_ORDERED)
        out += b"tR"
