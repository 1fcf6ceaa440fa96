"""Split canonical tensors into Megatron's shards, over tensor, pipeline and expert ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import layer_prefix, spelled, templates_by_layer, templates_of
from ckptdiff.arch.scatter import RankSlice, scatter
from ckptdiff.arch.templates import fill_name, split_name
from ckptdiff.assembly.compose import RecipePart, compose, last_row_repeated, renamed, transpose
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.checkpoint import Parallelism, Rank
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.config.programs import Version


_FIRST_STAGE_ROLES = ("embedding", "positions")  # in front of the first layer


@dataclass(frozen=True, slots=True)
class Sharded:
    """A model split over Megatron's ranks."""

    # The tensors of each rank and virtual pipeline chunk, by native name, in model order.
    models: Mapping[tuple[Rank, int], Mapping[str, Assembly]]
    left: tuple[str, ...]  # canonical names without a rule


def even_stages(num_layers: int, parallelism: Parallelism) -> list[int]:
    """Return the layers of each (virtual chunk, stage), all stages of the first chunk first.

    Layers are spread evenly. A remainder goes to the first and the last stage, which Megatron takes
    as `decoder_first_pipeline_num_layers` and `decoder_last_pipeline_num_layers`. Raises
    UnsupportedLayout if there is a remainder with virtual chunks, or fewer layers than stages.
    """
    pp, chunks = parallelism.pp, parallelism.pp * parallelism.vpp
    each, over = divmod(num_layers, chunks)
    if over == 0:
        return [each] * chunks
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
    version: Version | None = None,
) -> Sharded:
    """Return every rank's tensors, named as `names` says.

    `stages` are the layers of each (chunk, stage), as `even_stages` returns them. `config` gives
    the rows of the vocabulary: `vocab_size`, and with padding `padded_vocab_size`. With `grouped`,
    experts are named as in TEGroupedMLP. `version` is of the program that is to load the tensors,
    None for a distributed checkpoint. Raises UnsupportedLayout for a tensor that the parallelism
    does not divide, or without a name in the scheme.
    """
    assert side.architecture is not None
    shapes = {name: tensor.shape for name, tensor in side.tensors.items()}
    slices = list(scatter(side.architecture, config, shapes, parallelism.tp, parallelism.etp))
    left = shapes.keys() - {name for rank_slice in slices for name in rank_slice.hf}
    tied = _tied_head(side, slices) if config.tied_embeddings and parallelism.pp > 1 else []
    slices += tied
    placement = _Placement(parallelism, stages, config.num_experts, slices)
    models: dict[tuple[Rank, int], dict[str, Assembly]] = {
        key: {} for key in placement.rank_chunks()
    }
    templates = templates_by_layer(rank_slice.name for rank_slice in slices)
    # What is in no layer is named for the family, whose other models may have Mamba layers.
    templates |= {"": templates_of(side.architecture)}
    for rank_slice in sorted(slices, key=_model_order):
        if rank_slice.rule.zero_centred:
            raise UnsupportedLayout(
                f"{rank_slice.hf[0]}: Megatron keeps this norm less one, Hugging Face keeps it as "
                "it is; such a model cannot be converted yet"
            )
        # Transformer Engine's layers hold some projections whole, and no norm that is in parts.
        is_linear = rank_slice.rule.role != "norm"
        whole = names == "te" and rank_slice.rule.or_replicated and is_linear
        recipe = recipe_of(rank_slice, side.tensors, whole=whole)
        in_layer = templates[layer_prefix(rank_slice.name)]
        for rank, chunk, native in placement.of(rank_slice):
            name = spelled(
                native,
                names,
                in_layer,
                grouped=grouped,
                tied=rank_slice in tied,
                version=version,
            )
            models[rank, chunk][name] = replace(recipe, name=name)
    return Sharded(models, tuple(sorted(left)))


