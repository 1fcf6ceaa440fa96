"""Read Adam's state under the names of the weights: master weights and moments as checkpoints."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.naming import is_buffer, is_expert
from ckptdiff.checkpoint import Checkpoint, Chunk, Rank, Shard, TensorRef, contiguous
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CkptDiffError, CorruptFile
from ckptdiff.formats import dcp, dcp_chunks, megatron, plain_dcp, torch_dist, torch_zip
from ckptdiff.formats.files import each_file
from ckptdiff.formats.ranks import deepspeed
from ckptdiff.formats.unfinished import METADATA
from ckptdiff.formats.wholes import Whole, addressed, boxes_of_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ckptdiff.formats.dcp import Described

# As torch_dist names them: the weights in full precision, and Adam's two moments.
MASTER = "fp32_param"
KINDS = (MASTER, "exp_avg", "exp_avg_sq")
# Each kind of state, and its key in a flat buffer of distrib_optim.pt.
_BUFFER_KEYS = {"fp32_param": "param", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
# Where state is gathered before it is saved (fully_reshardable), the master weights are `param`.
_STATE = re.compile(
    r"^(?:chained_\d+\.)?optimizer\.state\.(fp32_param|param|exp_avg|exp_avg_sq)\.(.+)$"
)
# As torch's get_state_dict and Megatron-FSDP name it: the weight first.
_STATE_OF = re.compile(
    r"^(?:.{1,99}\.)?(?:optimizers?|optim)\.(?:\w{1,20}\.)?state\.(.+)\.(exp_avg|exp_avg_sq)$"
)
_WRAPPERS = re.compile(r"^(?:(?:model|module)\.)+")  # that one side of the two may have more of

# Of `dp_reshardable`: as the ranks hold it, in buckets of one group of ranks each.
_FLAT = re.compile(r"optimizer\.distributed\.dp_group_idx_\d+\.gbuf_idx_")

# In elements: Megatron aligns the start of each parameter in a flat buffer; old versions do not.
_ALIGNMENTS = (64, 1)

Named = dict[str, TensorRef]  # the name of a weight to its state


@dataclass(slots=True)
class States:
    """The optimizer state of a checkpoint: for each kind, a checkpoint with the weights' names."""

    kinds: dict[str, Checkpoint] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)  # state that cannot be assigned to a weight
    is_flat: bool = False  # all of it lies in buffers whose order nothing tells


def read_states(checkpoint: Checkpoint) -> States:
    """Return the optimizer state that a checkpoint holds, from headers alone; empty without one.

    Raises CorruptFile, MissingShard or UnreadableFile.
    """
    if checkpoint.format in (torch_dist.NAME, plain_dcp.NAME):
        return _from_torch_dist(checkpoint)
    if checkpoint.format == megatron.NAME:
        return _from_rank_files(checkpoint)
    if checkpoint.format == deepspeed.NAME:
        return States(*deepspeed.read_optimizer(checkpoint))
    return States()


def has_masters(checkpoint: Checkpoint) -> bool:
    """Return whether there are fp32 master weights; of several rank files the first is read."""
    try:
        if checkpoint.format == torch_dist.NAME:
            described, _ = dcp.read_metadata(checkpoint.root)
            return any((m := _STATE.match(t.name)) and _kind_of(m) == MASTER for t in described)
        if checkpoint.format == deepspeed.NAME:
            return deepspeed.has_optimizer(checkpoint)
        if checkpoint.format != megatron.NAME:
            return False
        file = checkpoint.files[0]
        shards = [s for s in checkpoint.shards if any(r.file == file for r in s.tensors.values())]
        named, _ = _read_rank_file(file, shards)
    except CkptDiffError:  # only a hint depends on this, so damage is not reported here
        return False
    return any(kind == MASTER for kind, _ in named)


# ── torch_dist: state is stored under names ──────────────────────────────────────────────────────


