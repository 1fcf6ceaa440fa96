"""Pair each shard that a rank should hold, by the reference, with the one it does hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import split_native
from ckptdiff.arch.scatter import scatter
from ckptdiff.arch.templates import split_name
from ckptdiff.assembly.compose import RecipePart, compose, rows_of
from ckptdiff.checkpoint import Rank
from ckptdiff.dtypes import FLOATS, narrower
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.resharding.to_megatron import recipe_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.arch.scatter import RankSlice
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.config.model import ModelConfig

SAMPLE_ELEMENTS = 1 << 15  # of a content, by whose digest it is looked up


@dataclass(frozen=True, slots=True, eq=False)
class ShardPair:
    """One shard of one tensor parallel rank: the content expected there, and the actual one.

    Both recipes have the shape of the shard, a vocabulary's without padding, and one dtype.
    """

    rank_slice: RankSlice
    rank: Rank  # whose file holds the actual content
    expected: Assembly  # from A
    actual: Assembly  # from B
    is_copy: bool = False  # a replica other than the first
    stored: Assembly | None = None  # a vocabulary's actual content with its padding rows

    @property
    def name(self) -> str:
        return self.rank_slice.name

    @property
    def rule(self) -> ParamMapping:
        return self.rank_slice.rule

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The Hugging Face tensors that the shard is made of."""
        return self.rank_slice.hf

    @property
    def tp_rank(self) -> int:
        """Its tensor parallel rank; of a routed expert, that in expert tensor parallelism."""
        return self.rank_slice.rank

    @property
    def template(self) -> str:
        """Its native name with `#` for numbers: `decoder.layers.#.mlp.linear_fc1.weight`."""
        return split_native(self.name)[0]

    @property
    def module(self) -> str:
        """The module that holds its linear layer: `decoder.layers.3.mlp`."""
        return self.name.rpartition(".")[0].rpartition(".")[0]

    @property
    def home(self) -> tuple[str, int]:
        """Its native name and TP rank: replicas have the same."""
        return self.name, self.tp_rank

    @property
    def layer(self) -> int | None:
        """Its layer by Hugging Face's number, from 0 over the whole model; None outside layers."""
        return next((i[0] for i in [split_name(self.hf_names[0])[1]] if i), None)

    @property
    def expert(self) -> int | None:
        """Its routed expert's global number; None for anything else."""
        return split_native(self.name)[1][-1] if self.rule.of_experts else None


@dataclass(frozen=True, slots=True)
class ShardGrid:
    """Both sides, and over how many ranks B's layout splits their tensors."""

    a: Assembled
    b: Assembled
    architecture: Architecture
    config: ModelConfig
    tp: int
    etp: int
    is_sharded: bool  # B is in Megatron's torch format: a finding may name ranks

    def size(self, rule: ParamMapping) -> int:
        """Return over how many ranks a rule's tensors are split."""
        return self.etp if rule.of_experts else self.tp