class _Placement:
    """Which ranks and virtual chunks hold a rank slice, and under which local numbers."""

    def __init__(
        self,
        parallelism: Parallelism,
        stages: Sequence[int],
        num_experts: int,
        slices: Iterable[RankSlice],
    ) -> None:
        self.parallelism = parallelism
        self.expert_slices = {rank: parallelism.expert_slice(rank) for rank in parallelism.ranks()}
        self.experts_per_rank = num_experts // parallelism.ep
        if num_experts % parallelism.ep:
            raise UnsupportedLayout(f"{num_experts} experts cannot be cut for EP {parallelism.ep}")
        # Of each layer: stage, chunk, local number in the chunk.
        self.layers: dict[int, tuple[int, int, int]] = {}
        for position, count in enumerate(stages):
            chunk, stage = divmod(position, parallelism.pp)
            for number in range(count):
                self.layers[len(self.layers)] = (stage, chunk, number)
        self.has_predictions = any(rank_slice.rule.of_predictions for rank_slice in slices)

    def rank_chunks(self) -> Iterator[tuple[Rank, int]]:
        """Yield every rank with every virtual chunk."""
        for rank in self.expert_slices:
            for chunk in range(self.parallelism.vpp):
                yield rank, chunk

    def of(self, rank_slice: RankSlice) -> Iterator[tuple[Rank, int, str]]:
        """Yield each (rank, chunk) that holds a rank slice, with its local name there."""
        size = self.parallelism
        _, indices = split_name(rank_slice.name)
        last = (size.pp - 1, size.vpp - 1)
        homes = [last]
        if rank_slice.rule.role in _FIRST_STAGE_ROLES:
            # MTP layers are on the last stage, and embed tokens there too.
            homes = sorted({(0, 0), last}) if self.has_predictions else [(0, 0)]
        elif rank_slice.rule.of_layers:
            stage, chunk, number = self.layers[indices[0]]
            homes, indices = [(stage, chunk)], (number, *indices[1:])
        owner = None
        if rank_slice.rule.of_experts:
            owner, expert = divmod(indices[-1], self.experts_per_rank)
            indices = (*indices[:-1], expert)
        name = fill_name(rank_slice.rule.megatron, indices)
        for rank in self.expert_slices:
            split_rank = rank.tp if owner is None else self.expert_slices[rank]
            if split_rank == rank_slice.rank and owner in (None, rank.ep):
                for stage, chunk in homes:
                    if stage == rank.pp:
                        yield rank, chunk, name


def _tied_head(side: Assembled, slices: list[RankSlice]) -> list[RankSlice]:
    """Return the rank slices of a tied head: the last stage holds a copy of the embedding."""
    assert side.architecture is not None
    (head,) = (m for m in side.architecture.mappings if m.role == "head")
    return [
        replace(rank_slice, name=head.megatron, rule=head)
        for rank_slice in slices
        if rank_slice.rule.role == "embedding"
    ]


def recipe_of(
    rank_slice: RankSlice, tensors: Mapping[str, Assembly], *, whole: bool = False
) -> Assembly:
    """Return the recipe of one shard, in the shape of the shard.

    `whole` takes the first tensor unsplit. Raises UnsupportedLayout if parts differ in dtype.
    """
    sources = {name: tensors[name] for name in rank_slice.hf}
    if rank_slice.rule.transposed:
        sources = {name: transpose(source) for name, source in sources.items()}
    first = sources[rank_slice.hf[0]]
    if whole:
        return renamed(first, rank_slice.name)
    dtypes = {source.dtype for source in sources.values()}
    if len(dtypes) != 1:
        raise UnsupportedLayout(
            f"{', '.join(rank_slice.hf)}: are {' and '.join(sorted(dtypes))}, and go into one "
            "tensor; choose a dtype"
        )
    parts = []
    for name, of, box in rank_slice.pieces:
        if name is not None:
            parts.append(RecipePart(sources[name], of, box))
        else:
            padding = last_row_repeated(first, of[0][1] - of[0][0])
            parts.append(RecipePart(padding, tuple((0, n) for n in padding.shape), box))
    shape = tuple(
        max(box[d][1] for _, _, box in rank_slice.pieces) for d in range(len(first.shape))
    )
    return compose(rank_slice.name, shape, first.dtype, parts)


def _model_order(rank_slice: RankSlice) -> tuple[int, int]:
    """Return a sort key in the order of the forward pass; within a layer, rules keep theirs."""
    if rank_slice.rule.role in _FIRST_STAGE_ROLES:
        return 0, 0
    if rank_slice.rule.of_layers or rank_slice.rule.of_predictions:
        return 1 if rank_slice.rule.of_layers else 3, split_name(rank_slice.name)[1][0]
    return 2 if rank_slice.rule.role == "norm" else 4, 0
