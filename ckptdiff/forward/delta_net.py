"""Gated DeltaNet layers (Qwen3-Next, Qwen3.5).

Sources: transformers' modeling_qwen3_next and modeling_qwen3_5; megatron.core.ssm.gated_delta_net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from ckptdiff.forward.arithmetic import at_least_float32
from ckptdiff.forward.recurrence import recur, unit_vectors
from ckptdiff.forward.states import StateOf

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import DeltaNet


class DeltaNetOf(StateOf):
    """A gated DeltaNet; a side's class says how it projects. Values are (positions, heads, …).

    Queries and keys have the key heads, all else has the value heads.
    """

    net, net_norm = "linear_attn", "norm"

    @property
    def delta_net(self) -> DeltaNet:
        found = self.model.delta_net
        assert found is not None
        return found

    @property
    def convolved_sizes(self) -> list[int]:
        """Return the features of all queries, of all keys and of all values."""
        net = self.delta_net
        keys = net.key_heads * net.key_channels
        return [keys, keys, net.value_heads * net.value_channels]

    def project_delta(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys, values, gate, and the two numbers of a head that make beta, decay.

        The first four are (positions, heads, channels), the last two (positions, value heads).
        """
        raise NotImplementedError

    def with_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return what `project_delta` does, from its six parts in any shape: (positions, …)."""
        q, k, v, z, b, a = parts
        net, length = self.delta_net, len(q)
        q, k = (x.reshape(length, net.key_heads, net.key_channels) for x in (q, k))
        v, z = (x.reshape(length, net.value_heads, net.value_channels) for x in (v, z))
        b, a = (x.reshape(length, net.value_heads) for x in (b, a))
        return q, k, v, z, b, a

    def decay_delta(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of what is left of the state, in float32 or float64, and beta."""
        rate = at_least_float32(self.by_row("A_log")).exp()
        if self.arithmetic.kernels:
            rate = self.arithmetic.narrowed(rate, a.dtype)
        step = functional.softplus(at_least_float32(a) + self.by_row("dt_bias"))
        return -rate * step, self.arithmetic.narrowed(b.sigmoid(), b.dtype)

    def delta_rule(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
        each = self.delta_net.value_heads // self.delta_net.key_heads
        units = [unit_vectors(at_least_float32(x)) for x in (q, k)]
        if self.arithmetic.kernels:
            units = [at_least_float32(self.arithmetic.narrowed(x, v.dtype)) for x in units]
        queries, keys = (x.repeat_interleave(each, 1) for x in units)
        queries = queries * self.delta_net.key_channels**-0.5
        read = recur(queries, keys, at_least_float32(v), decay, at_least_float32(beta))
        return self.arithmetic.narrowed(read, v.dtype)

    def norm_delta(self, ctx: Tensor, gate: Tensor) -> Tensor:
        """Return (positions, features): heads normalised, then gated."""
        normed = self.norm_of_heads(f"{self.net}.{self.net_norm}", ctx)
        gated = at_least_float32(normed) * functional.silu(at_least_float32(gate))
        return self.arithmetic.narrowed(gated, ctx.dtype).flatten(1)

    def norm_of_heads(self, name: str, x: Tensor) -> Tensor:
        """Return x, (positions, heads, channels), each head normalised; never zero-centered."""
        return self.arithmetic.rms_norm(
            x, self.weight(f"{name}.weight"), self.model.layernorm_epsilon
        )

    def delta_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, f"{self.net}.out_proj")