def shard_grid(a: Assembled, b: Assembled) -> ShardGrid | None:
    """Return the grid by B's parallelism; None without a known family and config."""
    architecture = a.architecture or b.architecture
    config = b.config or a.config
    if architecture is None or config is None:
        return None
    names = [rule.hf[0] for rule in architecture.mappings if rule.role == "embedding"]
    embedding = b.tensors.get(names[0]) if names else None
    rows = None if embedding is None else embedding.shape[0]
    sharded = b.checkpoint.has_ranks
    size = b.checkpoint.parallelism
    tp, etp = (size.tp, size.etp) if sharded else (1, 1)
    if rows is not None:
        padded = -(-(rows + (embedding.padding_rows if embedding else 0)) // tp) * tp
        config = replace(config, vocab_size=rows, padded_vocab_size=padded)
    return ShardGrid(a, b, architecture, config, tp, etp, sharded)


def shard_pairs(grid: ShardGrid) -> Iterator[ShardPair]:
    """Yield a pair for each shard, and each replica, whose tensors both sides have in one shape.

    A vocabulary's `expected` and `actual` are its token rows, without the padding behind them.
    """
    a, b = grid.a.tensors, grid.b.tensors
    shapes = {
        n: t.shape
        for n, t in b.items()
        if n in a and a[n].shape == t.shape and not (t.is_blob or a[n].is_blob)
    }
    for rank_slice in scatter(grid.architecture, grid.config, shapes, grid.tp, grid.etp):
        if any(name not in shapes for name in rank_slice.hf):
            continue
        if not _fits(rank_slice, shapes):
            continue  # both sides have it in another shape than the rule says
        if rank_slice.rule.dim is None and rank_slice.rank > 0:
            continue  # replicated over TP: the other ranks' shards are copies of rank 0's
        copies = min(len(p.copies) for n in rank_slice.hf for p in b[n].pieces)
        tokens = replace(
            rank_slice, pieces=[piece for piece in rank_slice.pieces if piece[0] is not None]
        )
        for number in range(copies + 1):
            held = {n: _nth(b[n], number) for n in rank_slice.hf}
            stored = None
            if rank_slice.rule.of_vocabulary:
                stored = _stored_rows(held[rank_slice.hf[0]], rank_slice)
            if not tokens.pieces:
                empty = replace(
                    a[rank_slice.hf[0]], shape=(0, *a[rank_slice.hf[0]].shape[1:]), pieces=()
                )
                yield ShardPair(rank_slice, Rank(), empty, empty, is_copy=number > 0, stored=stored)
                continue
            try:
                expected, actual = recipe_of(tokens, a), recipe_of(tokens, held)
            except UnsupportedLayout:
                continue
            dtype = _narrower(expected.number_dtype, actual.number_dtype)
            yield ShardPair(
                rank_slice, actual.pieces[0].rank, replace(expected, dtype=dtype),
                replace(actual, dtype=dtype), is_copy=number > 0, stored=stored,
            )  # fmt: skip


def _fits(rank_slice: RankSlice, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the tensors of a slice have all the elements that its rule takes of them."""
    step = -1 if rank_slice.rule.transposed else 1
    return all(
        name is None
        or all(stop <= size for (_, stop), size in zip(of, shapes[name][::step], strict=True))
        for name, of, _ in rank_slice.pieces
    )


def with_padding(tensor: Assembly) -> Assembly:
    """Return a vocabulary together with the padding rows behind its last token."""
    rows = tensor.shape[0] + tensor.padding_rows
    return replace(
        tensor,
        shape=(rows, *tensor.shape[1:]),
        pieces=(*tensor.pieces, *tensor.padding),
        padding=(),
    )


def _stored_rows(tensor: Assembly, rank_slice: RankSlice) -> Assembly:
    """Return all rows of a vocabulary that a rank holds, padding included."""
    whole = with_padding(tensor)
    size = max(box[0][1] for _, _, box in rank_slice.pieces)
    start = min(rank_slice.rank * size, whole.shape[0])
    stop = min(start + size, whole.shape[0])
    return rows_of(whole, start, stop, rank_slice.name)


def sample(recipe: Assembly) -> Assembly:
    """Return the recipe of evenly spaced rows, at least one, of about `SAMPLE_ELEMENTS` in all."""
    rows, *others = recipe.shape or (1,)
    count = max(1, SAMPLE_ELEMENTS // max(1, prod(others)))
    if not recipe.shape or count >= rows:
        return recipe
    return chosen_rows(recipe, [i * rows // count for i in range(count)])


def chosen_rows(recipe: Assembly, rows: list[int]) -> Assembly:
    """Return the recipe of a tensor of the given rows, in the given order."""
    rest = tuple((0, size) for size in recipe.shape[1:])
    parts = [
        RecipePart(recipe, ((r, r + 1), *rest), ((i, i + 1), *rest)) for i, r in enumerate(rows)
    ]
    return compose(recipe.name, (len(rows), *recipe.shape[1:]), recipe.dtype, parts)


def _nth(assembly: Assembly, number: int) -> Assembly:
    """Return the recipe that reads copy `number` of each piece; 0 is the piece itself."""
    if number == 0:
        return assembly
    pieces, padding = (
        tuple(
            replace(p, ref=p.copies[number - 1].ref, rank=p.copies[number - 1].rank)
            if len(p.copies) >= number
            else p
            for p in found
        )
        for found in (assembly.pieces, assembly.padding)
    )
    return replace(assembly, pieces=pieces, padding=padding)


def _narrower(a: str, b: str) -> str:
    """Return the dtype in which both are compared: the narrower, BF16 where one is F16."""
    return narrower(a, b) if a in FLOATS and b in FLOATS else b
