"""Load a checkpoint as Megatron-Bridge does: by its run_config.yaml, into the model that it names.

Run by the oracle's Python: `-m tests.support.oracle_bridge FOLDER load MODEL ITERATION OUT` and
`… FOLDER fields`. FOLDER is one into which megatron-bridge and omegaconf were installed. A CPU is
enough: what the package imports and does not use to load a model is stood in for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support import newest_core
from tests.support.stand_ins import Nothing, StandIn, StandIns, prepare

# What its modules import at once, of which loading a model uses nothing.
UNUSED = (
    *("modelopt", "nvidia_resiliency_ext", "wandb", "datasets", "multistorageclient", "fla"),
    *("causal_conv1d", "flash_attn", "open_clip", "qwen_vl_utils", "av", "cv2", "soundfile"),
    *("librosa", "webdataset", "decord", "scipy", "mlflow", "comet_ml", "torchaudio"),
    *("megatron_energon", "megatron_fsdp", "nv_one_logger", "timm", "imageio"),
)
# Of Transformer Engine's parts, and what they are as local ones.
FUSED = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


def loaded(iteration: str) -> Any:
    """Return the model that Bridge builds and loads."""
    module: Any = import_module("megatron.bridge.training.model_load_save")
    config, _ = module.load_model_config(iteration)
    config.gradient_accumulation_fusion = False  # needs a GPU's kernels
    found = module.build_and_load_model(
        iteration, config, use_cpu_init=True, skip_temp_dist_context=True
    )
    model = found[0] if isinstance(found, list) else found
    while hasattr(model, "module"):
        model = model.module
    return model


def load(model: str, iteration: str, out: str) -> dict[str, Any]:
    """Write what was loaded under Hugging Face's names, as the padding rows are left out."""
    state = {}
    for name, tensor in loaded(iteration).state_dict().items():
        if torch.is_tensor(tensor) and tensor.numel():
            for fused, own in FUSED.items() if model not in newest_core.HYBRIDS else ():
                name = name.replace(fused, own)
            # The class of older releases has a module for the convolution.
            state[name.replace("conv1d.", "conv1d_")] = tensor.detach()
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        state[name] = state[name][: newest_core.VOCAB]
    found = newest_core.in_hf_names(model, state)
    save_file(found, out)
    return {"tensors": len(found)}


def fields() -> dict[str, list[str]]:
    """Return the names of the fields of the classes that build models."""
    bridge: Any = import_module("ckptdiff.conversion.bridge_config")
    found = {}
    for path in sorted(set(bridge.PROVIDERS.values())):
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        found[path] = sorted(field.name for field in dataclasses.fields(cls) if field.init)
    return found


def main(folder: str, command: str, *rest: str) -> None:
    prepare(os.environ.get("CKPTDIFF_MEGATRON", ""), engine=True)
    sys.path.append(folder)
    megatron: Any = import_module("megatron")
    megatron.__path__ = [*megatron.__path__, str(Path(folder) / "megatron")]
    sys.meta_path.append(StandIns(*UNUSED))
    for name in ("torch.utils.tensorboard", "torch.utils.tensorboard.writer"):
        sys.modules[name] = StandIn(name)
    torch.cuda.Stream = Nothing  # type: ignore[assignment,misc]
    if command == "fields":
        print(json.dumps(fields()))  # noqa: T201
        return
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rest[-1]}.meeting", rank=0, world_size=1
    )
    import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
    print(json.dumps(load(*rest)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