def _from_torch_dist(checkpoint: Checkpoint) -> States:
    root = checkpoint.root
    described, _ = dcp.read_metadata(root)
    of_weight = _shapes_of_weights(checkpoint, described)
    by_kind: dict[str, list[tuple[str, Described]]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    states = States()
    for tensor in described:
        kind, native = _kind_and_weight(tensor.name)
        found = of_weight.get(native) or of_weight.get(_WRAPPERS.sub("", native))
        if kind and found is not None:
            name, shapes[name] = found
            by_kind[kind].append((name, tensor))
        elif tensor.shape and plain_dcp.is_of_optimizer(tensor.name):  # others count steps
            states.unnamed.append(tensor.name)
    states.is_flat = not by_kind and any(map(_FLAT.search, states.unnamed))
    for kind in KINDS:
        if not by_kind[kind]:
            continue
        refs = dcp_chunks.read_chunks(root, [tensor for _, tensor in by_kind[kind]], None)
        wholes = []
        for name, tensor in by_kind[kind]:
            shape = shapes[name]
            parts = [
                part
                for record in tensor.records
                for part in _unflattened(
                    refs[dcp_chunks.key_of(tensor, record)], tensor.shape, record.offsets, shape
                )
            ]
            wholes.append(Whole(name, shape, tensor.dtype, tuple(parts)))
        if checkpoint.format == torch_dist.NAME:
            tensors, chunks = torch_dist.lay_out(root, wholes)
        else:
            tensors, chunks = addressed(root / METADATA, {whole.native: whole for whole in wholes})
        states.kinds[kind] = replace(checkpoint, shards=(Shard(Rank(), 0, tensors),), chunks=chunks)
    return states


def _kind_and_weight(name: str) -> tuple[str, str]:
    """Return the kind of state that a tensor is, and of which weight; empty texts for no state."""
    if match := _STATE.match(name):
        return _kind_of(match), match[2]
    match = _STATE_OF.match(name)
    return (match[2], match[1]) if match else ("", "")


def _shapes_of_weights(
    checkpoint: Checkpoint, described: Iterable[Described]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name and shape of each weight by that name, and by it without what wrappers add."""
    if checkpoint.format == torch_dist.NAME:
        shapes = {t.name: t.shape for t in described if not plain_dcp.is_of_optimizer(t.name)}
    else:
        shapes = {name: ref.shape for s in checkpoint.shards for name, ref in s.tensors.items()}
    plain: dict[str, tuple[str, tuple[int, ...]]] = {}
    twice = set()
    for name, shape in shapes.items():
        bare = _WRAPPERS.sub("", name)
        if plain.setdefault(bare, (name, shape)) != (name, shape):
            twice.add(bare)
    for bare in twice:
        del plain[bare]
    return {**plain, **{name: (name, shape) for name, shape in shapes.items()}}


def _kind_of(match: re.Match[str]) -> str:
    return MASTER if match[1] == "param" else match[1]


def _unflattened(
    ref: TensorRef, stored: tuple[int, ...], offsets: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[Chunk]:
    """Yield views of a stored chunk of state, each with the box of the weight that it fills.

    `stored` is the shape of the state, `shape` that of its weight. A distributed optimizer stores
    flat fragments: `stored` is then how many fragments there are along every dimension of the
    weight, and last how many elements each has. Raises CorruptFile if the two do not fit.
    """
    if stored == shape:
        yield Chunk(ref, tuple((at, at + n) for at, n in zip(offsets, ref.shape, strict=True)))
        return
    counts = stored[:-1]
    fits = len(counts) == len(shape) and all(
        n and size % n == 0 for n, size in zip(counts, shape, strict=True)
    )
    fragment = tuple(size // n for n, size in zip(counts, shape, strict=True)) if fits else ()
    if not fits or prod(fragment) != stored[-1] or prod(ref.shape) != ref.shape[-1]:
        raise CorruptFile(
            f"{ref.file}: {ref.name} of shape {list(stored)} is no state of a weight of shape "
            f"{list(shape)}"
        )
    first = offsets[-1]
    for box, at in boxes_of_range(fragment, first, first + ref.shape[-1]):
        sizes = tuple(stop - start for start, stop in box)
        offset = ref.offset + (at - first) * ITEMSIZE[ref.dtype]
        part = TensorRef(ref.name, sizes, ref.dtype, ref.file, offset, contiguous(sizes))
        whole_box = tuple(
            (start + n * size, stop + n * size)
            for (start, stop), n, size in zip(box, offsets, fragment, strict=False)
        )
        yield Chunk(part, whole_box)


# ── torch: state is stored without names, in the order of the model's parameters ─────────────────


def _from_rank_files(checkpoint: Checkpoint) -> States:
    states = States()
    shards: dict[Path, list[Shard]] = defaultdict(list)
    for shard in checkpoint.shards:
        for ref in shard.tensors.values():
            shards[ref.file].append(shard)
            break
    by_shard: dict[tuple[str, Rank, int], Named] = defaultdict(dict)
    for file, (named, unnamed) in each_file(
        list(shards), lambda file: _read_rank_file(file, shards[file])
    ):
        states.unnamed += [f"{file.parent.name}: {text}" for text in unnamed]
        for (kind, position), tensors in named.items():
            shard = shards[file][position]
            by_shard[kind, shard.rank, shard.chunk].update(tensors)
    for kind in KINDS:
        kind_shards = []
        for shard in checkpoint.shards:
            own = by_shard.get((kind, shard.rank, shard.chunk), {})
            # Of weights that belong to no expert, only the first expert-parallel rank writes state.
            first = by_shard.get((kind, replace(shard.rank, ep=0), shard.chunk), {})
            shared = (
                {name: ref for name, ref in first.items() if not is_expert(name)}
                if shard.rank.ep
                else {}
            )
            held = {**shared, **own}
            kind_shards.append(
                replace(shard, tensors={name: held[name] for name in shard.tensors if name in held})
            )
        # With some parameters of a stage missing, its layers would be counted wrongly.
        if not states.unnamed and any(shard.tensors for shard in kind_shards):
            states.kinds[kind] = replace(checkpoint, shards=tuple(kind_shards))
    return states


# State by its kind and by the position of its virtual chunk in the file; and what has no name.
Found = tuple[dict[tuple[str, int], Named], list[str]]


def _read_rank_file(file: Path, shards: list[Shard]) -> Found:
    """Return the state of one rank's shards: of distrib_optim.pt if it is there, else of `file`."""
    flat = file.parent / megatron.OPTIMIZER_FILE
    parameters = [
        [(n, ref) for n, ref in shard.tensors.items() if prod(ref.shape) and not is_buffer(n)]
        for shard in shards
    ]
    if flat.exists():
        return _from_buffers(torch_zip.read_index(flat), parameters)
    index = torch_zip.read_index(file)
    optimizer = index.get("optimizer") if isinstance(index, dict) else None
    if optimizer is None:
        return {}, []
    return _from_groups(optimizer, parameters)


def _from_buffers(tree: Any, parameters: list[list[tuple[str, TensorRef]]]) -> Found:
    """Name the state in flat buffers, which hold the model's parameters in reverse order.

    Source: megatron.core.distributed.param_and_grad_buffer.
    """
    named: dict[tuple[str, int], Named] = defaultdict(dict)
    unnamed: list[str] = []
    optimizers = tree if isinstance(tree, list) else [tree]
    for number, optimizer in enumerate(optimizers):
        if optimizer is None:
            continue
        buffers = _buffers(optimizer)
        if len(buffers) != len(parameters):
            unnamed.append(
                f"optimizer {number}: {len(buffers)} buffers for {len(parameters)} models"
            )
            continue
        for position, buffer in enumerate(buffers):
            members = [
                (name, ref)
                for name, ref in parameters[position]
                if len(optimizers) == 1 or is_expert(name) == bool(number)
            ]
            held = buffer.get("numel_unpadded") if buffer is not None else None
            starts, total = next(
                (
                    layout
                    for layout in (_lay_out_buffer(members, alignment) for alignment in _ALIGNMENTS)
                    if layout[1] == held
                ),
                ([], -1),
            )
            if buffer is None or len(optimizers) > 2 or total < 0:
                unnamed.append(f"optimizer {number}: its buffer is not the model's parameters")
                continue
            for kind, key in _BUFFER_KEYS.items():
                state = buffer.get(key)
                if (
                    not isinstance(state, TensorRef)
                    or prod(state.shape) < total
                    or state.stride != contiguous(state.shape)
                ):
                    unnamed.append(f"optimizer {number}: no {kind}")
                    continue
                for (name, ref), at in zip(members, starts, strict=True):
                    offset = state.offset + at * ITEMSIZE[state.dtype]
                    strides = contiguous(ref.shape)
                    named[kind, position][name] = TensorRef(
                        name, ref.shape, state.dtype, state.file, offset, strides
                    )
    return named, unnamed


def _lay_out_buffer(
    parameters: list[tuple[str, TensorRef]], alignment: int
) -> tuple[list[int], int]:
    """Return where in a flat buffer each parameter starts, and where the last ends, in elements."""
    starts: list[int] = []
    at = 0
    for _, ref in reversed(parameters):
        at = -(-at // alignment) * alignment
        starts.append(at)
        at += prod(ref.shape)
    return starts[::-1], at


def _buffers(optimizer: Any) -> list[dict[str, Any] | None]:
    """Return the flat buffer of each virtual chunk; None for one with buffers of several dtypes."""
    if not isinstance(optimizer, dict):
        return []
    found: list[dict[str, Any] | None] = []
    for key in sorted(key for key in optimizer if type(key) is int):
        kinds = optimizer[key]
        held = list(kinds.values()) if isinstance(kinds, dict) else []
        only = held[0] if len(held) == 1 else None
        found.append(only if isinstance(only, dict) else None)
    return found


def _from_groups(optimizer: Any, parameters: list[list[tuple[str, TensorRef]]]) -> Found:
    """Name numbered state; parameters with and without weight decay are in groups of their own."""
    if not isinstance(optimizer, dict):
        return {}, ["several optimizers, numbered: their parameters cannot be told"]
    inner = optimizer.get("optimizer")
    inner = inner if isinstance(inner, dict) else optimizer
    state, groups = inner.get("state"), inner.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list):
        return {}, []
    masters = optimizer.get("fp32_from_fp16_params")
    named: dict[tuple[str, int], Named] = defaultdict(dict)
    all_parameters = [
        (place, name, ref) for place, model in enumerate(parameters) for name, ref in model
    ]
    problem = "the order of its parameters cannot be told"
    for number, group in enumerate(groups):
        if not isinstance(group, dict):
            return {}, [problem]
        decays = bool(group.get("wd_mult"))
        members = [
            item
            for item in all_parameters
            if len(groups) == 1 or (len(item[2].shape) > 1) == decays
        ]
        indices = group.get("params")
        if not isinstance(indices, list) or len(indices) != len(members) or len(groups) > 2:
            return {}, [problem]
        for position, (index, (place, name, ref)) in enumerate(zip(indices, members, strict=True)):
            for kind, found in _numbered(state, masters, index, number, position):
                if not isinstance(found, TensorRef) or found.shape != ref.shape:
                    return {}, [problem]
                named[kind, place][name] = torch_zip.named(found, name)
    return named, []


def _numbered(
    state: Mapping[Any, Any], masters: Any, index: Any, group: int, position: int
) -> Iterable[tuple[str, object]]:
    """Yield each kind of state of one parameter: moments by its number, masters by its position."""
    moments = state.get(index) if type(index) is int else None
    for kind in ("exp_avg", "exp_avg_sq"):
        yield kind, moments.get(kind) if isinstance(moments, dict) else None
    if isinstance(masters, list):
        held = masters[group] if group < len(masters) else None
        inside = isinstance(held, list) and position < len(held)
        yield "fp32_param", held[position] if inside else None  # type: ignore[index]
