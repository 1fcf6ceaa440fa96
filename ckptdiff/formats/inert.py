"""What a pickle is read into without running anything: placeholders, and plain values."""

from __future__ import annotations

import codecs
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Builders = Mapping[tuple[str, str], Callable[..., Any]]

MOST_TOLD = 80  # characters of a value in an error


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function in a pickle; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Placeholder:
    """A call in a pickle that is recorded and not made: what would be called, and with what."""

    what: object  # a Global, as a rule
    args: object = ()
    state: object = None
    items: list[Any] = field(
        default_factory=list
    )  # appended items, or (key, value) pairs set on it


def told(value: object) -> str:
    """Return a short text of anything in a pickle, for an error."""
    if isinstance(value, Placeholder):
        return f"a call of {told(value.what) if isinstance(value.what, Global) else 'a call'}"
    return str(value)[:MOST_TOLD] if isinstance(value, Global) else shown(value, MOST_TOLD)


def _codecs_encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise CorruptFile(f"bytes spelled in the encoding {told(encoding)}")
    return text.encode("latin1")


def _dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    return dict(items)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(items)


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(items)


def _from_bytes(kind: type[bytes] | type[bytearray], content: object = b"", *_: object) -> object:
    """Return bytes made from bytes. Raises CorruptFile: `bytes(n)` would make n zeros."""
    if not isinstance(content, (bytes, bytearray)):
        raise CorruptFile(f"{kind.__name__} made of {type(content).__name__}")
    return kind(content)


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": _set,
    "frozenset": _frozenset,
    "bytearray": partial(_from_bytes, bytearray),
    "bytes": partial(_from_bytes, bytes),
    "complex": complex,
}
# Plain values that pickles make by calls: what is called, and our function instead of it.
PLAIN: Builders = {
    ("_codecs", "encode"): _codecs_encode,
    ("collections", "OrderedDict"): _dict,
    **{("builtins", name): build for name, build in _BUILTINS.items()},
    **{("__builtin__", name): build for name, build in _BUILTINS.items()},
}


def signed(raw: bytes) -> int:
    """Return a little-endian integer in two's complement."""
    return int.from_bytes(raw, "little", signed=True)


def escaped(raw: bytes) -> str:
    """Return a text with its backslash escapes resolved, as pickle's STRING opcode does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown escape stays as it is, as in pickle
        return latin1(codecs.escape_decode(raw)[0])


def latin1(raw: bytes) -> str:
    return raw.decode("latin1")
