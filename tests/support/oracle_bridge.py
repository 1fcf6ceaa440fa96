"""Export a checkpoint as Megatron-Bridge does: from the model that its run_config.yaml names.

Run by the oracle's Python: `-m tests.support.oracle_bridge FOLDER export SOURCE CHECKPOINT OUT` and
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

from tests.support.stand_ins import Nothing, StandIn, StandIns, prepare

# What its modules import at once, of which loading a model uses nothing.
UNUSED = (
    *("modelopt", "nvidia_resiliency_ext", "wandb", "datasets", "multistorageclient", "fla"),
    *("causal_conv1d", "flash_attn", "open_clip", "qwen_vl_utils", "av", "cv2", "soundfile"),
    *("librosa", "webdataset", "decord", "scipy", "mlflow", "comet_ml", "torchaudio"),
    *("megatron_energon", "megatron_fsdp", "nv_one_logger", "timm", "imageio"),
)


def export(source: str, folder: str, out: str) -> None:
    """Load a checkpoint as the model of a Hugging Face folder, and write its weights like those.

    So does `export_ckpt`, which copies the tokenizer too.
    """
    bridge: Any = import_module("megatron.bridge").AutoBridge.from_hf_pretrained(source)
    model = bridge.load_megatron_model(folder)
    bridge.save_hf_weights(model, out, show_progress=False)


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
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rest[-1]}.meeting", rank=0, world_size=1
    )
    import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
    export(*rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
