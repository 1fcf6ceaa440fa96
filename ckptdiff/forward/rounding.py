"""A program's roundings, emulated in float64.

A program in a low precision is modelled as an exact one that rounds each value it stores, as its
products are summed in a wider dtype. The effect of one kind of rounding is found by carrying its
errors, and no others, through exact steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.arithmetic import ACTIVATIONS, QUICK, Arithmetic, rotate_half
from ckptdiff.forward.points import (
    BIAS,
    COMMON,
    EXPERT_SUMS,
    NORM,
    PARTIAL,
    ROUTER,
    SCORES,
    TABLE,
    TABLE_PRODUCT,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.model import Activation


@dataclass(frozen=True, kw_only=True)
class Emulated(Arithmetic):
    """A program's arithmetic in float64 that calls `rounded` for each value the program rounds.

    Values have the shapes of Arithmetic's.
    """

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:
        """Return what becomes of x, of any shape, which the program rounds at a point."""
        raise NotImplementedError

    def rounded_unless(self, x: Tensor, point: str, alike: Tensor) -> Tensor:
        """Return x rounded at a point, except where `alike`: there it changes no later rounding."""
        return torch.where(alike, x, self.rounded(x, point))

    def product(self, x: Tensor, w: Tensor, point: str) -> Tensor:
        return self.rounded(torch.matmul(x, w.t()), point)

    def router_logits(self, x: Tensor, w: Tensor, bias: Tensor | None, *, is_wide: bool) -> Tensor:
        y = super().router_logits(x, w, bias, is_wide=is_wide)
        return y if is_wide else self.rounded(y, ROUTER)

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None:
            return self.product(x, w, COMMON)
        y = torch.matmul(x, w.t())
        if self.rounds_before_bias:
            y = self.rounded_unless(y, BIAS, bias == 0)
        return self.rounded(y + bias)

    def sum_over_ranks(self, parts: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
        total: Tensor | None = None
        for number, (x, w) in enumerate(parts, 1):
            part = self.rounded(torch.matmul(x, w.t()), PARTIAL)
            total = part if total is None else total + part
            if 1 < number < len(parts):  # the last sum is rounded by every program
                total = self.rounded(total, PARTIAL)
        assert total is not None
        if bias is not None:
            total = self.rounded_unless(total, BIAS, bias == 0) + bias
        return self.rounded(total)

    def rms_norm(self, x: Tensor, w: Tensor, epsilon: float, *, is_wide: bool = False) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        if self.rounds_before_norm_weight and not is_wide:
            normed = self.rounded_unless(normed, NORM, _keeps_digits(w))
        return self.rounded(w * normed)

    def scaled(self, x: Tensor, factor: float) -> Tensor:
        if factor == 1:
            return x
        return self.rounded(x * self.rounded(x.new_tensor(factor)))

    def layer_norm(self, x: Tensor, w: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        return self.rounded(super().layer_norm(x, w, bias, epsilon))

    def rotated(
        self, x: Tensor, cosine: Tensor, sine: Tensor, *, is_wide: bool, is_complex: bool
    ) -> Tensor:
        if self.complex_rope or is_wide or is_complex:
            return self.rounded(x * cosine + rotate_half(x) * sine)
        cosine, sine = self.rounded(cosine, TABLE), self.rounded(sine, TABLE)
        return self.rounded(
            self.rounded(x * cosine, TABLE_PRODUCT)
            + self.rounded(rotate_half(x) * sine, TABLE_PRODUCT)
        )

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        scores = torch.matmul(q, k.transpose(1, 2))
        if not self.scales_in_product:
            scores = self.rounded_unless(scores, SCORES, _keeps_digits(scores.new_tensor(scale)))
        return self.rounded(scores * scale)

    def capped(self, x: Tensor, cap: float | None) -> Tensor:
        if cap is None:
            return x
        return self.rounded(self.rounded(torch.tanh(self.rounded(x / cap))) * cap)

    def softmax(self, scores: Tensor, mask: Tensor, sinks: Tensor | None = None) -> Tensor:
        return self.rounded(super().softmax(scores, mask, sinks))

    def weigh_values(self, weights: Tensor, v: Tensor) -> Tensor:
        return self.rounded(super().weigh_values(weights, v))

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        r = self.rounded
        if activation == "quick_gelu":
            return r(x * r(torch.sigmoid(r(QUICK * x))))
        if activation != "gelu_new":
            return r(ACTIVATIONS[activation](x))
        inner = r(x + r(0.044715 * r(torch.pow(x, 3.0))))
        return r(r(0.5 * x) * r(1 + r(torch.tanh(r(math.sqrt(2 / math.pi) * inner)))))

    def gate(
        self,
        gate: Tensor,
        up: Tensor,
        activation: Activation,
        limit: float | None = None,
        offset: float = 0.0,
    ) -> Tensor:
        return self.rounded(super().gate(gate, up, activation, limit, offset))

    def shifted(self, x: Tensor, offset: float) -> Tensor:
        return self.rounded(super().shifted(x, offset))

    def times_sigmoid(self, x: Tensor, gate: Tensor) -> Tensor:
        sigmoid = gate.sigmoid()
        return self.rounded(x * (sigmoid if self.wide_gates else self.rounded(sigmoid)))

    def narrowed(self, wide: Tensor, dtype: torch.dtype, point: str = COMMON) -> Tensor:  # noqa: ARG002
        return self.rounded(wide, point)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return self.rounded(super().add(x, update))

    def add_experts(self, total: Tensor, y: Tensor, *, is_wide: bool) -> Tensor:
        return total + y if is_wide else self.rounded(total + y, EXPERT_SUMS)


@dataclass(frozen=True, kw_only=True)
class Rounding(Emulated):
    """Rounds to `dtype` as the program does, and keeps each error (rounded less exact) in order."""

    dtype: torch.dtype
    errors: list[Tensor] = field(default_factory=list)

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:  # noqa: ARG002
        stored = x.to(self.dtype).double()
        self.errors.append(stored - x)
        return stored


@dataclass(frozen=True, kw_only=True)
class Carrying(Emulated):
    """Adds the errors that `Rounding` kept, at the points in `only`, and rounds nothing itself."""

    only: frozenset[str]
    errors: Iterator[Tensor]

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:
        error = next(self.errors)
        return x + error if point in self.only else x


def _keeps_digits(factor: Tensor) -> Tensor:
    """Return where the factor is 0 or a power of two.

    There a product is rounded alike before and after the factor.
    """
    mantissa, _ = torch.frexp(factor)
    return (mantissa.abs() == 0.5) | (mantissa == 0)
