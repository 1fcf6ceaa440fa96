"""Join the shards of a Megatron adapter into the matrices of PEFT, under PEFT's names.

A layer that is split by its rows (linear_qkv, linear_fc1) has an adapter whose `linear_out` is
split as the layer itself, and whose `linear_in` is split by the rank; one that is split by its
columns (linear_proj, linear_fc2) has its `linear_in` split as the layer, and its `linear_out` by
rows. Where shards are as large as the whole, each rank has all of it. Sources: CanonicalLoRA and
ParallelLinearAdapter of megatron.bridge.peft, and peft.tuners.lora.tp_layer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch import ARCHITECTURES, guess_architecture
from ckptdiff.arch.naming import split_native
from ckptdiff.arch.templates import fill_name, split_name
from ckptdiff.arch.wrappers import adapter_name, is_known_huggingface
from ckptdiff.assembly.dcp_chunks import ViewsOfWholes
from ckptdiff.assembly.from_megatron import ranks_of, read_backward
from ckptdiff.assembly.local_numbers import experts_per_rank, layer_offsets, shards_by_split_names
from ckptdiff.assembly.recipe import Assembly, Copy, Piece, can_be_copies
from ckptdiff.errors import CkptDiffError, MissingShard, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.config.model import ModelConfig

    Shards = dict[int, list[Copy]]  # by the index of the rank that holds a part

_ENDS = {"linear_in": "lora_A", "linear_out": "lora_B"}
_PARTS = {"q": 0, "k": 1, "v": 2, "gate": 0, "up": 1}  # of a fused layer, in a rule's order


@dataclass(frozen=True, slots=True)
class _Host:
    """A layer that has an adapter: its rule, its numbers, and which part of it is adapted."""

    rule: ParamMapping
    numbers: tuple[int, ...]
    part: str  # of Megatron-Bridge's CanonicalLoRA: q, k, v, gate or up; else empty


def joined(
    checkpoint: Checkpoint, rules: Architecture, config: ModelConfig
) -> tuple[dict[str, Assembly], set[str]]:
    """Return an adapter's matrices by PEFT's names, and the stored names that they are made of.

    What no rule of the family knows, or does not fit it, is left out.
    """
    held, names = _by_host(checkpoint, rules)
    tensors: dict[str, Assembly] = {}
    used: set[str] = set()
    views = ViewsOfWholes(checkpoint)
    for host, ends in held.items():
        if set(ends) != {"lora_A", "lora_B"}:
            continue
        try:
            found = _matrices(host, ends["lora_A"], ends["lora_B"], config, checkpoint)
            tensors |= {name: views.resolved(tensor) for name, tensor in found.items()}
        except CkptDiffError:
            continue
        used |= names[host]
    return tensors, used


def family_of_adapter(checkpoint: Checkpoint, like: Assembled | None) -> Architecture | None:
    """Return the family whose rules read an adapter, by the other side or by the adapted layers."""
    if like is not None and like.architecture is not None:
        return like.architecture
    hosts = {
        split_native(part.weight)[0]
        for shard in checkpoint.shards
        for name in shard.tensors
        if (part := adapter_name(name)) is not None
    }
    if like is not None and like.adapter is not None:
        others = [split_name(host)[0] for host in like.adapter.hosts]
        for family in ARCHITECTURES:
            if all(is_known_huggingface(key, family) for key in others) and all(
                map(family.rule_for, hosts)
            ):
                return family
    return guess_architecture(hosts) if hosts else None


def _by_host(
    checkpoint: Checkpoint, rules: Architecture
) -> tuple[dict[_Host, dict[str, Shards]], dict[_Host, set[str]]]:
    """Return the parts of each layer's adapter by its end and by rank, and their stored names."""
    named = shards_by_split_names(checkpoint)
    offsets, per_rank = layer_offsets(checkpoint, named), experts_per_rank(named)
    held: dict[_Host, dict[str, Shards]] = defaultdict(lambda: defaultdict(dict))
    names: dict[_Host, set[str]] = defaultdict(set)
    for shard in checkpoint.shards:
        rank = shard.rank
        for native, ref in shard.tensors.items():
            part = adapter_name(native)
            if part is None:
                continue
            key, indices = split_native(part.weight)
            rule = rules.rule_for(key)
            *between, end = part.kind.removeprefix("adapter.").split(".")
            end = _ENDS.get(end, end)
            if rule is None or end not in _ENDS.values() or rule.of_predictions:
                continue
            numbers, index = list(indices), rank.tp
            if rule.of_layers:
                numbers[0] += offsets[rank.pp, shard.chunk]
            if rule.of_experts:
                numbers[-1] += rank.ep * per_rank
                index = checkpoint.parallelism.expert_slice(rank)
            which = between[0].removeprefix("adapter_") if between else ""
            host = _Host(rule, tuple(numbers), which)
            held[host][end].setdefault(index, []).append(Copy(ref, rank))
            names[host].add(ref.name)
    return held, names


