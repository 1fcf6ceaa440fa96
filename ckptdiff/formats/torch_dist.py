"""Distributed checkpoints: Megatron's torch_dist format and plain PyTorch DCP folders.

`.metadata` is a pickle that states how every tensor is split into chunks, and in which file and at
which offset each chunk is stored as a small torch.save file of its own. Stored tensors are whole,
whatever parallelism wrote them; the same tensor of all layers, or all experts, may be one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import (
    Checkpoint,
    Chunk,
    Entry,
    Parallelism,
    Rank,
    Shard,
    TensorRef,
)
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CkptDiffError, CorruptFile
from ckptdiff.formats import dcp, megatron, plain_dcp, run_config, tree
from ckptdiff.formats.common_state import COMMON, ENTRIES, OBJECT, read_common
from ckptdiff.formats.dcp import BACKEND, read_metadata, unread_notes
from ckptdiff.formats.dcp_chunks import read_wholes
from ckptdiff.formats.integrity import saved_hashes
from ckptdiff.formats.unfinished import METADATA
from ckptdiff.formats.wholes import Whole, addressed
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ckptdiff.formats.dcp import Described
    from ckptdiff.formats.files import Progress

NAME = dcp.NAME


class Stack:
    """A naming scheme: tensors whose names differ in one number are stored as one tensor.

    The number is the index in the first dimension of the stored tensor.
    """

    def __init__(self, single: str, stored: str) -> None:
        """Take the part of the name with the number as `#`, and how the stored name has it."""
        self._single = single
        self._stored = stored
        self._one = re.compile(rf"(?<!\w){re.escape(single)}".replace(r"\#", r"(\d+)"))
        self._all = re.compile(rf"(?<!\w){re.escape(stored)}(?!\d+\.)")

    def one(self, name: str, number: int) -> str | None:
        """Return the name of tensor `number` in a stored tensor; None if it is not a stack."""
        found = self._all.search(name)
        return found and self._replaced(name, found, self._single.replace("#", str(number)))

    def gathered(self, name: str) -> tuple[str, int] | None:
        """Return the name of the stored tensor that holds a single one, and its index there."""
        found = self._one.search(name)
        return found and (self._replaced(name, found, self._stored), int(found[1]))

    @staticmethod
    def _replaced(name: str, found: re.Match[str], words: str) -> str:
        """Return the name with the text that was found replaced by `words`."""
        return name[: found.start()] + words + name[found.end() :]


# `decoder.layers.mlp…` holds all layers in one tensor, `decoder.layers.3.mlp…` one layer.
LAYERS = Stack("layers.#.", "layers.")
EXPERTS = Stack("experts.local_experts.#.", "experts.experts.")
# Megatron stores some tensors in parts. By the end of the tensor's name: the suffixes of its parts,
# in order. Sources: sharded_state_dict in megatron.core.ssm.gated_delta_net and .mamba_mixer.
PARTS = {
    "self_attention.in_proj.weight": (".query", ".key", ".value", ".z", ".beta", ".alpha"),
    "self_attention.conv1d.weight": (".query", ".key", ".value"),
    "mixer.in_proj.weight": (".z", ".x", ".B", ".C", ".dt"),
    "mixer.conv1d.weight": (".x", ".B", ".C"),
    "mixer.conv1d.bias": (".x", ".B", ".C"),
}
MAX_SINGLES = 2_000_000  # single layers and experts, of all stacks; each chunk of one counts
_GATE_AND_UP = ("_w", "_v")
# What is no weight: torch.distributed.checkpoint has tensors of the random state under names too.
_BESIDE = re.compile(
    r"^(?:(?:chained_\d+\.)?optimizer|rng_state|rerun_state_machine|opt_param_scheduler)\."
)
# Names that no other program gives. Megatron's `torch_dcp` and `fsdp_dtensor` have no file that
# names the backend: they are what torch.distributed.checkpoint writes.
_OF_MEGATRON = re.compile(
    r"(?:^|\.)layers\.(?:\d+\.)?(?:mtp_model_layer\.|transformer_layer\.)?"
    r"(?:self_attention|cross_attention|mlp)\.(?:\w+\.){0,4}linear_\w+\."
    r"|(?:^|\.)decoder\.layers\.(?:\d+\.)?mixer\."
)


def sniff(path: Path) -> bool:
    """Return whether `path` holds a `.metadata`, or leads to a folder that does."""
    if not path.is_dir():
        return path.name == METADATA
    if (path / METADATA).exists() or _is_nemo(path):
        return True
    if not megatron.sniff(path):
        return False
    folder, _ = _folder(path)
    # Folders of other backends may have no .metadata; opening them reports which backend it is.
    return (folder / METADATA).exists() or (folder / BACKEND).exists()


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder from `.metadata` and the headers of its chunks.

    The checkpoint has a single shard, whose tensors are whole. Raises MissingShard, CorruptFile,
    UnsupportedLayout, NotACheckpoint or UnreadableFile.
    """
    root, iteration = _folder(path)
    described, opaque = read_metadata(root)
    if not _is_megatron(root, described):
        return plain_dcp.opened(root, described, opaque, progress)
    model = [tensor for tensor in described if not _BESIDE.match(tensor.name)]
    tensors, chunks = lay_out(root, read_wholes(root, model, progress))
    common = read_common(root, opaque)
    args = megatron.plain_args(common, root)
    file: Path | None = None
    notes: tuple[str, ...] = ()
    if not args:
        args, file, notes = _from_yaml(root)
    # The second is Lightning's.
    hashes, unchecked = saved_hashes(root, args)
    ignored, said = plain_dcp.files_beside(root, described, opaque)
    saved = megatron.iteration_in(common.get("iteration", common.get("global_step")))
    return Checkpoint(
        root=root,
        format=NAME,
        convention="megatron",
        config=args or None,
        config_file=file,
        notes=(*notes, *unchecked, *unread_notes(opaque), *said),
        ignored=ignored,
        parallelism=_parallelism(args),
        shards=(Shard(Rank(), 0, tensors),),
        files=tuple(sorted({root / r.file for tensor in model for r in tensor.records})),
        iteration=iteration if saved is None else saved,
        chunks=chunks,
        hashes=hashes,
        model_folder=run_config.find_tokenizer(root),
    )


