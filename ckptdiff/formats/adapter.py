"""What an adapter's own config states: PEFT's adapter_config.json, or what Megatron's files say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.formats import tree
from ckptdiff.formats.json_files import read_object
from ckptdiff.formats.plain_yaml import read_yaml
from ckptdiff.formats.run_config import BRIDGE
from ckptdiff.formats.weight_files import INDICES, LOADED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint

NAME = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # in the order in which PEFT looks
_PARTS = (".adapter.", ".lora_A.", ".lora_B.")  # in names of Megatron's adapters
# How args (ms-swift, NeMo) and the configs of Megatron-Bridge's classes call what PEFT states.
_IN_PEFT = {
    "lora_rank": "r", "dim": "r", "lora_alpha": "lora_alpha", "alpha": "lora_alpha",
    "use_rslora": "use_rslora", "target_modules": "target_modules",
    "normalize_moe_lora": "normalize_moe_lora",
}  # fmt: skip


def adapter_config(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """Return the config of the adapter in a checkpoint in PEFT's words; None if none is stated.

    Raises CorruptFile or UnreadableFile.
    """
    root = checkpoint.root if checkpoint.root.is_dir() else checkpoint.root.parent
    if checkpoint.convention == "hf":
        file = root / NAME
        return read_object(file) if file.is_file() else None
    # Joined, a hundred thousand names are looked through in a hundredth of a second.
    names = ("\n".join(shard.tensors) for shard in checkpoint.shards)
    if checkpoint.convention != "megatron" or not any(p in n for n in names for p in _PARTS):
        return None
    for file in (root / BRIDGE, root.parent / BRIDGE):
        if file.is_file():
            document = read_yaml(file)
            stated = document.get("peft") if isinstance(document, dict) else None
            if isinstance(stated, dict):
                return _in_peft(tree.plain_values(stated))
    return _in_peft(checkpoint.config or {})


def beside_a_model(folder: Path) -> Path:
    """Return the file of PEFT's adapter in a folder that holds a model's weights too, else it."""
    if any((folder / name).is_file() for name in LOADED + INDICES):
        return next((folder / n for n in _FILES if (folder / n).is_file()), folder)
    return folder


def _in_peft(stated: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return settings of a class or of args under PEFT's names for them.

    None if rank or alpha is not among them: what programs of Megatron take then is not PEFT's.
    """
    kind = str(stated.get("_target_", "LoRA")).rpartition(".")[2]
    plain = "LORA" if kind in ("LoRA", "CanonicalLoRA", "VLMLoRA") else kind.upper()
    found = {name: stated[own] for own, name in _IN_PEFT.items() if stated.get(own) is not None}
    return {"peft_type": plain, **found} if found.keys() >= {"r", "lora_alpha"} else None
