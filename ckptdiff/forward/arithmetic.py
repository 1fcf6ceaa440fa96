"""The places where two programs that compute the same function round differently."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from ckptdiff.forward.model import Activation


def _gelu_new(x: Tensor) -> Tensor:
    """Return the tanh form of GELU, rounded at every step: as GPT-2's class has it."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_new": _gelu_new,
    "relu2": lambda x: functional.relu(x).square(),
}


@dataclass(frozen=True)
class Arithmetic:
    """How one program computes what a layer is made of.

    x is (positions, features) and w (features out, features in), as in a checkpoint.
    """

    name: str
    fused: bool  # q, k and v are one product, and so are gate and up
    norm_rounds_first: bool  # before it multiplies by the weight
    scaled_product: bool  # baddbmm: scores are scaled before they are rounded
    bias_after: bool  # a bias is added to what was rounded
    routes_late: bool  # experts are chosen by rounded scores; a softmax is of theirs alone
    weighs_inputs: bool  # of an expert's last product, not what it gives
    divides: bool = False  # scores by the root of a head's elements
    complex_rope: bool = False  # turned as complex numbers, in float32
    ranks: int = 1  # whose parts of a row-parallel product are rounded, and added in rank order
    expert_ranks: int = 1  # that have neighbouring experts each, whose sums are added up

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None or not self.bias_after:
            return functional.linear(x, w, bias)
        return torch.matmul(x, w.t()) + bias

    def row_parallel(
        self, parts: Iterable[tuple[Tensor, Tensor]], bias: Tensor | None = None
    ) -> Tensor:
        """Return the sum of x @ w.T over the parts that ranks have of both.

        Parts that are not this arithmetic's ranks' are joined, and cut as they would have them.
        """
        xs, ws = zip(*parts, strict=True)
        if len(ws) != self.ranks:
            x, w = (t[0] if len(t) == 1 else torch.cat(t, 1) for t in (xs, ws))
            xs, ws = x.chunk(self.ranks, 1), w.chunk(self.ranks, 1)
        if self.ranks == 1:
            return self.linear(xs[0], ws[0], bias)
        return self.added_up(list(zip(xs, ws, strict=True)), bias)

    def added_up(self, parts: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
        """Return the sum of x @ w.T over the ranks, in their order."""
        total: Tensor | None = None
        for x, w in parts:
            part = torch.matmul(x, w.t())
            total = part if total is None else total + part
        assert total is not None
        return total if bias is None else total + bias

    def rms_norm(self, x: Tensor, w: Tensor, epsilon: float, *, is_wide: bool = False) -> Tensor:
        """Return x normalised; where the model `is_wide`, w may be wider than x."""
        if not self.norm_rounds_first:
            if w.dtype != x.dtype:
                return functional.rms_norm(x.to(w.dtype), (x.shape[-1],), w, epsilon).to(x.dtype)
            return functional.rms_norm(x, (x.shape[-1],), w, epsilon)
        wide = widened(x)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        return (w * normed).to(x.dtype) if is_wide else w * normed.to(x.dtype)

    def scaled(self, x: Tensor, factor: float) -> Tensor:
        return x if factor == 1 else x * torch.tensor(factor).to(x)

    def layer_norm(self, x: Tensor, w: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        return functional.layer_norm(x, (x.shape[-1],), w, bias, epsilon)

    def rotate(
        self,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        *,
        neighbours: bool = False,
        is_wide: bool = False,
    ) -> Tensor:
        """Return x of (positions, heads, elements) turned, in float32 if the model `is_wide`.

        The elements' halves make up pairs. Where it is `neighbours` that do, they are taken apart
        first, into halves.
        """
        dim = cosine.shape[-1]
        turned, rest = x[..., :dim], x[..., dim:]
        if neighbours:
            turned = halves(turned)
        turned = self.turned(turned, cosine[:, None], sine[:, None], is_wide=is_wide)
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned

    def turned(self, x: Tensor, cosine: Tensor, sine: Tensor, *, is_wide: bool) -> Tensor:
        """Return x turned, whose halves make up pairs, by angles of (positions, 1, elements)."""
        if self.complex_rope:
            pairs = torch.complex(*(half.contiguous() for half in widened(x).chunk(2, -1)))
            unit = torch.complex(cosine.chunk(2, -1)[0], sine.chunk(2, -1)[0])
            return torch.view_as_real(pairs * unit).transpose(-1, -2).flatten(-2).to(x.dtype)
        wide = widened(x) if is_wide else x
        cosine, sine = (t.to(wide.dtype) for t in (cosine, sine))
        return (wide * cosine + across(wide) * sine).to(x.dtype)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        window: int | None,
        cap: float | None = None,
    ) -> Tensor:
        """Return (positions, heads, elements of v) k and v having as many heads or fewer."""
        positions, heads, _ = q.shape
        share = heads // k.shape[1]
        if share > 1:
            k, v = (t.repeat_interleave(share, 1) for t in (k, v))
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        scores = self.capped(self.scores(q, k, scale), cap)
        hidden = _hidden(positions, window, q.device)
        weights = self.softmax(scores, hidden)
        return self.mix(weights, v).transpose(0, 1)

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Return (heads, positions, positions)."""
        if self.divides:
            return torch.matmul(q, k.transpose(1, 2)) / (1 / scale)
        if not self.scaled_product:
            return torch.matmul(q, k.transpose(1, 2)) * scale
        unused = torch.empty(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
        return torch.baddbmm(unused, q, k.transpose(1, 2), beta=0.0, alpha=scale)

    def capped(self, x: Tensor, cap: float | None) -> Tensor:
        return x if cap is None else torch.tanh(x / cap) * cap

    def softmax(self, scores: Tensor, hidden: Tensor) -> Tensor:
        wide = widened(scores)
        wide = wide.masked_fill(hidden, torch.finfo(wide.dtype).min)
        return torch.softmax(wide, -1).to(scores.dtype)

    def mix(self, weights: Tensor, v: Tensor) -> Tensor:
        """Return (heads, positions, elements): what each position gathers from those it sees."""
        return torch.matmul(weights, v)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return ACTIVATIONS[activation](x)

    def gate(self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        return self.activate(gate, activation) * up

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update


TRANSFORMERS = Arithmetic(
    "transformers",
    fused=False,
    norm_rounds_first=True,
    scaled_product=False,
    bias_after=False,
    routes_late=False,
    weighs_inputs=False,
)
META = Arithmetic(
    "Meta's llama",
    fused=False,
    norm_rounds_first=True,
    scaled_product=False,
    bias_after=False,
    routes_late=False,
    weighs_inputs=False,
    divides=True,
    complex_rope=True,
)
MEGATRON = Arithmetic(
    "megatron-core",
    fused=True,
    norm_rounds_first=False,
    scaled_product=True,
    bias_after=True,
    routes_late=True,
    weighs_inputs=True,
)


def halves(x: Tensor) -> Tensor:
    """Return x with pairs that are neighbours taken apart: an element of each half makes one."""
    return torch.cat((x[..., ::2], x[..., 1::2]), -1)


def across(x: Tensor) -> Tensor:
    """Return what is a quarter of a turn ahead of x, whose halves make up pairs."""
    one, other = x.chunk(2, -1)
    return torch.cat((-other, one), -1)


def widened(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def _hidden(positions: int, window: int | None, device: torch.device) -> Tensor:
    """Return (positions, positions): what a position, a row, does not see."""
    ones = torch.ones(positions, positions, dtype=torch.bool, device=device)
    hidden = ones.triu(1)
    return hidden if window is None else hidden | ones.tril(-window)