def _matrices(
    host: _Host, down: Shards, up: Shards, config: ModelConfig, checkpoint: Checkpoint
) -> dict[str, Assembly]:
    """Return the matrices of one layer's adapter. Raises a CkptDiffError if shards do not fit."""
    rule, tp = host.rule, ranks_of(host.rule, checkpoint)
    targets = [fill_name(pattern, host.numbers) for pattern in rule.hf]
    modules = [target.removesuffix(".weight") for target in targets]
    if rule.partition is None or rule.dim is None or rule.of_vocabulary:
        raise UnsupportedLayout(f"{modules[0]}: adapters of such layers are not joined")
    rank = next(iter(up.values()))[0].ref.shape[-1]
    plain = replace(rule, transposed=False, or_replicated=False)
    if rule.dim == 1:
        name = f"{modules[0]}.lora_A.weight"
        whole = read_backward(plain, [name], down, config, tp)[name]
        ups = [_stacked(f"{modules[0]}.lora_B.weight", up, tp, config.hidden_size)]
        return {whole.name: whole, ups[0].name: ups[0]}
    if host.part:
        number = _PARTS.get(host.part, len(modules))
        if number >= len(modules) or len(modules) == 1:
            raise UnsupportedLayout(f"{modules[0]}: has no part {host.part} of its own")
        modules = [modules[number]]
        rows = sum(
            part.stop - part.start for part in rule.partition(config, 1, 0) if part.source == number
        )
        ups = [_stacked(f"{modules[0]}.lora_B.weight", up, tp, rows)]
    else:
        names = [f"{module}.lora_B.weight" for module in modules]
        ups = list(read_backward(plain, names, up, config, tp).values())
    downs = [_stacked(f"{module}.lora_A.weight", down, tp, rank) for module in modules]
    return {tensor.name: tensor for tensor in (*downs, *ups)}


def _stacked(name: str, ranks: Shards, tp: int, rows: int) -> Assembly:
    """Return a matrix of so many rows that ranks hold by equal parts, or each as a whole.

    Raises MissingShard or UnsupportedLayout if they do neither.
    """
    if missing := [rank for rank in range(tp) if rank not in ranks]:
        raise MissingShard(f"{name}: TP rank {', '.join(map(str, missing))} has no shard of it")
    first = ranks[0][0]
    if len(first.ref.shape) != 2 or first.ref.shape[0] not in (rows, rows // tp):
        raise UnsupportedLayout(f"{name}: a shard is {list(first.ref.shape)}, of {rows} rows")
    of_rank: Sequence[Sequence[Copy]] = [ranks[rank] for rank in range(tp)]
    if first.ref.shape[0] == rows:
        of_rank = [[copy for copies in of_rank for copy in copies]]
    pieces, at = [], 0
    for one, *others in of_rank:
        if not all(can_be_copies(other.ref, first.ref) for other in (one, *others)):
            raise UnsupportedLayout(f"{name}: its shards differ in shape or dtype")
        height, width = one.ref.shape
        box = ((at, at + height), (0, width))
        of = ((0, height), (0, width))
        pieces.append(Piece(one.ref, one.rank, of, box, tuple(others)))
        at += height
    return Assembly(name, (at, first.ref.shape[1]), first.ref.dtype, tuple(pieces))
