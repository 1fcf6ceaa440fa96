"""Write models of transformers with the switches of their configs set, and their logits.

Run by `oracle_server`.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.support.families import MODELS, SIZES

IDS = [3, 9, 27, 5, 60, 11, 2]


def compare(
    *, model: str, cases: list[dict[str, Any]], folder: str, **_: Any
) -> dict[str, list[Any]]:
    """Write a folder for each of the cases, numbered, and return the logits of `IDS` of each.

    Every parameter is random, biases too. Fields that the class drops are put into config.json.
    """
    torch.set_grad_enabled(False)
    transformers = import_module("transformers")
    found = []
    for number, changes in enumerate(cases):
        sizes = {**SIZES, **MODELS[model][1]}
        if "kv_lora_rank" in sizes:
            sizes |= {"num_key_value_heads": 4}
            del sizes["head_dim"]
        if model == "gpt2":
            del sizes["intermediate_size"]
        config = transformers.AutoConfig.for_model(model, **{**sizes, **changes})
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        made = made.float().eval()
        for name, value in made.state_dict().items():
            norm = name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
            value.normal_(mean=1.0 if norm else 0.0, std=0.2)
        out = Path(folder) / str(number)
        made.save_pretrained(out)
        written = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(written | changes))
        found.append(made(torch.tensor([IDS])).logits[0].tolist())
    return {"logits": found}
