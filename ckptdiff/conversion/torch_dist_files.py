"""The files of Megatron's `torch_dist` format: whole tensors, in chunks listed in `.metadata`.

Sources: torch.distributed.checkpoint.metadata and .filesystem; megatron.core.dist_checkpointing
and the sharded_state_dict of megatron.core's modules, 0.16.1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.modules import distributed_states
from ckptdiff.arch.naming import (
    distributed,
    in_decoder_layer,
    layer_prefix,
    split_native,
    templates_by_layer,
    templates_of,
)
from ckptdiff.assembly.compose import rows_of
from ckptdiff.config.fields.shape import HYBRID_PATTERNS
from ckptdiff.conversion.output_file import OutputFile
from ckptdiff.dtypes import BY_TORCH, ITEMSIZE
from ckptdiff.formats.common_state import COMMON
from ckptdiff.formats.dcp import BACKEND
from ckptdiff.formats.layout import FileLayout
from ckptdiff.formats.megatron import CHECKPOINT_VERSION, iteration_name
from ckptdiff.formats.pickling import Blank, Built, Called, Named, Pairs, Pickle
from ckptdiff.formats.torch_dist import EXPERTS, LAYERS, PARTS
from ckptdiff.formats.torch_save import lay_out, saved_bytes
from ckptdiff.formats.unfinished import METADATA

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator, Mapping

    from ckptdiff.arch.base import Architecture
    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.config.model import ModelConfig

    Texts = tuple[tuple[str, bytes], ...]

MAX_CHUNK = 1 << 30  # bytes: a reader of any part of a chunk has to read all of it
_ALIGNMENT = 64  # bytes, of each chunk's torch.save file in its file
_VERSION = "1.0.0"  # of PyTorch's distributed checkpoints
_BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
# Tells Megatron to load gate and up as one tensor.
_CONTENT = {"singleton_local_shards": False}

_TORCH = {word: Named("torch", name) for name, word in BY_TORCH.items()}
_SIZE = Named("torch", "Size")
_STRIDED = Called(Named("torch.serialization", "_get_layout"), ("torch.strided",))


def _of_metadata(name: str) -> Named:
    return Named("torch.distributed.checkpoint.metadata", name)


_CONTIGUOUS = Called(_of_metadata("_MEM_FORMAT_ENCODING"), (0,))


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A stored tensor, and the tensors of the model stacked in it, by their leading indices."""

    name: str
    dims: tuple[int, ...]  # sizes of the leading dimensions: layers, experts, or none
    members: Mapping[tuple[int, ...], Assembly]

    @property
    def sample(self) -> Assembly:
        """One of the members: all have the same shape and dtype."""
        return next(iter(self.members.values()))


