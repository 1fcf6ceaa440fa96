"""Read `.metadata`, PyTorch's index of the tensors and chunks of a distributed checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.dtypes import BY_TORCH
from ckptdiff.errors import CorruptFile, MissingShard, UnsupportedLayout
from ckptdiff.formats.boxes import overlapping
from ckptdiff.formats.files import is_file_name, read_small
from ckptdiff.formats.inert import Global, Placeholder, told
from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.torch_zip import MAX_COUNT, MAX_DIMS
from ckptdiff.formats.unfinished import METADATA, why_unfinished
from ckptdiff.formats.unpickle import load
from ckptdiff.text import format_box, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "torch_dist"
BACKEND = "metadata.json"  # names Megatron's backend; a plain PyTorch folder has none
# Of Megatron. The last two write what torch.distributed.checkpoint does, and mostly no such file.
BACKENDS = (NAME, "torch_dcp", "fsdp_dtensor")
MAX_METADATA = 1_000_000_000  # bytes
MAX_KEYS = 32  # dicts inside each other, of what was saved
_OF_A_TENSOR = "TensorStorageMetadata"  # the end of what torch calls the class


@dataclass(frozen=True, slots=True)
class Record:
    """One chunk of a tensor: its box in the whole tensor, and where its bytes are stored."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int  # of the torch.save file in `file`, in bytes
    length: int


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as `.metadata` describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    records: tuple[Record, ...]
    # The keys under which it lay in the dict that was saved; the name alone where that is not told.
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry that is not read as a tensor is stored: a torch.save file inside a file."""

    file: str
    start: int  # in bytes
    length: int
    dtype: str = ""  # torch's name of it, of a tensor whose dtype is not known


def unread_tensors(opaque: Mapping[str, Place | None]) -> dict[str, str]:
    """Return the dtypes of tensors that are among the entries not read, by name."""
    return {n: place.dtype for n, place in opaque.items() if place is not None and place.dtype}


def unread_notes(opaque: Mapping[str, Place | None]) -> list[str]:
    """Return a note on tensors whose dtype is not known, if there are any."""
    unread = unread_tensors(opaque)
    if not unread:
        return []
    first = ", ".join(f"{shown(name)} ({shown(unread[name])})" for name in sorted(unread)[:3])
    more = ", …" if len(unread) > 3 else ""
    return [f"not read, since their dtype is not known: {first}{more}"]


def read_metadata(root: Path) -> tuple[list[Described], dict[str, Place | None]]:
    """Return the tensors of `.metadata`, and its entries that are no tensors, by name.

    Raises CorruptFile, UnreadableFile, or UnsupportedLayout for a backend that is not known.
    """
    file = root / METADATA
    _check_backend(root)
    if not file.exists() and (died := why_unfinished(root)):
        raise MissingShard(died)
    try:
        described, opaque = _describe(load(read_small(file, MAX_METADATA)))
    except (CorruptFile, UnsupportedLayout) as error:
        raise type(error)(f"{file}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptFile(
            f"{file}: is not what torch.distributed.checkpoint writes ({error})"
        ) from error
    named = {record.file for tensor in described for record in tensor.records}
    for name in named | {place.file for place in opaque.values() if place is not None}:
        _check_name(file, name)
    return described, opaque


def _check_name(metadata: Path, name: str) -> None:
    """Raise CorruptFile for a file that is not beside `.metadata`; there it may be a link."""
    if not is_file_name(name):
        raise CorruptFile(f"{metadata}: names {shown(name)}; only files beside it may be")


def _check_backend(root: Path) -> None:
    file = root / BACKEND
    if not file.exists():
        return
    backend = read_object(file).get("sharded_backend")
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise UnsupportedLayout(
            f"{file}: the format {shown(backend)} cannot be read, only {' and '.join(BACKENDS)}"
        )


def _describe(metadata: Placeholder) -> tuple[list[Described], dict[str, Place | None]]:
    # Offsets are texts here: that tuples of chosen numbers have one hash makes no list long.
    stored: dict[tuple[str, str], tuple[str, int, int]] = {}
    for index, info in metadata.state["storage_data"].items():  # type: ignore[index]
        key = index.state
        start, length = info.state["offset"], info.state["length"]
        fqn = _text(key["fqn"])
        if not all(type(n) is int and 0 <= n < MAX_COUNT for n in (start, length)):
            raise CorruptFile(
                f"{shown(fqn)} lies at {told(start)}, {told(length)} bytes long: not a place"
            )
        if extensions := info.state.get("transform_descriptors"):
            first = extensions[0] if isinstance(extensions, (list, tuple)) else extensions
            named = f" ({shown(first)})" if isinstance(first, str) else ""
            raise UnsupportedLayout(
                f"its chunks are packed by an extension of the writer{named}; load it with "
                "torch.distributed.checkpoint and save it without"
            )
        offsets = _sizes(key.get("offset")) if key.get("offset") is not None else ()
        stored[fqn, str(offsets)] = (_text(info.state["relative_path"]), start, length)
    described: list[Described] = []
    opaque: dict[str, Place | None] = {}
    paths = metadata.state.get("planner_data")  # type: ignore[attr-defined]
    for name, entry in metadata.state["state_dict_metadata"].items():  # type: ignore[index]
        _text(name)
        if not isinstance(entry.what, Global) or not entry.what.name.endswith(_OF_A_TENSOR):
            place = stored.get((name, "()"))
            opaque[name] = None if place is None else Place(*place)
            continue
        torch_dtype = _dtype_of(entry.state["properties"])
        dtype = BY_TORCH.get(torch_dtype)
        if dtype is None and not torch_dtype:
            raise CorruptFile(f"{shown(name)} has a dtype that cannot be read")
        records = []
        for chunk in entry.state["chunks"]:
            offsets, sizes = _sizes(chunk.state["offsets"]), _sizes(chunk.state["sizes"])
            known = stored.get((name, str(offsets)))
            if known is None:
                raise CorruptFile(f"{shown(name)}: the chunk at {told(offsets)} lies in no file")
            records.append(Record(offsets, sizes, *known))
        if dtype is None:
            first = records[0] if records else Record((), (), "", 0, 0)
            opaque[name] = Place(first.file, first.start, first.length, torch_dtype)
            continue
        shape = _sizes(entry.state["size"])
        _check_boxes(name, shape, records)
        described.append(Described(name, shape, dtype, tuple(records), _keys(name, paths)))
    return described, opaque


def _keys(name: str, paths: object) -> tuple[str, ...]:
    """Return the keys that a planner has joined to a name, as far as it tells them."""
    path = paths.get(name) if isinstance(paths, dict) else None
    if not isinstance(path, tuple) or len(path) > MAX_KEYS:
        return (name,)
    if not all(type(key) is str or (type(key) is int and 0 <= key < MAX_COUNT) for key in path):
        return (name,)
    keys = tuple(map(str, path))
    fits = sum(map(len, keys)) + len(keys) - 1 == len(name)  # else they may be long, and many
    return keys if fits and ".".join(keys) == name else (name,)


def _check_boxes(name: str, shape: tuple[int, ...], records: list[Record]) -> None:
    """Raise CorruptFile if a chunk leaves the tensor, or two of its chunks overlap.

    A gap between chunks is an error of that tensor alone, reported when it is assembled.
    """
    for record in records:
        ends = [start + size for start, size in zip(record.offsets, record.sizes, strict=False)]
        if not len(record.offsets) == len(record.sizes) == len(shape) or any(
            end > size for end, size in zip(ends, shape, strict=True)
        ):
            raise CorruptFile(
                f"{shown(name)} of shape {told(shape)} has a chunk {told(record.sizes)} "
                f"at {told(record.offsets)}"
            )
    if len(records) < 2 or not shape:
        return
    boxes = [box_of(r.offsets, r.sizes) for r in records if 0 not in r.sizes]
    try:
        found = overlapping(boxes)
    except CorruptFile as error:
        raise CorruptFile(f"{shown(name)}: {error}") from error
    if found is not None:
        a, b = map(format_box, found)
        raise CorruptFile(f"{shown(name)}: the chunks {a} and {b} overlap")


def _dtype_of(properties: Placeholder) -> str:
    """Return torch's name of the dtype in a pickled TensorProperties, or an empty text.

    The state is a tuple with the dtype in front, or a dict in older files.
    """
    state = properties.state
    dtype = state.get("dtype") if isinstance(state, dict) else state[0]  # type: ignore[index]
    return dtype.name if isinstance(dtype, Global) else ""


def _text(value: object) -> str:
    """Return a name of `.metadata`. Raises CorruptFile if it is no text."""
    if not isinstance(value, str):
        raise CorruptFile(f"{told(value)} is in the place of a name")
    return value


def _sizes(value: object) -> tuple[int, ...]:
    """Return a torch.Size, which is a call in the pickle, as a tuple. Raises CorruptFile."""
    if isinstance(value, Placeholder):
        value = value.args[0]  # type: ignore[index]
    if (
        not isinstance(value, (tuple, list))
        or len(value) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < MAX_COUNT for n in value)
    ):
        raise CorruptFile(f"{told(value)} is not a shape")
    return tuple(value)


def box_of(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the box that starts at these offsets and has these sizes."""
    return tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
