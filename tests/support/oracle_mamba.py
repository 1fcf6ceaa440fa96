"""Build megatron-core's MambaModel of local parts, with its kernels replaced by steps in torch.

Source of what the kernels compute: selective_state_update_ref and RMSNorm of mamba_ssm.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional

from tests.support.stand_ins import StandIns

_TURNS = {
    "l b d -> b l d": lambda x: x.transpose(0, 1),
    "b l d -> l b d": lambda x: x.transpose(0, 1),
    "d 1 w -> d w": lambda x: x.squeeze(1),
}


LETTERS = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}


def build(config: Any, pattern: str, vocabulary: int, **options: Any) -> Any:
    """Return a MambaModel of the kinds of layers in a pattern; `options` are of the class."""
    _use_torch()
    specs = import_module("megatron.core.post_training.modelopt.mamba.model_specs")
    network = import_module("megatron.core.models.mamba.mamba_model").MambaModel(
        config,
        specs.get_mamba_stack_modelopt_spec(local_core_attention=True),
        vocab_size=vocabulary,
        hybrid_override_pattern=pattern,
        parallel_output=False,
        **options,
    )
    return network.eval()


def _use_torch() -> None:
    _import_mixer()
    norm = import_module("megatron.core.transformer.torch_norm").WrappedTorchNorm
    block: Any = import_module("megatron.core.ssm.mamba_block")
    specs: Any = import_module("megatron.core.post_training.modelopt.mamba.model_specs")
    block.TENorm = specs.Norm = norm
    mixer: Any = import_module("megatron.core.ssm.mamba_mixer")
    mixer.HAVE_MAMBA_SSM = mixer.HAVE_EINOPS = True
    parallel: Any = import_module("megatron.core.ssm.mamba_context_parallel")
    parallel.HAVE_EINOPS = True
    mixer.rearrange = lambda x, turn: _TURNS[turn](x)
    mixer.mamba_split_conv1d_scan_combined = _scan
    mixer.ExtendedRMSNorm = _norm_class()
    experts: Any = import_module("megatron.core.transformer.moe.moe_layer")
    experts.HAVE_TE, experts.TELinear = True, _Linear


def _import_mixer() -> None:
    """Import what imports triton, which no other module is to find afterwards."""
    found = StandIns("triton")
    sys.meta_path.append(found)
    import_module("megatron.core.ssm.mamba_mixer")
    sys.meta_path.remove(found)
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        del sys.modules[name]


def _scan(
    projected: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    step_bias: torch.Tensor,
    rate: torch.Tensor,
    *,
    D: torch.Tensor,  # noqa: N803
    headdim: int,
    ngroups: int,
    **_: Any,
) -> torch.Tensor:
    """Return (batch, positions, features), gated and not normed, one position after another."""
    batch, length, _size = projected.shape
    inner = len(rate) * headdim
    z, convolved, steps = torch.split(
        projected, [inner, len(weight), len(rate)], -1
    )  # fmt: skip
    padded = functional.pad(convolved.transpose(1, 2), (weight.shape[1] - 1, 0))
    convolved = functional.conv1d(padded, weight[:, None], bias, groups=len(weight))
    states = (len(weight) - inner) // 2
    x, b, c = torch.split(functional.silu(convolved).transpose(1, 2), [inner, states, states], -1)
    x = x.reshape(batch, length, -1, headdim)
    each = len(rate) // ngroups
    b, c = (y.reshape(batch, length, ngroups, -1).repeat_interleave(each, 2) for y in (b, c))
    sizes = functional.softplus(steps + step_bias)
    state = x.new_zeros(batch, len(rate), headdim, b.shape[-1])
    found = []
    for t in range(length):
        size = sizes[:, t, :, None]
        state = state * (size * rate[:, None]).exp()[..., None]
        state = state + (size * x[:, t])[..., None] * b[:, t, :, None]
        found.append((state * c[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(found, 1).flatten(2) * functional.silu(z)


def _norm_class() -> Any:
    """Return a norm of groups of features, saved as the mixer's own is."""
    utils = import_module("megatron.core.transformer.utils")

    class GroupNorm(torch.nn.Module):
        def __init__(self, size: int, eps: float, group_size: int, **_: Any) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(size))
            self.eps, self.group_size = eps, group_size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grouped = x.reshape(*x.shape[:-1], -1, self.group_size)
            normed = functional.rms_norm(grouped, (self.group_size,), None, self.eps)
            return normed.flatten(-2) * self.weight

        def sharded_state_dict(
            self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
        ) -> Any:
            state = import_module("megatron.core.parallel_state")
            return utils.make_sharded_tensors_for_checkpoint(
                self.state_dict(prefix="", keep_vars=True),
                prefix,
                {"weight": 0},
                sharded_offsets,
                tp_group=state.get_tensor_model_parallel_group(),
                dp_cp_group=metadata["dp_cp_group"],
            )

    return GroupNorm


class _Linear(torch.nn.Module):
    """In the place of Transformer Engine's linear layer, whole in every rank."""

    def __init__(self, input_size: int, output_size: int, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(output_size, input_size))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return functional.linear(x, self.weight), None
