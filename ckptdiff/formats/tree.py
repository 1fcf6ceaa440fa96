"""Flatten what `torch_zip.read_index` returns: weights by dotted name, all else as entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Entry, TensorRef
from ckptdiff.errors import CorruptFile, UnsupportedLayout
from ckptdiff.formats.inert import Global, Placeholder, told
from ckptdiff.formats.numpy_scalars import number_of
from ckptdiff.formats.torch_zip import UnsupportedTensor, named
from ckptdiff.text import format_shape, printable, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_QUANTISED = Global("torch._utils", "_rebuild_qtensor")
_QUANTISING = ("torchao", "quanto", "optimum", "bitsandbytes", "hqq")  # packages
_DEQUANTISE = ": save what its .dequantize() returns instead"
MAX_DEPTH = 30
MAX_ENTRIES = 200_000
MAX_TEXT = 200  # characters of a value that are kept
MAX_NAME = 10_000  # characters of a dotted name
MAX_BITS = 256  # of an integer that is kept as a number
MAX_VALUES = 200_000  # elements of lists in args, those of a list that is there twice counted twice
MAX_CHARACTERS = 100_000_000  # of texts in args, counted likewise


def weights(tree: dict[Any, Any]) -> dict[str, TensorRef]:
    """Return a model's tensors by dotted name.

    Raises UnsupportedLayout for a tensor that is not plain strided elements, or a repeated name,
    CorruptFile for names or nesting made to fill memory.
    """
    tensors: dict[str, TensorRef] = {}
    for name, leaf in leaves(tree, most=None):
        if is_extra_state(name):
            continue
        if isinstance(leaf, TensorRef):
            if name in tensors:
                raise UnsupportedLayout(f"two tensors are called {shown(name)}")
            tensors[name] = named(leaf, name)
        else:
            check_other(name, leaf)
    return tensors


def check_other(name: str, leaf: object) -> None:
    """Raise UnsupportedLayout for a leaf that is no TensorRef, and a tensor or has some inside."""
    if isinstance(leaf, UnsupportedTensor):
        way = _DEQUANTISE if _is_quantised(leaf.kind) else ""
        raise UnsupportedLayout(f"{shown(name)} is a {leaf.what}, which cannot be compared{way}")
    if isinstance(leaf, Placeholder) and _is_tensor(leaf.what):
        way = _DEQUANTISE if leaf.what == _QUANTISED else ""
        raise UnsupportedLayout(f"{shown(name)} is no plain tensor ({told(leaf.what)}){way}")
    if any(isinstance(part, (TensorRef, UnsupportedTensor)) for _, part in _children(leaf) or ()):
        raise UnsupportedLayout(
            f"{shown(name)} is nested too deep, or is there under another name as well"
        )


def _is_quantised(kind: object) -> bool:
    """Return whether a class of tensors is one of a library that quantises."""
    return isinstance(kind, Global) and kind.module.partition(".")[0] in _QUANTISING


def extra_states(tree: dict[Any, Any]) -> list[Entry]:
    """Return everything of a model that is not a weight, as entries."""
    return [
        entry(name, leaf)
        for name, leaf in leaves(tree)
        if is_extra_state(name) or not isinstance(leaf, TensorRef)
    ]


def is_extra_state(name: str) -> bool:
    """Return whether a name in a state dict is that of a module's extra state."""
    return name.endswith("_extra_state") or "._extra_state" in name


def _is_tensor(what: object) -> bool:
    """Return whether this is one of torch's functions that rebuild a special kind of tensor."""
    return isinstance(what, Global) and what.module == "torch._utils"


def entries(name: str, tree: object) -> list[Entry]:
    """Return every leaf of `tree` as an entry named `name` and the leaf's path."""
    return [entry(path, leaf) for path, leaf in leaves(tree, name)]


def entry(name: str, leaf: object) -> Entry:
    """Return a leaf as an entry, with name and text safe to print."""
    name = printable(name)
    if isinstance(leaf, TensorRef):
        return Entry(name, "tensor", f"{leaf.dtype} {format_shape(leaf.shape)}")
    if isinstance(leaf, UnsupportedTensor):
        return Entry(name, "opaque", leaf.what)
    text = printable(text_of(leaf))
    return Entry(name, "opaque" if isinstance(leaf, Placeholder) else "value", text)


