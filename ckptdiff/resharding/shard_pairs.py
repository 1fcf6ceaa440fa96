"""What every rank should hold by the reference, beside what it holds: shard by shard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.base import split_name
from ckptdiff.arch.naming import split_native
from ckptdiff.arch.scatter import scatter
from ckptdiff.assembly.compose import RecipePart, compose, rows_of
from ckptdiff.checkpoint import Rank
from ckptdiff.dtypes import FLOATS, narrower
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.resharding.to_megatron import recipe_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.arch.scatter import RankSlice
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.config.model import ModelConfig

SAMPLE = 1 << 15  # elements by which contents are told apart


@dataclass(frozen=True, slots=True, eq=False)
class ShardPair:
    """One shard: by name and tensor parallel rank, what should be there and what is."""

    share: RankSlice
    rank: Rank  # where the actual one lies
    expected: Assembly
    actual: Assembly
    is_copy: bool = False  # a replica beside the first
    stored: Assembly | None = None  # of a vocabulary: with the padding that is there

    @property
    def name(self) -> str:
        return self.share.name

    @property
    def rule(self) -> ParamMapping:
        return self.share.rule

    @property
    def template(self) -> str:
        return split_native(self.name)[0]

    @property
    def module(self) -> str:
        """The module that its linear layer is part of: `decoder.layers.3.mlp`."""
        return self.name.rpartition(".")[0].rpartition(".")[0]

    @property
    def home(self) -> tuple[str, int]:
        """Where it is, replicas apart: by name and rank."""
        return self.name, self.share.rank

    @property
    def layer(self) -> int | None:
        """Its layer as Hugging Face counts, from 0 over the whole model."""
        return next((i[0] for i in [split_name(self.share.hf[0])[1]] if i), None)

    @property
    def expert(self) -> int | None:
        return split_native(self.name)[1][-1] if self.rule.of_experts else None


@dataclass(frozen=True, slots=True)
class ShardGrid:
    """Both sides as they are compared, shard by shard."""

    a: Assembled
    b: Assembled
    architecture: Architecture
    config: ModelConfig
    tp: int
    etp: int
    is_sharded: bool  # whether B's ranks mean anything

    def size(self, rule: ParamMapping) -> int:
        return self.etp if rule.of_experts else self.tp


def shard_grid(a: Assembled, b: Assembled) -> ShardGrid | None:
    """Return the grid of B's ranks; None where no rules are known."""
    architecture = a.architecture or b.architecture
    config = b.config or a.config
    if architecture is None or config is None:
        return None
    embedding = b.tensors.get(architecture.embedding().hf[0])
    rows = None if embedding is None else embedding.shape[0]
    sharded = b.checkpoint.has_ranks
    size = b.checkpoint.parallelism
    tp, etp = (size.tp, size.etp) if sharded else (1, 1)
    if rows is not None:
        padded = -(-(rows + (embedding.padding_rows if embedding else 0)) // tp) * tp
        config = replace(config, vocab_size=rows, padded_vocab_size=padded)
    return ShardGrid(a, b, architecture, config, tp, etp, sharded)


def shard_pairs(grid: ShardGrid) -> Iterator[ShardPair]:
    """Yield every place whose tensors both sides have, in one shape.

    Of a vocabulary only the tokens are expected and compared, not the padding behind them.
    """
    a, b = grid.a.tensors, grid.b.tensors
    shapes = {n: t.shape for n, t in b.items() if n in a and a[n].shape == t.shape}
    for share in scatter(grid.architecture, grid.config, shapes, grid.tp, grid.etp):
        if any(name not in shapes for name in share.hf):
            continue
        if share.rule.dim is None and share.rank > 0:
            continue  # one place, and its copies
        copies = min(len(p.copies) for n in share.hf for p in b[n].pieces)
        tokens = replace(share, pieces=[piece for piece in share.pieces if piece[0] is not None])
        for number in range(copies + 1):
            held = {n: _nth(b[n], number) for n in share.hf}
            stored = None
            if share.rule.of_vocabulary:
                stored = _stored_rows(held[share.hf[0]], share)
            if not tokens.pieces:
                empty = replace(a[share.hf[0]], shape=(0, *a[share.hf[0]].shape[1:]), pieces=())
                yield ShardPair(share, Rank(), empty, empty, is_copy=number > 0, stored=stored)
                continue
            try:
                expected, actual = recipe_of(tokens, a), recipe_of(tokens, held)
            except UnsupportedLayout:
                continue
            dtype = _narrower(expected.dtype, actual.dtype)
            yield ShardPair(
                share, actual.pieces[0].rank, replace(expected, dtype=dtype),
                replace(actual, dtype=dtype), is_copy=number > 0, stored=stored,
            )  # fmt: skip


def with_padding(tensor: Assembly) -> Assembly:
    """Return a vocabulary together with the padding behind its last row."""
    rows = tensor.shape[0] + tensor.padding_rows
    return replace(
        tensor,
        shape=(rows, *tensor.shape[1:]),
        pieces=(*tensor.pieces, *tensor.padding),
        padding=(),
    )


def _stored_rows(tensor: Assembly, share: RankSlice) -> Assembly:
    """Return all rows that a rank holds of a vocabulary."""
    whole = with_padding(tensor)
    size = max(box[0][1] for _, _, box in share.pieces)
    start = min(share.rank * size, whole.shape[0])
    stop = min(start + size, whole.shape[0])
    return rows_of(whole, start, stop, share.name)


def sample(recipe: Assembly) -> Assembly:
    """Return the recipe of some rows, by which contents of one shape are told apart."""
    rows, *others = recipe.shape or (1,)
    count = max(1, SAMPLE // max(1, prod(others)))
    if not recipe.shape or count >= rows:
        return recipe
    return chosen_rows(recipe, [i * rows // count for i in range(count)])


def chosen_rows(recipe: Assembly, rows: list[int]) -> Assembly:
    """Return the recipe of single rows of a tensor, one below the other."""
    rest = tuple((0, size) for size in recipe.shape[1:])
    parts = [
        RecipePart(recipe, ((r, r + 1), *rest), ((i, i + 1), *rest)) for i, r in enumerate(rows)
    ]
    return compose(recipe.name, (len(rows), *recipe.shape[1:]), recipe.dtype, parts)


def _nth(assembly: Assembly, number: int) -> Assembly:
    """Return the recipe through the first copies, or through the next ones of each piece."""
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
    """Return the dtype that both are cast to: the narrower one, bfloat16 of the two of 16 bits."""
    return narrower(a, b) if a in FLOATS and b in FLOATS else b
