"""Name the tensors of an adapter that is not merged into its model: LoRA and its relatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.wrappers import adapter_name
from ckptdiff.assembly.by_name import NO_RULES, tensors_by_name
from ckptdiff.assembly.from_megatron import is_rank_file, megatron_config
from ckptdiff.assembly.local_numbers import shards_by_split_names
from ckptdiff.assembly.megatron_adapters import family_of_adapter, joined
from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptdiff.assembly.recipe import Assembled, Assembly

MAX_ALPHA = 1e9  # that is shown
MAX_KIND = 40  # characters


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter in a checkpoint, beside the model's own tensors or alone."""

    names: tuple[str, ...]  # of its tensors, canonical
    hosts: tuple[str, ...]  # the weights that it changes, by canonical name where rules know them
    targets: tuple[str, ...]  # the last parts of the modules: q_proj, linear_qkv
    ranks: tuple[int, ...]  # ascending; more than one where modules have ranks of their own
    is_alone: bool  # no tensor of the model itself is there
    alpha: float | None = None  # as its config states it; None: it has none
    kind: str = "LORA"  # as its config states it

    @property
    def words(self) -> str:
        """What it is: `an adapter of rank 4 on q_proj, v_proj (8 tensors)`."""
        numbers = " and ".join(map(str, self.ranks))
        rank = f" of rank {numbers}" if self.ranks else ""
        if self.alpha is not None:
            rank += f"{' and' if rank else ' of'} alpha {self.alpha:g}"
        if self.kind != "LORA":
            rank = f" of the kind {self.kind}{rank}"
        count = f"{len(self.names)} tensor{'' if len(self.names) == 1 else 's'}"
        return f"an adapter{rank} on {', '.join(self.targets)} ({count})"


def with_adapter(side: Assembled, like: Assembled | None = None) -> Assembled:
    """Return a side whose adapter is named, if it has one.

    The shards of Megatron's adapters are joined by the rules of the family, which `like`, the other
    side, may tell. What they do not know is taken by itself, each stored tensor.
    """
    tensors, errors, notes = dict(side.tensors), dict(side.errors), side.notes
    checkpoint = side.checkpoint
    unmapped = [name for name in side.unmapped if adapter_name(name)]
    if checkpoint.convention == "megatron":
        joined_tensors, used, note = _joined(side, like)
        if used:
            tensors = {n: t for n, t in tensors.items() if t.pieces[0].ref.name not in used}
            tensors = put_in_model_order({**tensors, **joined_tensors}, side.architecture)
            if side.architecture is None:
                is_whole = len(used) == _stored(side)
                kept = (n for n in notes if not (is_whole and n.startswith(NO_RULES)))
                notes = (*kept, note)
    else:
        used = set()
    apart = [name for name in unmapped if name not in used]
    if apart:
        named = shards_by_split_names(checkpoint)
        refs = {ref.name: n for s in checkpoint.shards for n, ref in s.tensors.items()}
        wanted = {refs.get(name, name) for name in apart}
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
        **_stated(side.checkpoint.adapter_config or {}),
    )
    left = tuple(name for name in side.unmapped if name not in unmapped)
    kind = "is" if adapter.is_alone else "holds"
    return replace(
        side,
        tensors=tensors,
        errors=errors,
        unmapped=left,
        notes=(*notes, f"{kind} {adapter.words}"),
        adapter=adapter,
    )


def _stored(side: Assembled) -> int:
    return len({ref.name for shard in side.checkpoint.shards for ref in shard.tensors.values()})


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an adapter's config states of it, as far as it makes sense."""
    alpha, kind = config.get("lora_alpha"), config.get("peft_type")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        alpha = None
    return {
        "alpha": alpha if alpha is not None and abs(alpha) < MAX_ALPHA else None,
        "kind": kind.upper()[:MAX_KIND] if isinstance(kind, str) else "LORA",
    }


def _joined(side: Assembled, like: Assembled | None) -> tuple[dict[str, Assembly], set[str], str]:
    """Return what `joined` does, by the family of the side or else of the other one, and a note."""
    checkpoint = side.checkpoint
    rules = side.architecture or family_of_adapter(checkpoint, like)
    try:
        config = side.config or megatron_config(checkpoint, like)
        if rules is None or config is None or is_rank_file(checkpoint):
            return {}, set(), ""
        tensors, used = joined(checkpoint, rules, config)
    except CkptDiffError:
        return {}, set(), ""
    return (
        tensors,
        used,
        f"read by the rules of {rules.name}, which fit its names: it states no family",
    )


def unmatched_by_adapter(a: Assembled, b: Assembled) -> frozenset[str]:
    """Return the names that have no partner because one side has an adapter, or is one.

    A side that is an adapter has none of the model's tensors, so all of the other side's are there.
    """
    names: set[str] = set()
    if all(side.adapter is not None and side.adapter.is_alone for side in (a, b)):
        return frozenset()
    for side, other in ((a, b), (b, a)):
        if side.adapter is not None and not other.tensors.keys() >= set(side.adapter.names):
            names.update(name for name in side.adapter.names if name not in other.tensors)
            if side.adapter.is_alone:
                names.update(other.tensors.keys() - side.tensors.keys())
    return frozenset(names)