def plain_value(value: object) -> object:
    """Return a value of args as one that JSON has: enums, dtypes and other objects become text.

    Numbers of numpy become plain ones.
    """
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return value
    if (number := number_of(value)) is not None:
        return number
    if isinstance(value, (list, tuple)) and len(value) <= 1000:
        return [text_of(v) if isinstance(v, (list, tuple, dict)) else plain_value(v) for v in value]
    return text_of(value)


def text_of(leaf: object) -> str:
    """Return a short text for any leaf, at most MAX_TEXT characters of a value."""
    if isinstance(leaf, Global):
        return str(leaf)[:MAX_TEXT]
    if isinstance(leaf, Placeholder):
        arguments = leaf.args if isinstance(leaf.args, tuple) else ()
        shown = [text_of(a) for a in arguments[:3] if isinstance(a, (str, int, float, Global))]
        what = leaf.what if isinstance(leaf.what, Global) else "a call"
        return f"{what}({', '.join(shown)})"[:MAX_TEXT]
    if isinstance(leaf, (bytes, bytearray)):
        return f"{len(leaf)} bytes"
    if isinstance(leaf, int) and leaf.bit_length() > MAX_BITS:
        return f"an integer of {leaf.bit_length()} bits"
    if isinstance(leaf, (dict, list, tuple, set, frozenset)):
        return f"{type(leaf).__name__} of {len(leaf)}"
    return str(leaf)[:MAX_TEXT]


def plain_values(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields of args by name, as values that JSON has.

    Raises CorruptFile if two fields have one name, or if parts that are shared would fill memory.
    """
    found: dict[str, Any] = {}
    values = characters = 0
    for key, value in fields.items():
        name = _name(key)
        if name in found:
            raise CorruptFile(f"two args are called {shown(name)}")
        found[name] = plain = plain_value(value)
        for part in plain if isinstance(plain, list) else (plain,):
            values += 1
            characters += len(part) if isinstance(part, str) else 0
        if characters > MAX_CHARACTERS or values > MAX_VALUES + len(fields):
            raise CorruptFile("the args hold more values, or longer ones, than can be right")
    return found


def leaves(
    tree: object, name: str = "", most: int | None = MAX_ENTRIES
) -> Iterator[tuple[str, object]]:
    """Yield dotted names and leaves of nested containers in order.

    A container that is reached again, or is too deep, is a leaf. After `most` leaves, the last one
    is `… and more`. A name that is too long is shortened; without `most` it raises CorruptFile.
    """
    seen: set[int] = set()
    count = 0
    # Of each node the name of what it is in, and its key there: texts of all would fill memory.
    stack: list[tuple[str, object, object, int]] = [("", name, tree, 0)]
    while stack:
        outer, key, node, depth = stack.pop()
        path = f"{outer}.{_name(key)}" if outer else _name(key)
        if len(path) > MAX_NAME:
            if most is None:
                raise CorruptFile(f"a name of {len(path)} characters: {shown(path)}")
            yield shown(path), "… and more"
            continue
        children = None if depth >= MAX_DEPTH or id(node) in seen else _children(node)
        if not children:
            count += 1
            if most is not None and count > most:
                yield path, "… and more"
                return
            yield path, node
            continue
        seen.add(id(node))
        stack.extend((path, key, child, depth + 1) for key, child in reversed(children))


def _children(node: object) -> list[tuple[object, object]] | None:
    """Return the parts of a container by key; None for a leaf, such as a long list of numbers."""
    if isinstance(node, dict):
        return list(node.items())
    if isinstance(node, (list, tuple)):
        if len(node) > 64 and not isinstance(node[0], (dict, list, tuple, TensorRef, Placeholder)):
            return None
        return [(str(i), value) for i, value in enumerate(node)]
    if isinstance(node, Placeholder) and isinstance(node.state, dict):
        return list(node.state.items())
    return None


def _name(key: object) -> str:
    return key if isinstance(key, str) else text_of(key)
