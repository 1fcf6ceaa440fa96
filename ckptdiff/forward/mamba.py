"""Mamba 2 layers (Nemotron-H).

Sources: transformers' modeling_nemotron_h; megatron.core.ssm.mamba_mixer, and the kernels of
mamba_ssm that it calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ckptdiff.forward.arithmetic import at_least_float32
from ckptdiff.forward.recurrence import recur
from ckptdiff.forward.states import StateOf

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import Mamba


class MambaOf(StateOf):
    """A Mamba 2 mixer; a side's class says how it projects. Values are (positions, heads, …).

    X is what is put into the state, B where, and C what is read; B and C are of a group of heads.
    """

    net = "mixer"

    @property
    def mamba(self) -> Mamba:
        found = self.model.mamba
        assert found is not None
        return found

    @property
    def convolved_sizes(self) -> list[int]:
        """Return the features of all X, of all B and of all C."""
        mamba = self.mamba
        states = mamba.groups * mamba.states
        return [mamba.heads * mamba.channels, states, states]

    @property
    def projected_sizes(self) -> list[int]:
        """Return the rows of in_proj: of the gate, of X, B and C, and of the steps."""
        return [self.convolved_sizes[0], *self.convolved_sizes, self.mamba.heads]

    def with_groups(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return gate, X, B, C, (positions, heads or groups, …), and steps, (positions, heads)."""
        mamba, (gate, x, b, c, steps) = self.mamba, parts
        gate, x = (y.reshape(len(y), mamba.heads, mamba.channels) for y in (gate, x))
        b, c = (y.reshape(len(y), mamba.groups, mamba.states) for y in (b, c))
        return gate, x, b, c, steps

    def project_mamba(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return what `with_groups` does."""
        raise NotImplementedError

    def step_sizes(self, steps: Tensor) -> Tensor:
        """Return how far each head's state goes on, (positions, heads)."""
        bias = self.by_row("dt_bias")
        if self.arithmetic.kernels:
            sizes = functional.softplus(at_least_float32(steps) + at_least_float32(bias))
        else:
            raw = self.arithmetic.add(steps, bias)
            sizes = self.arithmetic.narrowed(functional.softplus(raw), raw.dtype)
        return sizes.clamp(min=self.mamba.least_step)

    def scan(self, x: Tensor, b: Tensor, c: Tensor, steps: Tensor) -> Tensor:
        """Return what the states give, (positions, heads, channels), in float32 or float64."""
        each = self.mamba.heads // self.mamba.groups
        keys, queries = (at_least_float32(y).repeat_interleave(each, 1) for y in (b, c))
        wide, sizes = at_least_float32(x), at_least_float32(steps)
        decay = -at_least_float32(self.by_row("A_log")).exp() * sizes
        read = recur(queries, keys, wide * sizes[..., None], decay)
        return read + at_least_float32(self.by_row("D"))[:, None] * wide

    def norm_mamba(self, ctx: Tensor, gate: Tensor) -> Tensor:
        """Return (positions, features): gated, then normalised by group."""
        gated = (ctx * functional.silu(at_least_float32(gate))).flatten(1)
        if self.arithmetic.kernels:
            gated = at_least_float32(self.arithmetic.narrowed(gated, gate.dtype))
        grouped = gated.reshape(len(gated), self.mamba.groups, -1)
        mean = grouped.square().mean(-1, keepdim=True)
        normed = (grouped * torch.rsqrt(mean + self.mamba.epsilon)).flatten(1)
        return self.arithmetic.narrowed(normed * self.by_row("norm.weight"), gate.dtype)

    def mamba_out(self, ctx: Tensor) -> Tensor:
        return self.row_parallel(ctx, f"{self.net}.out_proj")
