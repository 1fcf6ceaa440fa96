"""Read `.metadata`, PyTorch's index of the tensors and chunks of a distributed checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.dtypes import BY_TORCH
from ckptdiff.errors import CorruptFile, MissingShard, UnsupportedLayout
from ckptdiff.formats.files import read_small
from ckptdiff.formats.inert import Global, Placeholder
from ckptdiff.formats.unfinished import METADATA, why_unfinished
from ckptdiff.formats.unpickle import load

if TYPE_CHECKING:
    from pathlib import Path

NAME = "torch_dist"
BACKEND = "metadata.json"  # names Megatron's backend; a plain PyTorch folder has none
# Of Megatron; the second writes the parameters of Megatron-FSDP, under the names of its wrappers.
BACKENDS = (NAME, "fsdp_dtensor")
MAX_METADATA = 2_000_000_000  # bytes


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry that is no tensor is stored: a torch.save file inside a file."""

    file: str
    start: int  # in bytes
    length: int


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
    except CorruptFile as error:
        raise CorruptFile(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(
            f"{file}: is not what torch.distributed.checkpoint writes ({error})"
        ) from error
    named = {record.file for tensor in described for record in tensor.records}
    for name in named | {place.file for place in opaque.values() if place is not None}:
        _check_name(file, name)
    return described, opaque


def _check_name(metadata: Path, name: str) -> None:
    """Raise CorruptFile for a file that is not beside `.metadata`; there it may be a link."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise CorruptFile(f"{metadata}: names {name!r}; only files beside it may be")


def _check_backend(root: Path) -> None:
    file = root / BACKEND
    if not file.exists():
        return
    try:
        backend = json.loads(read_small(file, 1_000_000)).get("sharded_backend")
    except (ValueError, AttributeError) as error:
        raise CorruptFile(f"{file}: is not a JSON object ({error})") from error
    if backend not in BACKENDS:
        raise UnsupportedLayout(
            f"{file}: the format {backend!r} cannot be read, only {' and '.join(BACKENDS)}"
        )


def _describe(metadata: Placeholder) -> tuple[list[Described], dict[str, Place | None]]:
    stored: dict[tuple[str, tuple[int, ...]], tuple[str, int, int]] = {}
    for index, info in metadata.state["storage_data"].items():  # type: ignore[index]
        key = index.state
        start, length = info.state["offset"], info.state["length"]
        if type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise CorruptFile(f"{key['fqn']!r} lies at {start!r}, {length!r} bytes long")
        offsets = _sizes(key.get("offset")) if key.get("offset") is not None else ()
        stored[str(key["fqn"]), offsets] = (str(info.state["relative_path"]), start, length)
    described: list[Described] = []
    opaque: dict[str, Place | None] = {}
    for name, entry in metadata.state["state_dict_metadata"].items():  # type: ignore[index]
        if not str(entry.what).endswith("TensorStorageMetadata"):
            place = stored.get((str(name), ()))
            opaque[str(name)] = None if place is None else Place(*place)
            continue
        dtype = BY_TORCH.get(_dtype_of(entry.state["properties"]))
        if dtype is None:
            raise CorruptFile(f"{name!r} has a dtype that cannot be read")
        records = []
        for chunk in entry.state["chunks"]:
            offsets, sizes = _sizes(chunk.state["offsets"]), _sizes(chunk.state["sizes"])
            if (str(name), offsets) not in stored:
                raise CorruptFile(f"{name!r}: the chunk at {list(offsets)} lies in no file")
            records.append(Record(offsets, sizes, *stored[str(name), offsets]))
        shape = _sizes(entry.state["size"])
        _check_boxes(str(name), shape, records)
        described.append(Described(str(name), shape, dtype, tuple(records)))
    return described, opaque


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
                f"{name!r} of shape {list(shape)} has a chunk {list(record.sizes)} "
                f"at {list(record.offsets)}"
            )
    if len(records) < 2 or not shape:
        return
    boxes = [box_of(r.offsets, r.sizes) for r in records if 0 not in r.sizes]
    # Sweep along the dimension that is split most: few boxes overlap in it.
    dim = max(range(len(shape)), key=lambda d: len({box[d][0] for box in boxes}))
    overlapping: list[tuple[tuple[int, int], ...]] = []
    for box in sorted(boxes, key=lambda box: box[dim]):
        overlapping = [other for other in overlapping if other[dim][1] > box[dim][0]]
        for other in overlapping:
            if all(p[0] < q[1] and q[0] < p[1] for p, q in zip(box, other, strict=True)):
                raise CorruptFile(f"{name!r}: the chunks {list(other)} and {list(box)} overlap")
        overlapping.append(box)


def _dtype_of(properties: Placeholder) -> str:
    """Return torch's name of the dtype in a pickled TensorProperties, or an empty text.

    The state is a tuple with the dtype in front, or a dict in older files.
    """
    state = properties.state
    dtype = state.get("dtype") if isinstance(state, dict) else state[0]  # type: ignore[index]
    return dtype.name if isinstance(dtype, Global) else ""


def _sizes(value: object) -> tuple[int, ...]:
    """Return a torch.Size, which is a call in the pickle, as a tuple. Raises CorruptFile."""
    if isinstance(value, Placeholder):
        value = value.args[0]  # type: ignore[index]
    if not isinstance(value, (tuple, list)) or not all(
        type(n) is int and 0 <= n < 1 << 62 for n in value
    ):
        raise CorruptFile(f"{str(value)[:60]} is not a shape")
    return tuple(value)


def box_of(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the box that starts at these offsets and has these sizes."""
    return tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
