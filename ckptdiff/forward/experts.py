"""Mixture of experts: a router, the experts that it chooses, and shared experts.

Sources: the SparseMoeBlock classes of transformers; megatron.core.transformer.moe, where each rank
adds up the outputs of its own experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.layer import LayerOf
from ckptdiff.forward.points import (
    COMMON,
    EXPERT_SUMS,
    PARTIAL,
    WEIGHTED_INPUT,
    WEIGHTED_OUTPUT,
)
from ckptdiff.forward.routing import route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.model import Routing


_EXPERTS = "mlp.experts"


class ExpertsOf(LayerOf):
    """The experts of a layer; a side's class says where the weights of one expert are.

    Weights are read one expert at a time. An expert's index is over the whole layer, an `etp_rank`
    is one of the ranks that an expert is split over (expert tensor parallelism).
    """

    router_name = "mlp.gate.weight"
    router_bias_name = "mlp.gate.e_score_correction_bias"

    @property
    def routing(self) -> Routing:
        found = self.layer.routing
        assert found is not None
        return found

    @property
    def expert_tp(self) -> int:
        """Return over how many ranks an expert is split as it is stored."""
        return 1

    def expert_gate_up(self, expert: int, etp_rank: int) -> Tensor:
        """Return gate and up of a rank slice, joined as all programs do: (2 * features, hidden).

        Without a gate it is the up projection.
        """
        raise NotImplementedError

    def expert_down(self, expert: int, etp_rank: int) -> Tensor:
        """Return the down projection of a rank slice: (hidden, features)."""
        raise NotImplementedError

    def expert_gate_up_bias(self, expert: int) -> Tensor | None:
        """Return the biases of gate and up, joined: (2 * features,). No program cuts them."""
        raise NotImplementedError

    def expert_down_bias(self, expert: int) -> Tensor | None:
        """Return the bias of the down projection: (hidden,)."""
        raise NotImplementedError

    def expert_tensor(self, name: str, etp_rank: int | None = None) -> Tensor:
        """Return a tensor of an expert."""
        return self.reader.expert(self.held(name, etp_rank))

    @property
    def has_expert_biases(self) -> bool:
        return _EXPERTS not in self.model.without_bias

    def router(self, h: Tensor) -> Tensor:
        """Return the router's logits, (positions, experts)."""
        weight = self.weight(self.router_name)
        bias = self.optional(f"{self.router_name.removesuffix('.weight')}.bias")
        return self.arithmetic.router_logits(h, weight, bias, is_wide=self.routing.wide_logits)

    def route(
        self, logits: Tensor, followed: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the experts' weights, (positions, experts), from the logits of that shape.

        `followed` and `weights` are the reference's logits and weights (see `routing.route`).
        """
        name = self.router_bias_name
        is_biased = self.routing.biased and self.has(name)
        bias = self.reader.wide_tensor(self.held(name)) if is_biased else None
        reference = None if followed is None or weights is None else (followed, weights)
        return route(logits, bias, self.routing, self.arithmetic, reference)

    def activate_experts(self, h: Tensor, routing: Tensor) -> Tensor:
        """Return the activated values of all choices, (choices, features), expert by expert."""
        found = []
        for expert, positions in enumerate(positions_by_expert(routing)):
            if not len(positions):
                continue
            parts = []
            for etp_rank in range(self.expert_tp):
                y = self.arithmetic.linear(h[positions], self.expert_gate_up(expert, etp_rank))
                if (bias := self.expert_gate_up_bias(expert)) is not None:
                    y = self.arithmetic.add(y, bias)
                parts.append(self.activated(y))
            found.append(torch.cat(parts, -1))
        return torch.cat(found)

    def activated(self, y: Tensor) -> Tensor:
        """Return the activation of y: of gate and up, (…, 2 * features), if the MLP is gated."""
        if not self.model.gated:
            return self.arithmetic.activate(y, self.model.activation)
        gate, up = y.chunk(2, -1)
        return self.gated(gate, up)

    def enter_latent(self, h: Tensor) -> Tensor:
        """Return h, (positions, hidden), in the space that experts compute in."""
        return self._latent_product(h, "mlp.fc1_latent_proj")

    def leave_latent(self, x: Tensor) -> Tensor:
        return self._latent_product(x, "mlp.fc2_latent_proj")

    def _latent_product(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weight(f"{name}.weight"), self.optional(f"{name}.bias")
        return self.arithmetic.linear(x, weight, bias)

    def experts_out(self, activated: Tensor, routing: Tensor) -> Tensor:
        """Return (positions, hidden): the weighted sum of each position's experts."""
        count = self.routing.experts
        per_rank = -(-count // self.arithmetic.expert_ranks)
        positions = positions_by_expert(routing)
        rows = torch.split(activated, [len(of_one) for of_one in positions])
        chosen = list(zip(positions, rows, strict=True))
        total: Tensor | None = None
        for first in range(0, count, per_rank):
            experts = range(first, min(first + per_rank, count))
            for part in self._sums(chosen, routing, experts, activated):
                total = part if total is None else self._add(total, part)
        assert total is not None
        if not self.routing.wide_sum:
            return total
        return self.arithmetic.narrowed(total, activated.dtype, EXPERT_SUMS)

    def _sums(
        self, chosen: list[tuple[Tensor, Tensor]], routing: Tensor, experts: range, like: Tensor
    ) -> list[Tensor]:
        """Return the sums over a rank's experts, (positions, hidden), one for each of its slices.

        `chosen` are each expert's positions and their activated values.
        """
        width = self.model.expert_latent or self.model.hidden_size
        dtype = routing.dtype if self.routing.wide_sum else like.dtype
        how = self.arithmetic
        point = PARTIAL if how.expert_slices > 1 else COMMON
        totals = [
            like.new_zeros(len(routing), width, dtype=dtype) for _ in range(how.expert_slices)
        ]
        for expert in experts:
            positions, x = chosen[expert]
            if not len(positions):
                continue
            weight = routing[positions, expert, None]
            if how.scales_expert_input:
                x = how.narrowed(x * weight, like.dtype, WEIGHTED_INPUT)
            parts = x.tensor_split(how.expert_slices, -1)
            for total, part, down in zip(totals, parts, self._down_slices(expert), strict=True):
                y = how.product(part, down, point)
                bias = self.expert_down_bias(expert)
                if how.scales_expert_input:
                    if bias is not None:
                        y = how.add(y, self._weighted(bias, weight, WEIGHTED_INPUT))
                else:
                    y = y if bias is None else how.add(y, bias)
                    y = self._weighted(y, weight, WEIGHTED_OUTPUT)
                total[positions] = self._add(total[positions], y.to(dtype))
        return totals

    def _down_slices(self, expert: int) -> Iterator[Tensor]:
        """Yield the columns of the down projection that each rank of the arithmetic multiplies.

        If they are not stored in so many slices, these are joined and cut evenly.
        """
        slices = self.arithmetic.expert_slices
        held = (self.expert_down(expert, rank) for rank in range(self.expert_tp))
        if self.expert_tp == slices:
            yield from held
        else:
            yield from torch.cat(list(held), 1).tensor_split(slices, 1)

    def _weighted(self, x: Tensor, weight: Tensor, point: str) -> Tensor:
        """Return x times an expert's weight, in the wider of their dtypes; a sum comes next."""
        y, routing = x * weight, self.routing
        is_wide = routing.wide_logits or routing.wide_weights
        if is_wide and (routing.wide_sum or point == WEIGHTED_INPUT):
            return y
        return self.arithmetic.narrowed(y, y.dtype, point)

    def _add(self, total: Tensor, y: Tensor) -> Tensor:
        return self.arithmetic.add_experts(total, y, is_wide=self.routing.wide_sum)

    def gated_shared(self, given: Tensor, h: Tensor, gate: str) -> Tensor:
        """Return the shared experts' output, gated by h if there is a weight named `gate`."""
        weight = self.optional(gate)
        if weight is None:
            return given
        # No program does so in float32.
        how = replace(self.arithmetic, wide_gates=False)
        return how.times_sigmoid(given, how.linear(h, weight))


def positions_by_expert(routing: Tensor) -> tuple[Tensor, ...]:
    """Return for each expert the positions that chose it, ascending; found for all at once.

    `routing` are the experts' weights, (positions, experts).
    """
    chosen = routing.t() != 0
    return torch.split(chosen.nonzero()[:, 1], chosen.sum(1).tolist())