def lay_out(
    root: Path, stored: Iterable[Whole]
) -> tuple[dict[str, TensorRef], dict[TensorRef, tuple[Chunk, ...]]]:
    """Return the tensors of single layers and experts by name, and the chunks of each.

    Chunks have the box that they fill in the tensor.
    """
    wholes: dict[str, Whole] = {}
    unstacking = _Unstacking(root / METADATA)
    for whole in stored:
        for name, single in unstacking.each(whole.native, whole):
            if name in wholes:
                raise CorruptFile(f"{root / METADATA}: two tensors are called {shown(name)}")
            wholes[name] = single
    _join_parts(wholes)
    return addressed(root / METADATA, wholes)


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return args, the content of common.pt, optimizer state by name and shape, opaque entries."""
    file = checkpoint.config_file
    words = "args" if file is None else file.name
    found = [
        tree.entry(f"{words}.{key}", value) for key, value in (checkpoint.config or {}).items()
    ]
    described, opaque = read_metadata(checkpoint.root)
    for key, value in read_common(checkpoint.root, opaque).items():
        if key != "args":
            found += tree.entries(tree.text_of(key), value)
    for tensor in described:
        if _BESIDE.match(tensor.name):
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            found.append(Entry(tensor.name, "tensor", f"{tensor.dtype} {shape}"))
    return found + [Entry(name, "opaque") for name in opaque if name not in (OBJECT, *ENTRIES)]


def _is_megatron(root: Path, described: Iterable[Described]) -> bool:
    """Return whether Megatron wrote a folder, by the files in it or by its tensors' names."""
    beside = (root / BACKEND, root / COMMON, root / run_config.BRIDGE)
    return any(file.exists() for file in beside) or any(
        _OF_MEGATRON.search(tensor.name) for tensor in described
    )


def _from_yaml(root: Path) -> tuple[dict[str, Any], Path | None, tuple[str, ...]]:
    """Return the config that a file of YAML states, that file, and a note for the user."""
    file = run_config.find_run_config(root)
    if file is None:
        return {}, None, ()
    try:
        config = run_config.read_run_config(file)
    except CkptDiffError as error:  # the weights can be read without it
        return {}, None, (f"the config is not known: {error}",)
    if not config:
        return {}, None, (f"{file.name} states no model",)
    return config, file, (f"its config is that of {file.name}",)


