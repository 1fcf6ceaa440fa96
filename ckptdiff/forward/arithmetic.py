"""One function, three programs: where transformers, Meta's llama and Megatron round differently."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.blocks import blocks
from ckptdiff.forward.plan import MOST_SCORES
from ckptdiff.forward.points import COMMON, SINKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from ckptdiff.forward.model import Activation, Routing


def _gelu_new(x: Tensor) -> Tensor:
    """Return the tanh form of GELU, rounded at every step: transformers' NewGELUActivation."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


_SCORES = {"cpu": 1 << 20}  # that are computed at a time: on a CPU they stay in its cache
_VECTOR = 64  # elements; sums over whole ones are those over more of which the rest is 0
QUICK = 1.702  # the factor in quick_gelu
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_new": _gelu_new,
    "relu2": lambda x: functional.relu(x).square(),
    "quick_gelu": lambda x: x * torch.sigmoid(QUICK * x),
}


@dataclass(frozen=True)
class Arithmetic:
    """How one program computes the operations of a layer, and where it rounds.

    Unless a method says otherwise, x and what is returned are (positions, features), and w is
    (output features, input features) as in a checkpoint. A result has the dtype of x.
    """

    name: str
    fused: bool  # q, k and v are one product; gate and up are one product
    rounds_before_norm_weight: bool  # the normalised x, before the product with the weight
    scales_in_product: bool  # baddbmm: attention scores are scaled before they are rounded
    rounds_before_bias: bool  # a product is rounded, then its bias is added
    softmax_after_topk: bool  # over the chosen experts; scores are rounded before the choice
    scales_expert_input: bool  # the routing weight scales the input of linear_fc2, not its output
    divides_scores: bool = (
        False  # by the root of the head dimension; else multiplied by its inverse
    )
    wide_gates: bool = False  # attention's output gate is computed in float32, and rounded once
    kernels: bool = False  # layers with a state round as FLA's and mamba_ssm's kernels do
    shifts_sinks: bool = False  # scores beside a sink have the highest one taken off, then rounded
    complex_rope: bool = False  # rotated as complex numbers, in float32
    ranks: int = 1  # tensor parallel ranks: their partial sums are rounded, and added in rank order
    expert_ranks: int = 1  # expert parallel ranks: each adds up its own experts first
    expert_slices: int = 1  # expert tensor ranks: each adds up its slices of these experts
    # Products of bf16 and fp16 are computed in float32 and rounded once: faster where the processor
    # has no such products itself, and the same but for the order of sums.
    widens: bool = False

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None or not self.rounds_before_bias:
            return self._linear(x, w, bias)
        return self.matmul(x, w.t()) + bias

    def _linear(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        if not self.widens:
            return functional.linear(x, w, bias)
        wide_bias = None if bias is None else at_least_float32(bias)
        wide = functional.linear(at_least_float32(x), at_least_float32(w), wide_bias)
        return wide.to(x.dtype)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.widens:
            return torch.matmul(x, y)
        return torch.matmul(at_least_float32(x), at_least_float32(y)).to(x.dtype)

    def product(self, x: Tensor, w: Tensor, point: str) -> Tensor:  # noqa: ARG002
        """Return x @ w.T, which is rounded at a point."""
        return self._linear(x, w, None)

    def router_logits(self, x: Tensor, w: Tensor, bias: Tensor | None, *, is_wide: bool) -> Tensor:
        """Return (positions, experts), in float32 or more if it is wide.

        The bias is part of the product in every program.
        """
        if is_wide:
            x, w = at_least_float32(x), at_least_float32(w)
            bias = None if bias is None else at_least_float32(bias)
        return self._linear(x, w, bias)

    def narrows_scores(self, routing: Routing) -> bool:
        """Return whether weights of experts are made of scores in the dtype of the logits."""
        return self.softmax_after_topk or routing.softmax_last

    def row_parallel(
        self, parts: Iterable[tuple[Tensor, Tensor]], bias: Tensor | None = None
    ) -> Tensor:
        """Return the sum of x @ w.T over the rank slices (x, w), and the bias.

        A slice is x of (positions, features of the rank) and w of (output features, features of the
        rank). If there are not `ranks` of them, they are joined and split into `ranks` equal ones.
        """
        xs, ws = zip(*parts, strict=True)
        if len(ws) != self.ranks:
            x, w = (t[0] if len(t) == 1 else torch.cat(t, 1) for t in (xs, ws))
            xs, ws = x.chunk(self.ranks, 1), w.chunk(self.ranks, 1)
        if self.ranks == 1:
            return self.linear(xs[0], ws[0], bias)
        return self.sum_over_ranks(list(zip(xs, ws, strict=True)), bias)

    def sum_over_ranks(self, parts: list[tuple[Tensor, Tensor]], bias: Tensor | None) -> Tensor:
        """Return the sum of x @ w.T over the ranks' slices (x, w), in rank order, and the bias."""
        total: Tensor | None = None
        for x, w in parts:
            part = self.matmul(x, w.t())
            total = part if total is None else total + part
        assert total is not None
        return total if bias is None else total + bias

    def rms_norm(self, x: Tensor, w: Tensor, epsilon: float, *, is_wide: bool = False) -> Tensor:
        """Return x, (…, features), normalised, times w, which may be wider than x.

        `is_wide`: it is rounded only after the product with w.
        """
        if not self.rounds_before_norm_weight:
            if w.dtype != x.dtype:
                return functional.rms_norm(x.to(w.dtype), (x.shape[-1],), w, epsilon).to(x.dtype)
            return functional.rms_norm(x, (x.shape[-1],), w, epsilon)
        wide = at_least_float32(x)
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
        is_complex: bool = False,
    ) -> Tensor:
        """Return x, (positions, heads, channels), with its first channels rotated.

        `cosine` and `sine` are (positions, rotated channels). A pair is a channel of each half, or
        two `neighbours`, which are then moved into halves first and stay there. `is_wide`: the
        rotation is computed in float32 and rounded once; `is_complex`: as complex numbers as well.
        """
        dim = cosine.shape[-1]
        rotated, rest = x[..., :dim], x[..., dim:]
        if neighbours:
            rotated = deinterleaved(rotated)
        cosine, sine = cosine[:, None], sine[:, None]
        rotated = self.rotated(rotated, cosine, sine, is_wide=is_wide, is_complex=is_complex)
        return torch.cat((rotated, rest), -1) if rest.shape[-1] else rotated

    def rotated(
        self, x: Tensor, cosine: Tensor, sine: Tensor, *, is_wide: bool, is_complex: bool
    ) -> Tensor:
        """Return x, (positions, heads, channels), rotated; a pair is a channel of each half.

        `cosine` and `sine` are (positions, 1, channels).
        """
        if self.complex_rope or is_complex:
            pairs = torch.complex(*(half.contiguous() for half in at_least_float32(x).chunk(2, -1)))
            unit = torch.complex(cosine.chunk(2, -1)[0], sine.chunk(2, -1)[0])
            return torch.view_as_real(pairs * unit).transpose(-1, -2).flatten(-2).to(x.dtype)
        wide = at_least_float32(x) if is_wide else x
        cosine, sine = (t.to(wide.dtype) for t in (cosine, sine))
        return (wide * cosine + rotate_half(wide) * sine).to(x.dtype)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        window: int | None,
        cap: float | None = None,
        sinks: Tensor | None = None,
        *,
        is_causal: bool = True,
    ) -> Tensor:
        """Return attention, (positions, heads, channels of v).

        q, k and v are (positions, heads, channels); k and v have a head per query group. `window`
        is how many positions are seen, `cap` the soft cap of scores: cap * tanh(scores / cap).
        Later positions are seen if it is not causal, and then a window reaches both ways. `sinks`,
        (heads,), are scores of a position that is not there.
        """
        positions, heads, _ = q.shape
        per_group = heads // k.shape[1]
        if per_group > 1:
            k, v = (t.repeat_interleave(per_group, 1) for t in (k, v))
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        # One tensor for all blocks: small ones between growing ones leave holes in memory.
        mixed: Tensor | None = None
        most = _SCORES.get(q.device.type, MOST_SCORES)
        for rows in blocks(positions, heads * positions, most):
            end, first = positions, 0
            if is_causal and sinks is None:  # what no row sees has no weight
                end = min(positions, -(-rows.stop // _VECTOR) * _VECTOR)
            if is_causal and window is None:
                first = rows.start
            scores = self.capped(self.scores(q[:, rows], k[:, :end], scale), cap)
            mask = _attention_mask(rows, slice(first, end), window, q.device, is_causal=is_causal)
            weights = self.softmax(scores, mask, sinks)
            if end < positions:  # fewer products would be summed in another order
                weights = functional.pad(weights, (0, positions - end))
            part = self.weigh_values(weights, v)
            if mixed is None:
                mixed = part.new_empty(heads, positions, part.shape[-1])
            mixed[:, rows] = part
        assert mixed is not None
        return mixed.transpose(0, 1)

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Return scaled scores, (heads, queries, keys), of (heads, positions, channels)."""
        if self.divides_scores:
            return self.matmul(q, k.transpose(1, 2)).div_(1 / scale)
        if not self.scales_in_product:
            return self.matmul(q, k.transpose(1, 2)).mul_(scale)
        if self.widens:
            products = torch.matmul(at_least_float32(q), at_least_float32(k).transpose(1, 2))
            return products.mul_(scale).to(q.dtype)
        unused = torch.empty(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
        return torch.baddbmm(unused, q, k.transpose(1, 2), beta=0.0, alpha=scale)

    def capped(self, x: Tensor, cap: float | None) -> Tensor:
        """Return cap * tanh(x / cap), of any shape; x itself without a cap."""
        return x if cap is None else torch.tanh(x / cap) * cap

    def softmax(self, scores: Tensor, mask: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Return weights, (heads, queries, keys), of scores, which may be overwritten.

        `mask`, (queries, last keys), is True where none is to be. `sinks`, (heads,), take the rest
        of each head's weights.
        """
        wide = scores if self.shifts_sinks and sinks is not None else at_least_float32(scores)
        wide[..., -mask.shape[1] :].masked_fill_(mask, torch.finfo(wide.dtype).min)
        if sinks is None:
            return torch.softmax(wide, -1).to(scores.dtype)
        column = sinks.to(wide.dtype)[:, None, None].expand(-1, wide.shape[1], 1)
        both = torch.cat((wide, column), -1)
        if self.shifts_sinks:
            both = self.narrowed(both - both.amax(-1, keepdim=True), both.dtype, SINKS)
        return torch.softmax(both, -1)[..., :-1].to(scores.dtype)

    def weigh_values(self, weights: Tensor, v: Tensor) -> Tensor:
        """Return (heads, queries, channels): the sum of v over positions, weighted."""
        return self.matmul(weights, v)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        return ACTIVATIONS[activation](x)

    def gate(
        self,
        gate: Tensor,
        up: Tensor,
        activation: Activation,
        limit: float | None = None,
        offset: float = 0.0,
    ) -> Tensor:
        """Return the activated gate times up and `offset`, both of one shape.

        With a `limit`, the gate is clamped to at most that, and up to within it and its negative.
        """
        if limit is not None:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return self.activate(gate, activation) * (self.shifted(up, offset) if offset else up)

    def shifted(self, x: Tensor, offset: float) -> Tensor:
        return x + offset

    def times_sigmoid(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return x times the gate's sigmoid, both of one shape."""
        if self.wide_gates:
            return self.narrowed(at_least_float32(x) * at_least_float32(gate).sigmoid(), x.dtype)
        return x * gate.sigmoid()

    def narrowed(self, wide: Tensor, dtype: torch.dtype, point: str = COMMON) -> Tensor:  # noqa: ARG002
        """Return a value that was computed in a wider dtype as it is stored: in `dtype`."""
        return wide.to(dtype)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update

    def add_experts(self, total: Tensor, y: Tensor, *, is_wide: bool) -> Tensor:  # noqa: ARG002
        """Return the sum of some experts' outputs; `is_wide`: in float32 or more."""
        return total + y


TRANSFORMERS = Arithmetic(
    "transformers",
    shifts_sinks=True,
    fused=False,
    rounds_before_norm_weight=True,
    scales_in_product=False,
    rounds_before_bias=False,
    softmax_after_topk=False,
    scales_expert_input=False,
)
META = Arithmetic(
    "Meta's llama",
    fused=False,
    rounds_before_norm_weight=True,
    scales_in_product=False,
    rounds_before_bias=False,
    softmax_after_topk=False,
    scales_expert_input=False,
    divides_scores=True,
    complex_rope=True,
)
MEGATRON = Arithmetic(
    "megatron-core",
    fused=True,
    rounds_before_norm_weight=False,
    scales_in_product=True,
    rounds_before_bias=True,
    softmax_after_topk=True,
    scales_expert_input=True,
    wide_gates=True,
    kernels=True,
)


def deinterleaved(x: Tensor) -> Tensor:
    """Return x with the pairs of neighbours moved apart: one channel into each half."""
    return torch.cat((x[..., ::2], x[..., 1::2]), -1)


def rotate_half(x: Tensor) -> Tensor:
    """Return x rotated by 90 degrees (transformers' rotate_half): a pair is a channel per half."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32; in float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def _attention_mask(
    rows: slice, columns: slice, window: int | None, device: torch.device, *, is_causal: bool
) -> Tensor:
    """Return (rows, columns), of all positions: True where a row's does not see a column's.

    Only a causal window counts the row's own position.
    """
    row, column = (torch.arange(some.start, some.stop, device=device) for some in (rows, columns))
    behind = row[:, None] - column  # how far a column's position lies behind a row's
    if not is_causal:
        return (
            torch.zeros_like(behind, dtype=torch.bool) if window is None else behind.abs() > window
        )
    mask = behind < 0
    return mask if window is None else mask | (behind >= window)
