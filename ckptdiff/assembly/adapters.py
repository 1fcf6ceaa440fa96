"""Name the tensors of an adapter that is not merged into its model: LoRA and its relatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.wrappers import adapter_name
from ckptdiff.assembly.by_name import tensors_by_name
from ckptdiff.assembly.local_numbers import shards_by_split_names

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter in a checkpoint, beside the model's own tensors or alone."""

    names: tuple[str, ...]  # of its tensors, canonical
    hosts: tuple[str, ...]  # the weights that it changes, by canonical name where rules know them
    targets: tuple[str, ...]  # the last parts of the modules: q_proj, linear_qkv
    ranks: tuple[int, ...]  # ascending; more than one where modules have ranks of their own
    is_alone: bool  # no tensor of the model itself is there

    @property
    def words(self) -> str:
        """What it is: `an adapter of rank 4 on q_proj, v_proj (8 tensors)`."""
        numbers = " and ".join(map(str, self.ranks))
        rank = f" of rank {numbers}" if self.ranks else ""
        count = f"{len(self.names)} tensor{'' if len(self.names) == 1 else 's'}"
        return f"an adapter{rank} on {', '.join(self.targets)} ({count})"


def with_adapter(side: Assembled) -> Assembled:
    """Return a side whose adapter is named, if it has one.

    No rule joins the shards of Megatron's adapters: each stored tensor is taken by itself.
    """
    tensors, errors = dict(side.tensors), dict(side.errors)
    unmapped = [name for name in side.unmapped if adapter_name(name)]
    if unmapped:
        checkpoint = side.checkpoint
        named = shards_by_split_names(checkpoint)
        refs = {ref.name: n for s in checkpoint.shards for n, ref in s.tensors.items()}
        wanted = {refs.get(name, name) for name in unmapped}
        found, failed = tensors_by_name(checkpoint, named, wanted.__contains__)
        tensors |= found
        errors |= failed
    parts = {name: part for name in tensors if (part := adapter_name(name)) is not None}
    if not parts:
        return side
    ranks = {parts[name].rank_of(tensors[name].shape) for name in parts}
    adapter = Adapter(
        names=tuple(parts),
        hosts=tuple(dict.fromkeys(part.weight for part in parts.values())),
        targets=tuple(dict.fromkeys(part.target for part in parts.values())),
        ranks=tuple(sorted(rank for rank in ranks if rank is not None)),
        is_alone=len(parts) == len(tensors),
    )
    left = tuple(name for name in side.unmapped if name not in unmapped)
    kind = "is" if adapter.is_alone else "holds"
    return replace(
        side,
        tensors=tensors,
        errors=errors,
        unmapped=left,
        notes=(*side.notes, f"{kind} {adapter.words}"),
        adapter=adapter,
    )


def unmatched_by_adapter(a: Assembled, b: Assembled) -> frozenset[str]:
    """Return the names that have no partner because one side has an adapter, or is one.

    A side that is an adapter has none of the model's tensors, so all of the other side's are there.
    """
    names: set[str] = set()
    for side, other in ((a, b), (b, a)):
        if side.adapter is not None and not other.tensors.keys() >= set(side.adapter.names):
            names.update(name for name in side.adapter.names if name not in other.tensors)
            if side.adapter.is_alone:
                names.update(other.tensors.keys() - side.tensors.keys())
    return frozenset(names)
