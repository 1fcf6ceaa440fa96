"""Hybrids in Megatron's names. Sources: megatron.core.ssm.gated_delta_net and mamba_mixer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.forward.delta_net import DeltaNetOf
from ckptdiff.forward.mamba import MambaOf
from ckptdiff.forward.states import RankState

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.model import Model


class MegatronDeltaNetLayer(RankState, DeltaNetOf):
    """Attention or a gated DeltaNet, whose norm is stored like all others, perhaps less one."""

    net, net_norm = "self_attention", "out_norm"

    def project_delta(self, h: Tensor) -> tuple[Tensor, ...]:
        net = self.delta_net
        values = net.value_heads * net.value_channels
        sizes = [*self.convolved_sizes, values, net.value_heads, net.value_heads]
        return self.with_heads(*self.projected(h, sizes))

    def norm_of_heads(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x)


class MegatronMambaLayer(RankState, MambaOf):
    """A layer of MambaModel: a Mamba mixer, attention, an MLP or experts."""

    def norm1(self, x: Tensor) -> Tensor:
        return self.norm("norm" if self.layer.mixer == "mamba" else "input_layernorm", x)

    def project_mamba(self, h: Tensor) -> tuple[Tensor, ...]:
        return self.with_groups(*self.projected(h, self.projected_sizes))


def hybrid_class(model: Model) -> type[RankState] | None:
    """Return the class of a hybrid's layers; None for a model that is no hybrid."""
    if model.mamba is not None:
        return MegatronMambaLayer
    return None if model.delta_net is None else MegatronDeltaNetLayer
