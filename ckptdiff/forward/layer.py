"""What the layers of all sides have in common: positions, attention, sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ckptdiff.errors import MissingShard
from ckptdiff.forward.rope import angles

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.holdings import Held, Ranks
    from ckptdiff.forward.model import Model
    from ckptdiff.forward.reading import Reader


MOST_ELEMENTS = 1 << 24  # of a head that are read at a time


@dataclass
class LayerOf(ABC):
    """One layer of one side. Values are (positions, features) or (positions, heads, elements)."""

    model: Model
    number: int  # over the whole model; of the steps outside of layers, any
    ranks: Ranks
    reader: Reader
    how: Arithmetic

    @property
    @abstractmethod
    def features(self) -> frozenset[str]: ...

    # ── weights ──────────────────────────────────────────────────────────────────────────────────

    def has(self, name: str) -> bool:
        return name in self.ranks[0]

    def weight(self, name: str, rank: int = 0) -> Tensor:
        """Return a rank's tensor. Raises MissingShard."""
        return self.reader.tensor(self.held(name, rank))

    def held(self, name: str, rank: int = 0) -> Held:
        """Say where a rank's tensor lies. Raises MissingShard."""
        if name not in self.ranks[rank]:
            raise MissingShard(f"{name} of layer {self.number} is missing on tensor rank {rank}")
        return self.ranks[rank][name]

    def optional(self, name: str, rank: int = 0) -> Tensor | None:
        return self.weight(name, rank) if name in self.ranks[rank] else None

    # ── steps ────────────────────────────────────────────────────────────────────────────────────

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weight(f"{name}.weight")
        if self.model.zero_centered:
            weight = weight + 1
        if self.model.rms_norm:
            return self.how.rms_norm(x, weight, self.model.layernorm_epsilon)
        bias = self.optional(f"{name}.bias")
        return self.how.layer_norm(x, weight, bias, self.model.layernorm_epsilon)

    def start(self, embed: Tensor) -> Tensor:
        return embed

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        rope = self.model.layers[self.number].rope
        if rope is None:
            return q, k
        cosine, sine = angles(rope, len(q), q)
        return tuple(self.how.rotate(x, cosine, sine) for x in (q, k))  # type: ignore[return-value]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = self.model.layers[self.number].window
        return self.how.attend(q, k, v, self.model.softmax_scale, window).flatten(1)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return self.how.add(x, update)

    def product(self, x: Tensor, held: Held) -> Tensor:
        """Return x times a large matrix, of which some rows are read at a time."""
        rows, columns = held.shape
        step = max(1, MOST_ELEMENTS // columns)
        parts = [
            self.how.linear(x, self.reader.rows(held, slice(start, start + step)))
            for start in range(0, rows, step)
        ]
        return torch.cat(parts, -1)
