"""Have torch's own FSDP and accelerate save a model in DCP folders, one process a rank.

Run by `oracle_server`, as `oracle_megatron` is.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy


def compare(
    *, how: str, hf: str, out: str, rank: int, world: int, meeting: str, replicas: int = 1
) -> dict[str, Any]:
    """Save the model in the folder `hf`, after one step of training if there is an optimizer."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    model = import_module("transformers").AutoModelForCausalLM.from_pretrained(hf, dtype="auto")
    sizes, names = (replicas, world // replicas), ("replicate", "shard")
    skipped = replicas == 1
    mesh = init_device_mesh("cpu", sizes[skipped:], mesh_dim_names=names[skipped:])
    SAVERS[how](model, mesh, Path(out))
    dist.barrier()
    dist.destroy_process_group()
    return {"files": sorted(p.name for p in Path(out).rglob("*") if p.is_file())}


def sharded(model: Any, mesh: Any) -> Any:
    """Return the model with the parameters of each layer, and then the rest, split over ranks."""
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def step(model: Any) -> torch.optim.Optimizer:
    """Return an optimizer with a state, after a step that changes nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model(torch.arange(8)[None]).logits.float().sum().backward()
    optimizer.step()
    return optimizer


def plain(model: Any, mesh: Any, out: Path) -> None:
    """As `dcp.save(model.state_dict())`."""
    dcp.state_dict_saver.save(sharded(model, mesh).state_dict(), checkpoint_id=out)


def app(model: Any, mesh: Any, out: Path) -> None:
    """As PyTorch's tutorial: one object holds the states of model and optimizer."""
    optimizer = step(sharded(model, mesh))

    class AppState:
        def state_dict(self) -> dict[str, Any]:
            weights, state = get_state_dict(model, optimizer)
            return {"model": weights, "optim": state}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise NotImplementedError

    dcp.state_dict_saver.save({"app": AppState(), "epoch": torch.tensor(3)}, checkpoint_id=out)


def titan(model: Any, mesh: Any, out: Path) -> None:
    """As torchtitan: the weights without a key of their own, optimizer and run beside them."""
    optimizer = step(sharded(model, mesh))
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    beside = {
        "optimizer": state,
        "lr_scheduler": {"last_epoch": 10},
        "dataloader": {"world_size": dist.get_world_size()},
        "train_state": {"step": torch.tensor(10), "ntokens_seen": 512},
    }
    dcp.state_dict_saver.save({**weights, **beside}, checkpoint_id=out)


def accelerated(model: Any, mesh: Any, out: Path) -> None:
    """By accelerate's functions for FSDP 2, as its `save_state` and the Trainer call them.

    They are called one by one, since on a CPU its Accelerator leaves FSDP out.
    """
    optimizer = step(sharded(model, mesh))
    _accelerated(model, optimizer, out, version=2)


def accelerated_fsdp1(model: Any, _: Any, out: Path) -> None:
    """The same for FSDP 1, which has flat parameters and ShardedTensors."""
    wrap = functools.partial(
        transformer_auto_wrap_policy, transformer_layer_cls={type(model.model.layers[0])}
    )
    flat = FullyShardedDataParallel(
        model, auto_wrap_policy=wrap, device_id=torch.device("cpu"), use_orig_params=True
    )
    _accelerated(flat, step(flat), out, version=1)


def _accelerated(model: Any, optimizer: Any, out: Path, *, version: int) -> None:
    os.environ |= {
        "RANK": str(dist.get_rank()),
        "LOCAL_RANK": str(dist.get_rank()),
        "WORLD_SIZE": str(dist.get_world_size()),
        "MASTER_ADDR": "127.0.0.1",  # asked for, and not used: the ranks have met
        "MASTER_PORT": "1",
    }
    utils = import_module("accelerate.utils")
    accelerator = import_module("accelerate").Accelerator(cpu=True)
    plugin = utils.FullyShardedDataParallelPlugin(
        fsdp_version=version, state_dict_type="SHARDED_STATE_DICT"
    )
    utils.save_fsdp_model(plugin, accelerator, model, str(out))
    utils.save_fsdp_optimizer(plugin, accelerator, optimizer, model, str(out))


SAVERS = {
    "plain": plain,
    "app": app,
    "titan": titan,
    "accelerate": accelerated,
    "fsdp1": accelerated_fsdp1,
}
