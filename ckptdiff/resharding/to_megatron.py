"""Cut canonical tensors into Megatron's shards: each rule read forward, over ranks and stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import fill_name, split_name
from ckptdiff.arch.naming import layer_prefix, spelled, templates_by_layer
from ckptdiff.arch.scatter import RankSlice, scatter
from ckptdiff.assembly.compose import RecipePart, compose, last_row_repeated, renamed, transpose
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Parallelism, Rank
    from ckptdiff.config.model import ModelConfig


_FIRST = ("embedding", "positions")  # the roles of what the first stage begins with


@dataclass(frozen=True, slots=True)
class Sharded:
    """A model as Megatron's ranks hold it."""

    # The tensors of each rank and virtual pipeline chunk, by native name, in model order.
    models: Mapping[tuple[Rank, int], Mapping[str, Assembly]]
    left: tuple[str, ...]  # canonical names that no rule cuts


def even_stages(num_layers: int, parallelism: Parallelism) -> list[int]:
    """Return how many layers each (chunk, stage) holds, chunk first, as even as can be.

    What is left over goes to the first and the last stage, where Megatron can be told so
    (`decoder_first_pipeline_num_layers` and its twin). Raises UnsupportedLayout where it cannot.
    """
    pp, places = parallelism.pp, parallelism.pp * parallelism.vpp
    each, over = divmod(num_layers, places)
    if over == 0:
        return [each] * places
    if parallelism.vpp > 1 or each == 0:
        raise UnsupportedLayout(
            f"{num_layers} layers cannot be cut into {pp} stages of {parallelism.vpp} chunks; "
            "choose another PP or VPP"
        )
    last = over // 2 if pp > 2 else 0
    return [each + over - last, *[each] * (pp - 2), each + last]


def shard(
    side: Assembled,
    config: ModelConfig,
    parallelism: Parallelism,
    stages: Sequence[int],
    names: Names,
    *,
    grouped: bool = False,
) -> Sharded:
    """Return every rank's tensors; `grouped` experts are named as TEGroupedMLP names them.

    `config` tells the rows of the vocabulary and, as `padded_vocab_size`, those with padding.
    Raises UnsupportedLayout for what cannot be cut so, or has no name in the naming scheme.
    """
    assert side.architecture is not None
    shapes = {name: tensor.shape for name, tensor in side.tensors.items()}
    shares = list(scatter(side.architecture, config, shapes, parallelism.tp, parallelism.etp))
    left = shapes.keys() - {name for share in shares for name in share.hf}
    tied = _tied_head(side, shares) if config.tied_embeddings and parallelism.pp > 1 else []
    shares += tied
    places = _Places(parallelism, stages, config.num_experts, shares)
    models: dict[tuple[Rank, int], dict[str, Assembly]] = {key: {} for key in places.all()}
    beside = templates_by_layer(share.name for share in shares)
    for share in sorted(shares, key=_order):
        if share.rule.zero_centred:
            raise UnsupportedLayout(
                f"{share.hf[0]}: Megatron keeps this norm less one, Hugging Face keeps it as it "
                "is; such a model cannot be converted yet"
            )
        whole = names == "te" and share.rule.or_replicated
        recipe = recipe_of(share, side.tensors, whole=whole)
        around = beside[layer_prefix(share.name)]
        for rank, chunk, native in places.of(share):
            name = spelled(native, names, around, grouped=grouped, tied=share in tied)
            models[rank, chunk][name] = replace(recipe, name=name)
    return Sharded(models, tuple(sorted(left)))


class _Places:
    """Which ranks and chunks hold a share, and under which numbers."""

    def __init__(
        self,
        parallelism: Parallelism,
        stages: Sequence[int],
        num_experts: int,
        shares: Iterable[RankSlice],
    ) -> None:
        self.parallelism = parallelism
        self.experts = num_experts // parallelism.ep
        if num_experts % parallelism.ep:
            raise UnsupportedLayout(f"{num_experts} experts cannot be cut for EP {parallelism.ep}")
        self.layers: dict[int, tuple[int, int, int]] = {}  # stage, chunk, number in it
        for place, count in enumerate(stages):
            chunk, stage = divmod(place, parallelism.pp)
            for number in range(count):
                self.layers[len(self.layers)] = (stage, chunk, number)
        self.predicts = any(share.rule.of_predictions for share in shares)

    def all(self) -> Iterator[tuple[Rank, int]]:
        for rank in self.parallelism.ranks():
            for chunk in range(self.parallelism.vpp):
                yield rank, chunk

    def of(self, share: RankSlice) -> Iterator[tuple[Rank, int, str]]:
        """Yield rank, chunk and the share's name there."""
        size = self.parallelism
        _, indices = split_name(share.name)
        last = (size.pp - 1, size.vpp - 1)
        homes = [last]
        if share.rule.role in _FIRST:
            # The predictions on the last stage embed tokens too.
            homes = sorted({(0, 0), last}) if self.predicts else [(0, 0)]
        elif share.rule.of_layers:
            stage, chunk, number = self.layers[indices[0]]
            homes, indices = [(stage, chunk)], (number, *indices[1:])
        owner = None
        if share.rule.of_experts:
            owner, expert = divmod(indices[-1], self.experts)
            indices = (*indices[:-1], expert)
        name = fill_name(share.rule.megatron, indices)
        for rank in size.ranks():
            place = rank.tp if owner is None else rank.tp % size.etp
            if place == share.rank and owner in (None, rank.ep):
                for stage, chunk in homes:
                    if stage == rank.pp:
                        yield rank, chunk, name


def _tied_head(side: Assembled, shares: list[RankSlice]) -> list[RankSlice]:
    """Return the head of the last stage, which is one more copy of the embedding."""
    assert side.architecture is not None
    (head,) = (m for m in side.architecture.mappings if m.role == "head")
    return [
        replace(share, name=head.megatron, rule=head)
        for share in shares
        if share.rule.role == "embedding"
    ]


def recipe_of(
    share: RankSlice, tensors: Mapping[str, Assembly], *, whole: bool = False
) -> Assembly:
    """Return the recipe of one shard. Raises UnsupportedLayout if its parts differ in dtype."""
    sources = {name: tensors[name] for name in share.hf}
    if share.rule.transposed:
        sources = {name: transpose(source) for name, source in sources.items()}
    first = sources[share.hf[0]]
    if whole:
        return renamed(first, share.name)
    dtypes = {source.dtype for source in sources.values()}
    if len(dtypes) != 1:
        raise UnsupportedLayout(
            f"{', '.join(share.hf)}: are {' and '.join(sorted(dtypes))}, and go into one tensor; "
            "choose a dtype"
        )
    parts = []
    for name, of, box in share.pieces:
        if name is not None:
            parts.append(RecipePart(sources[name], of, box))
        else:
            padding = last_row_repeated(first, of[0][1] - of[0][0])
            parts.append(RecipePart(padding, tuple((0, n) for n in padding.shape), box))
    shape = tuple(max(box[d][1] for _, _, box in share.pieces) for d in range(len(first.shape)))
    return compose(share.name, shape, first.dtype, parts)


def _order(share: RankSlice) -> tuple[int, int]:
    """Place shares as the model runs through them; within a layer the rules are in order."""
    if share.rule.role in _FIRST:
        return 0, 0
    if share.rule.of_layers or share.rule.of_predictions:
        return 1 if share.rule.of_layers else 3, split_name(share.name)[1][0]
    return 2 if share.rule.role == "norm" else 4, 0
