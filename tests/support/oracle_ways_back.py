"""Make tiny models with transformers, and compute their logits again from folders that came back.

`python -m tests.support.oracle_ways_back <question.json`. Standard input is an object with `make`,
a list of [folder, model type, differing settings], or with `compare`, a list of [folder, folder
that came back]. The last line of standard output is an object of the (second) folder to what was
found.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.support.families import MODELS, SIZES

TOKENS = 40  # longer than the windows of the odd configs


def _ids() -> torch.Tensor:
    return torch.arange(3, 3 + TOKENS)[None] * 7 % 61


def made(folder: Path, model_type: str, differing: dict[str, Any]) -> str | None:
    """Write a model in float32 and its logits; return why transformers cannot, or None."""
    transformers = import_module("transformers")
    torch.manual_seed(0)
    try:
        settings = {**SIZES, **MODELS[model_type][1]}
        if "kv_lora_rank" in settings:  # heads of latent attention have no groups
            rotated = settings["qk_rope_head_dim"]
            settings |= {"num_key_value_heads": settings["num_attention_heads"]}
            settings |= {"head_dim": rotated}
        settings |= differing
        config = transformers.AutoConfig.for_model(model_type, **settings)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model = model.eval().float()
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            large = "norm" not in name and value.dim() > 1
            value.normal_(std=0.3 if large else 0.1)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
        with torch.no_grad():
            logits = model(_ids()).logits[0]
        model.save_pretrained(folder)
        torch.save(logits, folder.parent / "logits.pt")
    except Exception as error:  # noqa: BLE001 -- whatever transformers raises
        return f"{type(error).__name__}: {error}"[:300]
    return None


def compared(folder: Path, back: Path) -> dict[str, Any]:
    """Return how far the logits are from those of the original, and what was not loaded."""
    transformers = import_module("transformers")
    wanted = torch.load(folder.parent / "logits.pt")
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            back, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
        with torch.no_grad():
            found = model.eval()(_ids()).logits[0]
    except Exception as error:  # noqa: BLE001 -- whatever transformers raises
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    loose = [key for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if told.get(key)]
    return {
        "class": type(model).__name__,
        "max_abs": float((found - wanted).abs().max()),
        "spread": float(wanted.std()),
        "loose": loose,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    question = json.load(sys.stdin)
    result: dict[str, Any] = {}
    for name, model_type, differing in question.get("make", ()):
        result[name] = made(Path(name), model_type, differing)
    for original, back in question.get("compare", ()):
        result[back] = compared(Path(original), Path(back))
    sys.stdout.write(json.dumps(result) + "\n")
