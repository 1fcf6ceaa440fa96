"""Save torch_dist checkpoints with Adam's state, by a newer megatron-core's distributed optimizer.

Run by the oracle's Python: `-m tests.support.newest_optimizer WHEEL MODEL KIND FOLDER`. It writes
FOLDER/megatron, and FOLDER/state.safetensors with what the optimizer holds of each parameter, by
`<kind>.<Megatron's name>`. KIND is one of Megatron's ways to store it: `fully_reshardable` under
the names of the weights, `dp_reshardable` (the default) in flat buffers.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from tests.support import newest_core
from tests.support.stand_ins import prepare

KINDS = {"param": "fp32_param", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


class OnTheCPU(TorchFunctionMode):
    """Has what is asked for on a GPU made on the CPU, and types called as they are on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if str(named.get("device", "")).startswith("cuda"):
            named["device"] = "cpu"
        if func is torch.Tensor.type and len(args) == 1 and not named:
            return func(*args).replace("torch.", "torch.cuda.")
        return func(*args, **named)


def save(model: str, kind: str, folder: Path) -> dict[str, Any]:
    """Train for one step on made-up gradients, and save."""
    network = newest_core.build(model)
    parallel: Any = import_module("megatron.core.distributed")
    wrapped = parallel.DistributedDataParallel(
        network.config,
        parallel.DistributedDataParallelConfig(use_distributed_optimizer=True),
        network,
    )
    optimizers: Any = import_module("megatron.core.optimizer")
    optimizer = optimizers.get_megatron_optimizer(
        optimizers.OptimizerConfig(
            optimizer="adam", lr=1e-2, bf16=True, params_dtype=torch.bfloat16,
            use_distributed_optimizer=True, clip_grad=0.0,
        ),
        [wrapped],
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.main_grad.copy_(torch.randn_like(parameter.main_grad))
    optimizer.step()
    group = import_module("megatron.core.parallel_state").get_data_parallel_group(
        with_context_parallel=True
    )
    metadata = {
        "singleton_local_shards": False,
        "distrib_optim_sharding_type": kind,
        "chained_optim_avoid_prefix": True,
        "distrib_optim_fully_reshardable_mem_efficient": True,
    }
    state = network.sharded_state_dict(metadata={**metadata, "dp_cp_group": group})
    iteration = folder / "megatron/iter_0000001"
    iteration.mkdir(parents=True)
    held = optimizer.sharded_state_dict(
        state, is_loading=False, metadata={**metadata, "dp_cp_group": group}
    )
    args = Namespace(**newest_core.ARGS, **newest_core.OF_MODEL[model])
    import_module("megatron.core.dist_checkpointing").save(
        {**state, "optimizer": held, "args": args, "checkpoint_version": 3.0, "iteration": 1},
        str(iteration),
        content_metadata=metadata,
        verify_integrity=True,
    )
    (folder / "megatron/latest_checkpointed_iteration.txt").write_text("1")
    found = {}
    for inner in optimizer.chained_optimizers:
        for ranges in inner.model_param_group_index_map:
            for theirs, name in KINDS.items():
                shape = ranges.shape
                tensor = inner._get_main_param_and_optimizer_states(ranges)[theirs]
                found[f"{name}.{names(network)[ranges]}"] = tensor.reshape(shape).clone()
    save_file(found, folder / "state.safetensors")
    return {"files": sorted(file.name for file in iteration.iterdir()), "states": len(found)}


def names(network: Any) -> dict[Any, str]:
    return {parameter: name for name, parameter in network.named_parameters()}


def main(wheel: str, model: str, kind: str, folder: str) -> None:
    prepare(wheel)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{kind}", rank=0, world_size=1
    )
    import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
    torch.manual_seed(0)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    with OnTheCPU():
        found = save(model, kind, Path(folder))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
