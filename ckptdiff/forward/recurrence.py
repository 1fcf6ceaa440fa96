"""Layers that carry a state from position to position: gated DeltaNet and Mamba 2.

The state of a head is a matrix, (key channels, value channels). At each position it decays, the key
and the value of the position are added, and the query reads from it. All is computed in float32,
or in float64. Sources: torch_chunk_gated_delta_rule of transformers and of
megatron.core.ssm.gated_delta_net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 64  # positions that are computed at once; the state is carried from chunk to chunk


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x, (positions, channels), convolved: a position sees itself and those before it.

    `weight` is (channels, 1, positions that are seen), `bias` (channels,).
    """
    size, length = weight.shape[-1], len(x)
    y = functional.conv1d(x.t()[None], weight, bias, padding=size - 1, groups=len(weight))
    return y[0, :, :length].t()


def recur(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor | None = None) -> Tensor:
    """Return what the queries read, (positions, heads, value channels).

    q, k and v are (positions, heads, channels), `decay` is (positions, heads): the logarithm of
    what is left of the state S. With `beta`, (positions, heads), this is the delta rule: what S
    holds for the key is replaced by the value, as far as beta says.

        S = exp(decay) S + k (beta (v - exp(decay) kS))  or  S = exp(decay) S + kv;  result = qS
    """
    state = v.new_zeros(v.shape[1], k.shape[2], v.shape[2])
    parts = []
    for start in range(0, len(v), _CHUNK):
        rows = slice(start, start + _CHUNK)
        q_t, k_t, v_t = (x[rows].transpose(0, 1) for x in (q, k, v))  # (heads, rows, channels)
        total = decay[rows].t().cumsum(-1)  # (heads, rows)
        since_start = total.exp()[..., None]
        apart = total[:, :, None] - total[:, None]
        future = torch.ones(apart.shape[1:], dtype=torch.bool, device=v.device).triu(1)
        between = apart.masked_fill(future, -torch.inf).exp()  # (heads, rows, rows before)
        if beta is None:
            added = v_t
        else:
            # Each row's value is less what the state and the rows before it give for its key.
            beta_t = beta[rows].t()[..., None]
            seen = beta_t * (k_t @ k_t.transpose(1, 2)) * between
            left = beta_t * (v_t - since_start * (k_t @ state))
            added = torch.linalg.solve_triangular(seen, left, upper=False, unitriangular=True)
        within = (q_t @ k_t.transpose(1, 2)) * between
        parts.append((since_start * (q_t @ state) + within @ added).transpose(0, 1))
        until_end = (total[:, -1:] - total).exp()[..., None]
        state = since_start[:, -1:] * state + (k_t * until_end).transpose(1, 2) @ added
    return torch.cat(parts)


def unit_vectors(x: Tensor) -> Tensor:
    """Return x, (…, channels), divided by its norm; the epsilon is hard-coded in all programs."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)
