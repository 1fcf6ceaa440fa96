"""In the place of what megatron-core imports and a CPU cannot have: triton, Transformer Engine.

Most of it is imported and never used to build a model, to save it or to load it. Of Transformer
Engine and of mamba_ssm there are the modules that have parameters, with their names and shapes.
Sources: Transformer Engine's documentation of transformer_engine.pytorch, and what its modules
register as parameters.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
import typing
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE = "transformer_engine"
VERSION = "2.9.0"


class Nothing:
    """A value that may be called, indexed and looked into; as a decorator it changes nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *values: Any, **named: Any) -> Any:
        return values[0] if len(values) == 1 and not named and callable(values[0]) else Nothing()

    def __getitem__(self, key: Any) -> Any:
        return Nothing()


class Norm(torch.nn.Module):
    """In the place of mamba_ssm's gated norm: the same parameter."""

    def __init__(self, hidden_size: int, **_: Any) -> None:
        super().__init__()
        self.weight = Parameter(torch.ones(hidden_size))


# ── Transformer Engine's modules ─────────────────────────────────────────────────────────────────


class Stateful(torch.nn.Module):
    """A module that saves a state beside its parameters, empty without FP8."""

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """There is nothing of FP8."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """There is nothing to set."""


class RMSNorm(Stateful):
    """Its size has two names, of which the first is the older."""

    def __init__(self, hidden_size: int = 0, normalized_shape: int = 0, **_: Any) -> None:
        super().__init__()
        self.weight = Parameter(torch.ones(hidden_size or normalized_shape))


class LayerNorm(RMSNorm):
    def __init__(self, *sizes: int, **named: Any) -> None:
        super().__init__(*sizes, **named)
        self.bias = Parameter(torch.zeros_like(self.weight))


def shape(outputs: int, inputs: int, mode: str | None, ranks: int) -> tuple[int, int]:
    """Return the shape of a rank's weight."""
    return (
        outputs // ranks if mode == "column" else outputs,
        inputs // ranks if mode == "row" else inputs,
    )


class Linear(Stateful):
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        parallel_mode: str | None = None,
        tp_size: int = 1,
        **_: Any,
    ) -> None:
        super().__init__()
        self.use_bias, self.parallel_mode = bias, parallel_mode
        size = shape(out_features, in_features, parallel_mode, tp_size)
        self.weight = Parameter(torch.empty(size))
        if bias:
            self.bias = Parameter(torch.zeros(size[0]))


class LayerNormLinear(Linear):
    def __init__(
        self, in_features: int, out_features: int, *, normalization: str = "LayerNorm", **rest: Any
    ) -> None:
        super().__init__(in_features, out_features, **rest)
        self.layer_norm_weight = Parameter(torch.ones(in_features))
        if normalization == "LayerNorm":
            self.layer_norm_bias = Parameter(torch.zeros(in_features))


class GroupedLinear(Stateful):
    def __init__(
        self,
        num_gemms: int,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        parallel_mode: str | None = None,
        tp_size: int = 1,
        **_: Any,
    ) -> None:
        super().__init__()
        self.use_bias, self.num_gemms = bias, num_gemms
        self.fp8 = self.fp8_calibration = False
        self.fp8_meta = {"fp8_checkpoint": False}
        size = shape(out_features, in_features, parallel_mode, tp_size)
        for number in range(num_gemms):
            self.register_parameter(f"weight{number}", Parameter(torch.empty(size)))
            if bias:
                self.register_parameter(f"bias{number}", Parameter(torch.zeros(size[0])))


class DotProductAttention(Stateful):
    def __init__(
        self,
        num_attention_heads: int,
        *_: Any,
        softmax_type: str = "vanilla",
        tp_size: int = 1,
        **__: Any,
    ) -> None:
        super().__init__()
        if softmax_type == "learnable":
            self.softmax_offset = Parameter(torch.zeros(num_attention_heads // tp_size))


MODULES: dict[str, dict[str, Any]] = {
    f"{ENGINE}.pytorch": {
        cls.__name__: cls
        for cls in (RMSNorm, LayerNorm, Linear, LayerNormLinear, GroupedLinear, DotProductAttention)
    },
    f"{ENGINE}.pytorch.cpu_offload": {"get_cpu_offload_context": lambda *_, **__: (None, None)},
}


# ── imports ──────────────────────────────────────────────────────────────────────────────────────


class StandIn(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__version__ = VERSION if name == ENGINE else "3.5.0"
        vars(self).update(MODULES.get(name, {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "constexpr":
            return int
        if name == "RMSNorm":
            return Norm
        return type(name, (Nothing,), {}) if name[:1].isupper() else Nothing()


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of these packages, whatever its name."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.packages:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return StandIn(spec.name)

    def exec_module(self, module: Any) -> None:
        """There is nothing to execute."""


def prepare(wheel: str, *, engine: bool = False) -> None:
    """Let megatron-core be imported, under any Python and without a GPU.

    `wheel` is a folder into which a wheel was unpacked; an empty text is the one that is installed.
    With `engine` it finds Transformer Engine.
    """
    if not hasattr(typing, "override"):  # Python 3.12 has it
        typing.override = lambda function: function  # type: ignore[attr-defined]
    also = (ENGINE, "transformer_engine_torch") if engine else ()
    sys.meta_path.append(StandIns("triton", "mamba_ssm", "einops", "psutil", *also))
    if wheel:
        sys.path.insert(0, wheel)
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.empty_cache = lambda: None
    os.environ.setdefault("LOCAL_RANK", "0")
    writer: Any = import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")
    writer._process_memory = lambda: 0  # psutil would know
    random: Any = import_module("megatron.core.tensor_parallel.random")
    random.CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()