def _is_nemo(path: Path) -> bool:
    """Return whether a folder is a checkpoint of NeMo 2, with its weights in a folder below."""
    weights = path / run_config.NEMO_WEIGHTS
    return (weights / METADATA).exists() and (path / run_config.NEMO_FOLDER).is_dir()


def _folder(path: Path) -> tuple[Path, int | str | None]:
    if path.name == METADATA:
        return path.parent, None
    if _is_nemo(path) and not (path / METADATA).exists():
        return path / run_config.NEMO_WEIGHTS, None
    if (path / METADATA).exists() or megatron.iteration_of(path.name) is not None:
        return path, megatron.iteration_of(path.name)
    return megatron.iteration_folder(path)


def _parallelism(args: Mapping[str, Any]) -> Parallelism:
    """Return the parallel sizes of the run that saved it; the stored tensors are whole anyway."""

    def size(name: str) -> int:
        value = args.get(name)
        return value if type(value) is int and value > 0 else 1

    return Parallelism(
        tp=size("tensor_model_parallel_size"),
        pp=size("pipeline_model_parallel_size"),
        vpp=size("virtual_pipeline_model_parallel_size"),
        ep=size("expert_model_parallel_size"),
        etp=size("expert_tensor_parallel_size"),
    )


class _Unstacking:
    """Takes stacks apart, into no more single tensors in all than a model can have."""

    def __init__(self, metadata: Path) -> None:
        self.metadata = metadata
        self.singles = 0

    def each(self, name: str, whole: Whole) -> Iterator[tuple[str, Whole]]:
        """Yield names and tensors of the single layers and experts that are stacked in one."""
        for stack in (LAYERS, EXPERTS):
            if whole.shape and stack.one(name, 0) is not None:
                self._count(name, whole)
                for number, part in _each(whole):
                    yield from self.each(stack.one(name, number) or name, part)
                return
        yield name, whole

    def _count(self, name: str, whole: Whole) -> None:
        """Raise CorruptFile if a stack is of more layers or experts than there can be."""
        parts = sum(chunk.box[0][1] - chunk.box[0][0] for chunk in whole.chunks)
        self.singles += max(whole.shape[0], parts)
        if self.singles > MAX_SINGLES:
            raise CorruptFile(
                f"{self.metadata}: {shown(name)} of shape {shown(whole.shape)} stands for more "
                "layers or experts than there can be"
            )


def _each(whole: Whole) -> Iterator[tuple[int, Whole]]:
    """Yield each index of the first dimension with the tensor at that index."""
    by_index: dict[int, list[Chunk]] = defaultdict(list)
    for chunk in whole.chunks:
        ref = chunk.ref
        (start, stop), *other_dims = chunk.box
        for index in range(start, stop):
            offset = ref.offset + (index - start) * ref.stride[0] * ITEMSIZE[ref.dtype]
            part = TensorRef(ref.name, ref.shape[1:], ref.dtype, ref.file, offset, ref.stride[1:])
            by_index[index].append(Chunk(part, tuple(other_dims)))
    for index in range(whole.shape[0]):
        yield index, Whole(whole.native, whole.shape[1:], whole.dtype, tuple(by_index[index]))


def _join_parts(wholes: dict[str, Whole]) -> None:
    """Join the named parts in which Megatron stores a tensor (gate and up, say) by rows."""
    for parts in sorted({*PARTS.values(), _GATE_AND_UP}, key=len, reverse=True):
        for name in [name for name in wholes if name.endswith(parts[0])]:
            stem = name[: -len(parts[0])]
            if any(stem + part not in wholes for part in parts):
                continue
            stored_parts = [wholes.pop(stem + part) for part in parts]
            chunks: list[Chunk] = []
            rows = 0
            for whole in stored_parts:
                chunks += [
                    Chunk(c.ref, ((c.box[0][0] + rows, c.box[0][1] + rows), *c.box[1:]))
                    for c in whole.chunks
                ]
                rows += whole.shape[0]
            shape = (rows, *stored_parts[0].shape[1:])
            wholes[stem] = Whole(stem, shape, stored_parts[0].dtype, tuple(chunks))
