"""The roundings of a program, in the midst of float64.

A program in a low precision is taken for an exact one that rounds each value it stores, since its
products are summed in a wider dtype. What one rounding adds to what follows is told by carrying
that error, and no other, through exact steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ckptdiff.forward.arithmetic import ACTIVATIONS, Arithmetic, across

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.model import Activation

# Where values are rounded: everywhere by all programs, and where only some do.
COMMON = "common"
NORM = "norm"  # before it is multiplied by its weight
SCORES = "scores"  # before they are scaled
TABLE = "table"  # cosine and sine
TURNED = "turned"  # each product of an element with cosine or sine
BIAS = "bias"  # a product before its bias is added
PARTIAL = "partial"  # a rank's part of a product, and sums of some ranks' parts


def points(how: Arithmetic) -> frozenset[str]:
    """Say where a program rounds."""
    rounds = {
        COMMON: True,
        NORM: how.norm_rounds_first,
        SCORES: not how.scaled_product,
        TABLE: not how.complex_rope,
        TURNED: not how.complex_rope,
        BIAS: how.bias_after,
        PARTIAL: how.ranks > 1,
    }
    return frozenset(point for point, does in rounds.items() if does)


@dataclass(frozen=True, kw_only=True)
class Emulated(Arithmetic):
    """A program's arithmetic in float64 that hands every value which the program rounds over."""

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:
        raise NotImplementedError

    def before(self, x: Tensor, point: str, alike: Tensor) -> Tensor:
        """Round x first of all, but where it is `alike`: where that changes no later rounding."""
        return torch.where(alike, x, self.rounded(x, point))

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.matmul(x, w.t())
        if bias is None:
            return self.rounded(y)
        if self.bias_after:
            y = self.before(y, BIAS, bias == 0)
        return self.rounded(y + bias)

    def added_up(self, parts: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
        total: Tensor | None = None
        for number, (x, w) in enumerate(parts, 1):
            part = self.rounded(torch.matmul(x, w.t()), PARTIAL)
            total = part if total is None else total + part
            if 1 < number < len(parts):  # one rounding at the end is every program's
                total = self.rounded(total, PARTIAL)
        assert total is not None
        if bias is not None:
            total = self.before(total, BIAS, bias == 0) + bias
        return self.rounded(total)

    def rms_norm(self, x: Tensor, w: Tensor, epsilon: float, *, is_wide: bool = False) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        if self.norm_rounds_first and not is_wide:
            normed = self.before(normed, NORM, _keeps_digits(w))
        return self.rounded(w * normed)

    def scaled(self, x: Tensor, factor: float) -> Tensor:
        if factor == 1:
            return x
        return self.rounded(x * self.rounded(x.new_tensor(factor)))

    def layer_norm(self, x: Tensor, w: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        return self.rounded(super().layer_norm(x, w, bias, epsilon))

    def turned(self, x: Tensor, cosine: Tensor, sine: Tensor, *, is_wide: bool) -> Tensor:
        if self.complex_rope or is_wide:
            return self.rounded(x * cosine + across(x) * sine)
        cosine, sine = self.rounded(cosine, TABLE), self.rounded(sine, TABLE)
        return self.rounded(
            self.rounded(x * cosine, TURNED) + self.rounded(across(x) * sine, TURNED)
        )

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        scores = torch.matmul(q, k.transpose(1, 2))
        if not self.scaled_product:
            scores = self.before(scores, SCORES, _keeps_digits(scores.new_tensor(scale)))
        return self.rounded(scores * scale)

    def capped(self, x: Tensor, cap: float | None) -> Tensor:
        if cap is None:
            return x
        return self.rounded(self.rounded(torch.tanh(self.rounded(x / cap))) * cap)

    def softmax(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return self.rounded(super().softmax(scores, hidden))

    def mix(self, weights: Tensor, v: Tensor) -> Tensor:
        return self.rounded(super().mix(weights, v))

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        r = self.rounded
        if activation != "gelu_new":
            return r(ACTIVATIONS[activation](x))
        inner = r(x + r(0.044715 * r(torch.pow(x, 3.0))))
        return r(r(0.5 * x) * r(1 + r(torch.tanh(r(math.sqrt(2 / math.pi) * inner)))))

    def gate(self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        return self.rounded(super().gate(gate, up, activation))

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return self.rounded(super().add(x, update))


@dataclass(frozen=True, kw_only=True)
class Rounding(Emulated):
    """Rounds as the program does, and keeps each error that it makes, in order."""

    dtype: torch.dtype
    errors: list[Tensor] = field(default_factory=list)

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:  # noqa: ARG002
        stored = x.to(self.dtype).double()
        self.errors.append(stored - x)
        return stored


@dataclass(frozen=True, kw_only=True)
class Carrying(Emulated):
    """Adds, at some points, the errors that `Rounding` made there, and rounds nothing itself."""

    only: frozenset[str]
    errors: Iterator[Tensor]

    def rounded(self, x: Tensor, point: str = COMMON) -> Tensor:
        error = next(self.errors)
        return x + error if point in self.only else x


def _keeps_digits(factor: Tensor) -> Tensor:
    """Say where a product with the factor is rounded alike before and after: at powers of two."""
    mantissa, _ = torch.frexp(factor)
    return (mantissa.abs() == 0.5) | (mantissa == 0)