@dataclass(slots=True)
class _File:
    """A `.distcp` file while chunks are added."""

    name: str
    nbytes: int = 0
    blobs: list[FileLayout] = field(default_factory=list)
    recipes: list[Assembly] = field(default_factory=list)

    def add(self, tree: Any, *recipes: Assembly) -> tuple[str, int, int]:
        """Append what torch.save writes for a tree; return file name, offset and bytes."""
        layout, _ = lay_out(tree)
        start = -(-self.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.blobs.append(layout.moved(start))
        self.recipes += recipes
        self.nbytes = start + layout.nbytes
        return self.name, start, layout.nbytes

    def output(self, folder: str) -> OutputFile:
        """Return the file as it is to be written."""
        fixed = tuple(piece for blob in self.blobs for piece in blob.fixed)
        slots = tuple(slot for blob in self.blobs for slot in blob.slots)
        layout = FileLayout(self.nbytes, fixed, slots)
        return OutputFile(f"{folder}/{self.name}", layout, tuple(self.recipes))


@dataclass(slots=True)
class _Contents:
    """The content of `.metadata`: the entries, and where each chunk is stored."""

    entries: list[tuple[str, Built]] = field(default_factory=list)
    storage: list[tuple[Built, Built]] = field(default_factory=list)

    def put(
        self,
        name: str,
        offsets: tuple[int, ...] | None,
        index: int | None,
        stored: tuple[str, int, int],
    ) -> None:
        """Add a chunk of an entry: its offsets, its number, and what `_File.add` returned."""
        file, start, length = stored
        where = {"fqn": name, "index": index, "offset": None if offsets is None else _size(offsets)}
        info = {"relative_path": file, "offset": start, "length": length}
        self.storage.append(
            (
                Built(_of_metadata("MetadataIndex"), where),
                Built(Named("torch.distributed.checkpoint.filesystem", "_StorageInfo"), info),
            )
        )

    def pickled(self) -> bytes:
        """Return the pickle of torch.distributed.checkpoint.metadata.Metadata."""
        state = {
            "state_dict_metadata": Pairs(self.entries),
            "planner_data": {},
            "storage_data": Pairs(self.storage),
            "storage_meta": None,
            "version": _VERSION,
        }
        return Pickle().dump(Built(_of_metadata("Metadata"), state))


def distributed_files(
    model: Mapping[str, Assembly],
    architecture: Architecture,
    config: ModelConfig,
    args: Namespace,
    *,
    iteration: int | str,
    names: Names,
    max_size: int,
) -> tuple[tuple[OutputFile, ...], Texts]:
    """Return the files with chunks, each of about `max_size` bytes, and the small files.

    `model` holds unsplit tensors by native name, in local spelling; `names` is the layer spec that
    will load them. `.metadata` is the last of the small files: without it there is no checkpoint.
    """
    folder = iteration_name(iteration)
    stored = list(
        _in_parts(_stacked(model, args, names, templates_of(architecture)), architecture, config)
    )
    contents = _Contents()
    files = [_File("__0_0.distcp")]
    empty_state = files[0].add([None])
    for state in _extra_states(stored):
        contents.entries.append((state, Built(_of_metadata("BytesStorageMetadata"), {})))
        contents.put(state, None, None, empty_state)
    for tensor in stored:
        sample = tensor.sample
        chunks = []
        for number, (offsets, sizes, recipe) in enumerate(_chunks(tensor)):
            size = prod(sizes) * ITEMSIZE[recipe.dtype]
            if files[-1].recipes and files[-1].nbytes + size > max_size:
                files.append(_File(f"__{len(files)}_0.distcp"))
            chunk = files[-1].add(Blank(recipe.dtype, sizes), recipe)
            contents.put(tensor.name, offsets, number, chunk)
            box = {"offsets": _size(offsets), "sizes": _size(sizes)}
            chunks.append(Built(_of_metadata("ChunkStorageMetadata"), box))
        properties = (_TORCH[sample.dtype], _STRIDED, False, _CONTIGUOUS, False)
        described = {
            "properties": Built(_of_metadata("TensorProperties"), properties),
            "size": _size((*tensor.dims, *sample.shape)),
            "chunks": chunks,
        }
        contents.entries.append(
            (tensor.name, Built(_of_metadata("TensorStorageMetadata"), described))
        )
    texts = (
        (f"{folder}/{COMMON}", _common(args, iteration)),
        (f"{folder}/{BACKEND}", json.dumps(_BACKEND).encode()),
        (f"{folder}/{METADATA}", contents.pickled()),
    )
    return tuple(file.output(folder) for file in files), texts


def _stacked(
    model: Mapping[str, Assembly], args: Namespace, names: Names, family: frozenset[str]
) -> Iterator[_Tensor]:
    """Yield the stored tensors in model order: layers and experts stacked where Megatron does.

    `family` are the templates of all names that models of the family can have.
    """
    stacks_layers = _is_homogeneous(model, args)
    in_layer = templates_by_layer(model)
    members: dict[str, dict[tuple[int, ...], Assembly]] = defaultdict(dict)
    for native, recipe in model.items():
        name = distributed(native, names, in_layer[layer_prefix(native)], family)
        index: tuple[int, ...] = ()
        for stack in (LAYERS, EXPERTS):
            found = stack.gathered(name)
            if found is not None and (
                stack is EXPERTS or (stacks_layers and in_decoder_layer(native))
            ):
                name, number = found
                index = (*index, number)
        members[name][index] = recipe
    for name, held in members.items():
        dims = tuple(max(numbers) + 1 for numbers in zip(*held, strict=True))
        assert len(held) == prod(dims), f"{name}: {sorted(held)}"
        yield _Tensor(name, dims, dict(sorted(held.items())))


def _is_homogeneous(model: Mapping[str, Assembly], args: Namespace) -> bool:
    """Return whether Megatron stacks the decoder's layers.

    TransformerBlock.sharded_state_dict does unless the arguments tell layers apart; MambaStack
    never does.
    """
    values = vars(args)
    frequencies = [values.get(name) for name in ("moe_layer_freq", "linear_attention_freq")]
    if any(frequency not in (None, 1) for frequency in frequencies):
        return False
    if any(map(values.get, ("is_hybrid_model", *HYBRID_PATTERNS))):
        return False
    layers: dict[str, set[tuple[str, tuple[int, ...], str]]] = defaultdict(set)
    for native, recipe in model.items():
        if in_decoder_layer(native):
            layer = layer_prefix(native)
            layers[layer].add((native.removeprefix(layer), recipe.shape, recipe.dtype))
    return len({frozenset(held) for held in layers.values()}) == 1


def _in_parts(
    stored: Iterable[_Tensor], architecture: Architecture, config: ModelConfig
) -> Iterator[_Tensor]:
    """Yield the tensors, with the named parts of those that Megatron stores in parts."""
    for tensor in stored:
        parts = next((p for end, p in PARTS.items() if tensor.name.endswith(end)), None)
        rule = architecture.rule_for(split_native(tensor.sample.name)[0])
        if parts is None or rule is None or rule.block_rows is None:
            yield tensor
            continue
        rows = rule.block_rows(config)
        ends = accumulate(rows)
        for part, size, end in zip(parts, rows, ends, strict=True):
            yield _Tensor(
                tensor.name + part,
                tensor.dims,
                {i: _rows(recipe, end - size, end) for i, recipe in tensor.members.items()},
            )


def _chunks(
    tensor: _Tensor,
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Assembly]]:
    """Yield (offsets, sizes, recipe) of each chunk: one per layer or expert, several if large."""
    for index, recipe in tensor.members.items():
        ones = (1,) * len(index)
        if not recipe.shape:
            yield index, ones, recipe
            continue
        length, *others = recipe.shape
        most = max(1, MAX_CHUNK // max(1, prod(others) * ITEMSIZE[recipe.dtype]))
        for start in range(0, max(1, length), most):
            part = _rows(recipe, start, min(length, start + most))
            yield (*index, start, *(0 for _ in others)), (*ones, *part.shape), part


def _rows(recipe: Assembly, start: int, stop: int) -> Assembly:
    """Return the recipe of some rows; the recipe itself for all of them."""
    if (start, stop) == (0, recipe.shape[0]):
        return recipe
    return rows_of(recipe, start, stop)


def _extra_states(stored: Iterable[_Tensor]) -> Iterator[str]:
    """Yield the names of the modules' `_extra_state` entries, one per layer or expert."""
    modules: dict[str, tuple[int, ...]] = {}
    for tensor in stored:
        modules.update(dict.fromkeys(distributed_states(tensor.name), tensor.dims))
    for module, dims in modules.items():
        sizes = dims or (1,)
        of = ".".join(map(str, sizes))
        for number in range(prod(sizes)):
            at = ".".join(map(str, _unravelled(number, sizes)))
            yield f"{module}._extra_state/shard_{at}_{of}"


def _unravelled(number: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of element `number` of a row-major array (numpy's unravel_index)."""
    index: tuple[int, ...] = ()
    for size in reversed(sizes):
        number, last = divmod(number, size)
        index = (last, *index)
    return index


def _common(args: Namespace, iteration: int | str) -> bytes:
    """Return the content of `common.pt`: everything that is not a tensor."""
    tree = {
        "args": args,
        "checkpoint_version": CHECKPOINT_VERSION,
        "iteration": iteration if isinstance(iteration, int) else 0,
        "content_metadata": _CONTENT,
    }
    return saved_bytes(tree, COMMON.removesuffix(".pt"))


def _size(numbers: tuple[int, ...]) -> Called:
    """Return a torch.Size in the pickle."""
    return Called(_SIZE, (numbers,))
