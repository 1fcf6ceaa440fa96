"""A layer of experts: a router, the experts that it chooses, and experts that all tokens pass.

Sources: the SparseMoeBlock classes of transformers; megatron.core.transformer.moe, where each rank
adds up what its own experts give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf
from ckptdiff.forward.routing import route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.model import Routing


class ExpertsOf(LayerOf):
    """Experts of either side; a side says where the weights of one are.

    They are read one expert at a time, and not kept.
    """

    router_name = "mlp.gate.weight"
    router_bias_name = "mlp.gate.e_score_correction_bias"

    @property
    def routing(self) -> Routing:
        found = self.layer.routing
        assert found is not None
        return found

    @property
    def expert_shares(self) -> int:
        """Return over how many ranks an expert is cut."""
        return 1

    def expert_gate_up(self, expert: int, share: int) -> Tensor:
        """Return (gate and up, hidden) of one of an expert's shares: all programs join them."""
        raise NotImplementedError

    def expert_down(self, expert: int, share: int) -> Tensor:
        raise NotImplementedError

    def router(self, h: Tensor) -> Tensor:
        """Return (positions, experts)."""
        weight = self.weight(self.router_name)
        if self.routing.wide_logits and h.dtype.itemsize < 4:
            h, weight = h.float(), weight.float()
        return self.how.linear(h, weight)

    def route(
        self, logits: Tensor, followed: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        name = self.router_bias_name
        bias = self.reader.wide(self.held(name)) if self.has(name) else None
        reference = None if followed is None or weights is None else (followed, weights)
        return route(logits, bias, self.routing, self.how, reference)

    def activate_experts(self, h: Tensor, routing: Tensor) -> Tensor:
        """Return (choices, elements): expert by expert, the positions that it has."""
        found = []
        for expert, at in self._chosen(routing, range(self.routing.experts)):
            parts = []
            for share in range(self.expert_shares):
                gate, up = self.how.linear(h[at], self.expert_gate_up(expert, share)).chunk(2, -1)
                parts.append(self.how.gate(gate, up, self.model.activation))
            found.append(torch.cat(parts, -1))
        return torch.cat(found)

    def experts_out(self, act: Tensor, routing: Tensor) -> Tensor:
        """Return (positions, hidden): what the experts of each position give, weighted."""
        count = self.routing.experts
        each = -(-count // self.how.expert_ranks)
        sizes = (routing != 0).sum(0).tolist()
        rows = dict(enumerate(torch.split(act, sizes)))
        total: Tensor | None = None
        for first in range(0, count, each):
            for share in range(self.expert_shares):
                mine = range(first, min(first + each, count))
                part = self._sum(rows, routing, mine, share, act)
                total = part if total is None else total + part
        assert total is not None
        return total

    def _sum(
        self,
        rows: dict[int, Tensor],
        routing: Tensor,
        experts: range,
        share: int,
        like: Tensor,
    ) -> Tensor:
        """Return what one rank's share of its experts adds up to."""
        total = like.new_zeros(len(routing), self.model.hidden_size)
        for expert, at in self._chosen(routing, experts):
            x, weight = rows[expert], routing[at, expert, None]
            if self.how.weighs_inputs:
                x = (x * weight).to(like.dtype)
            x = x.chunk(self.expert_shares, -1)[share]
            y = self.how.linear(x, self.expert_down(expert, share))
            if not self.how.weighs_inputs:
                y = (y * weight).to(like.dtype)
            total.index_add_(0, at, y)
        return total

    def _chosen(self, routing: Tensor, experts: range) -> Iterator[tuple[int, Tensor]]:
        """Yield the experts that some position has chosen, and those positions."""
        for expert in experts:
            at = routing[:, expert].nonzero()[:, 0]
            if len(at):
                yield expert, at
