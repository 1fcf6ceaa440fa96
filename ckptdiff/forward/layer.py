"""What the layers of all sides have in common: positions, attention, sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import MissingShard
from ckptdiff.forward.arithmetic import widened
from ckptdiff.forward.rope import angles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.holdings import Held, Ranks
    from ckptdiff.forward.model import LayerSpec, Model, Rope
    from ckptdiff.forward.reading import Reader


MOST_ELEMENTS = 1 << 24  # of a head that are read at a time


@dataclass
class LayerOf:
    """One layer of one side. Values are (positions, features) or (positions, heads, elements)."""

    model: Model
    number: int  # over the whole model; of the steps outside of layers, any
    ranks: Ranks
    reader: Reader
    how: Arithmetic
    copy: int = 0  # the rank whose copy is taken of what each rank has a copy of
    copied: set[str] = field(default_factory=set)  # the names of those that were asked for

    # ── weights ──────────────────────────────────────────────────────────────────────────────────

    def has(self, name: str) -> bool:
        return name in self.ranks[0]

    def weight(self, name: str, rank: int | None = None) -> Tensor:
        """Return a rank's tensor, or one that all ranks have a copy of. Raises MissingShard."""
        return self.reader.tensor(self.held(name, rank))

    def held(self, name: str, rank: int | None = None) -> Held:
        """Say where a rank's tensor lies, or a copy. Raises MissingShard."""
        if rank is None:
            rank = self.copy
            self.copied.add(name)
        if name not in self.ranks[rank]:
            on = f" on tensor rank {rank}" if len(self.ranks) > 1 else ""
            raise MissingShard(
                f"{name} is missing{on}: copy the file that has it, or convert again"
            )
        return self.ranks[rank][name]

    def optional(self, name: str, rank: int | None = None) -> Tensor | None:
        there = name in self.ranks[self.copy if rank is None else rank]
        return self.weight(name, rank) if there else None

    # ── steps ────────────────────────────────────────────────────────────────────────────────────

    @property
    def layer(self) -> LayerSpec:
        return self.model.layers[self.number]

    @property
    def features(self) -> frozenset[str]:
        """Return the optional steps that it takes, and the structures that it is made of."""
        model, latent = self.model, self.model.latent
        has = {
            "norm1": model.norms_in_front,
            "norm2": model.norms_in_front,
            "norm_attention": model.norms_behind,
            "norm_mlp": model.norms_behind,
            "positions": model.learned_positions,
            "experts": self.layer.routing is not None,
            "latent attention": latent is not None,
            "compress_queries": latent is not None and latent.query_rank is not None,
            "norm_queries": latent is not None and latent.query_rank is not None,
        }
        return frozenset(name for name, on in has.items() if on)

    def norm(self, name: str, x: Tensor, epsilon: float | None = None) -> Tensor:
        model = self.model
        epsilon = model.layernorm_epsilon if epsilon is None else epsilon
        weight = self.weight(f"{name}.weight")
        if model.zero_centered:
            weight = (widened(weight) if model.wide_norm else weight) + 1
        if model.rms_norm:
            return self.how.rms_norm(x, weight, epsilon, is_wide=model.wide_norm)
        return self.how.layer_norm(x, weight, self.optional(f"{name}.bias"), epsilon)

    def each_head(self, norm: str, x: Tensor) -> Tensor:
        """Return x of (positions, heads, elements) normalised, head by head or all at once."""
        if self.model.norms_all_heads:
            return self.norm(norm, x.flatten(1)).view_as(x)
        return self.norm(norm, x)

    def rows_of_ranks(self, ids: Tensor, parts: Iterable[Held]) -> Tensor:
        """Return rows of a matrix of which each rank has a range, and gives zeros beyond it."""
        total: Tensor | None = None
        start = 0
        for held in parts:
            size = held.shape[0]
            mine = (ids >= start) & (ids < start + size)
            rows = self.reader.rows(held, torch.where(mine, ids - start, 0))
            rows = torch.where(mine[:, None].to(rows.device), rows, 0)
            total = rows if total is None else total + rows
            start += size
        assert total is not None
        return total

    def start(self, embed: Tensor) -> Tensor:
        return embed

    def scaled(self, rows: Tensor) -> Tensor:
        """Return an embedding's rows as they enter the model."""
        return self.how.scaled(rows, self.model.embedding_scale)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        rope = self.layer.rope
        return (q, k) if rope is None else (self.turned(rope, q), self.turned(rope, k))

    def turned(self, rope: Rope, x: Tensor) -> Tensor:
        """Return x of (positions, heads, elements) with the first `rope.dim` elements rotated."""
        cosine, sine = angles(rope, len(x), x, polar=self.how.complex_rope)
        turned = self.how.rotate(x, cosine, sine, neighbours=rope.interleaved, is_wide=rope.is_wide)
        if rope.interleaved and not rope.regroups:
            halves = turned[..., : rope.dim].chunk(2, -1)
            pairs = torch.stack(halves, -1).flatten(-2)
            turned = torch.cat((pairs, turned[..., rope.dim :]), -1)
        return turned

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        model = self.model
        if self.how.complex_rope:  # its pairs are neighbours, and sums are taken in that order
            q, k = (torch.stack(x.chunk(2, -1), -1).flatten(-2) for x in (q, k))
        return self.how.attend(
            q, k, v, model.softmax_scale, self.layer.window, model.attention_cap
        ).flatten(1)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return self.how.add(x, update)

    def row_parallel(self, x: Tensor, name: str) -> Tensor:
        """Return x times a weight of which each rank has some columns."""
        weights = (self.weight(f"{name}.weight", rank) for rank in range(len(self.ranks)))
        parts = zip(x.chunk(len(self.ranks), -1), weights, strict=True)
        return self.how.row_parallel(parts, self.optional(f"{name}.bias"))

    def product(self, x: Tensor, held: Held) -> Tensor:
        """Return x times a large matrix, of which some rows are read at a time."""
        rows, columns = held.shape
        step = max(1, MOST_ELEMENTS // columns)
        parts = [
            self.how.linear(x, self.reader.rows(held, slice(start, start + step)))
            for start in range(0, rows, step)
        ]
        return torch.cat(parts, -1)
