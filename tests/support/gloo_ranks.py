"""Save a model from several ranks with PyTorch's own FSDP, as trainers do.

Run by a Python with torch: `-m tests.support.gloo_ranks MODEL OUT HOW:RANKS…`. MODEL is a
safetensors file, whose tensors become the parameters of a module, or a folder, from which
transformers makes the model. Each rank is a process that meets the others over gloo. HOW is a key
of `WAYS`, and `/hf` behind it has DCP write safetensors. Each is saved into a folder of its name.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import distributed, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardedStateDictConfig,
    StateDictType,
    fully_shard,
)
from torch.distributed.tensor import Shard, distribute_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Of a tensor-parallel model: the dimension that is split, by the end of the parameter's name.
COLUMN = (
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight",
    "lm_head.weight",
)  # fmt: skip
ROW = ("o_proj.weight", "down_proj.weight")


class Tree(nn.Module):
    """Modules that have just the parameters of a state dict, under its names."""

    def put(self, name: str, value: Tensor) -> None:
        """Add a parameter, and the modules that its dotted name leads through."""
        first, _, rest = name.partition(".")
        if not rest:
            self.register_parameter(first, nn.Parameter(value, requires_grad=False))
            return
        if first not in self._modules:
            self.add_module(first, Tree())
        inner = self._modules[first]
        assert isinstance(inner, Tree)
        inner.put(rest, value)


def model_of(file: Path) -> nn.Module:
    """Return a module with the weights of a file, or the model of a folder."""
    if file.is_dir():
        model_class = import_module("transformers").AutoModelForCausalLM
        loaded: nn.Module = model_class.from_pretrained(file, dtype="auto")
        return loaded
    model = Tree()
    for name, value in load_file(file).items():
        model.put(name, value)
    return model


def shard_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model as trainers do: each layer by itself, then what is left."""
    for layer in model.get_submodule("model.layers").children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def fsdp2(model: nn.Module, ranks: int) -> dict[str, Any]:
    """FSDP2 over all ranks."""
    shard_layers(model, init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",)))
    return model.state_dict()


def hsdp(model: nn.Module, ranks: int) -> dict[str, Any]:
    """FSDP2 over half of the ranks, the other half holds the same."""
    shard_layers(model, init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("ddp", "fsdp")))
    return model.state_dict()


def fsdp_and_tp(model: nn.Module, ranks: int) -> dict[str, Any]:
    """FSDP2 of a model whose linear layers are split over two ranks before."""
    mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("fsdp", "tp"))
    for module in list(model.modules()):
        for name, value in list(module.named_parameters(recurse=False)):
            path = next(n for n, p in model.named_parameters() if p is value)
            if path.endswith((*COLUMN, *ROW)):
                placed = distribute_tensor(value, mesh["tp"], [Shard(int(path.endswith(ROW)))])
                module.register_parameter(name, nn.Parameter(placed, requires_grad=False))
    shard_layers(model, mesh["fsdp"])
    return model.state_dict()


def fsdp1(model: nn.Module, ranks: int) -> dict[str, Any]:
    """FSDP1 with a device mesh, as verl's older trainer makes it."""
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",))
    return _fsdp1(model, device_mesh=mesh)


def fsdp1_without_mesh(model: nn.Module, ranks: int) -> dict[str, Any]:
    """FSDP1 without a device mesh: its state dict holds ShardedTensors."""
    return _fsdp1(model)


def _fsdp1(model: nn.Module, **how: Any) -> dict[str, Any]:
    wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"), **how)
    config = ShardedStateDictConfig(offload_to_cpu=False)
    with FullyShardedDataParallel.state_dict_type(
        wrapped, StateDictType.SHARDED_STATE_DICT, config
    ):
        return wrapped.state_dict()


def save_hf(state: dict[str, Any], out: Path) -> None:
    """Save with the writer of torch.distributed.checkpoint that writes safetensors."""
    writer = HuggingFaceStorageWriter(path=str(out), save_distributed=True)
    save_distributed(state, storage_writer=writer)


WAYS: dict[str, Callable[[nn.Module, int], dict[str, Any]]] = {
    "fsdp2": fsdp2,
    "hsdp": hsdp,
    "fsdp+tp": fsdp_and_tp,
    "fsdp1": fsdp1,
    "fsdp1-without-mesh": fsdp1_without_mesh,
}


def run(rank: int, how: str, ranks: int, file: Path, out: Path) -> None:
    """Be one rank: shard the model and save this rank's part."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = FileStore(str(out / ".store"), ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    way, _, writer = how.partition("/")
    state = WAYS[way](model_of(file), ranks)
    if writer == "hf":
        save_hf(state, out)
    else:
        torch.save(state, out / f"model_world_size_{ranks}_rank_{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def start(how: str, ranks: int, file: Path, out: Path) -> int:
    """Start the ranks as copies of this process, and return how many failed."""
    out.mkdir(parents=True)
    children = []
    for rank in range(ranks):
        child = os.fork()
        if not child:
            status = 1
            try:
                run(rank, how, ranks, file, out)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    (out / ".store").unlink(missing_ok=True)
    return failed


def main(file: str, out: str, *jobs: str) -> int:
    """Do all jobs, and return how many ranks failed."""
    import_module("torch._dynamo")  # FSDP2 imports it at last: here once, not in every rank
    if Path(file).is_dir():
        import_module("transformers.models.auto.modeling_auto")
    failed = 0
    for job in jobs:
        how, _, ranks = job.partition(":")
        failed += start(how, int(ranks), Path(file), Path(out) / job.replace("/", "-"))
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
