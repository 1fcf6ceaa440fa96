"""What transformers computes of tiny models, each by its own config. Run by `oracle_server`.

Weights are random and stay as they are; only config.json differs between the folders of a model.
"""

from __future__ import annotations

import json
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.support.families import MODELS, SIZES
from tests.support.oracle_core import meet
from tests.support.oracle_families import DELTA, LESS_ONE
from tests.support.oracle_from_args import default_fields, megatron_logits

# Every head of latent attention has its own keys.
OF_LATENT = {
    model: {"num_key_value_heads": 4, "head_dim": 4}
    for model in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
}
SECONDS = 30  # that a model may take


def compare(*, task: str, meeting: str, rank: int, **arguments: Any) -> dict[str, Any]:
    torch.set_grad_enabled(False)
    if task == "make":
        return _make(**arguments)
    if task == "fields":
        return default_fields()
    if task == "megatron":
        meet(meeting, rank, 1)
    return _distances(task, **arguments)


def _make(*, model: str, changes: dict[str, Any], folder: str, seed: int) -> dict[str, Any]:
    """Write a model, and return the entries of its class's config."""
    transformers = import_module("transformers")
    sizes = {**SIZES, **MODELS[model][1], **OF_LATENT.get(model, {}), **changes}
    try:
        config = transformers.AutoConfig.for_model(model, **sizes)
        made = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        made.eval()(torch.tensor([[1, 2, 3]]), use_cache=False)
    except Exception as error:  # noqa: BLE001 -- whatever transformers raises
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    torch.manual_seed(seed)
    for name, value in made.state_dict().items():
        large = 0.1 if model in DELTA else 0.2
        value.normal_(std=large if "norm" not in name and value.dim() > 1 else 0.1)
        zero_centred = model in LESS_ONE and "linear_attn" not in name
        if ("norm" in name or ".ln_" in name) and name.endswith("weight") and not zero_centred:
            value.add_(1)
    made.save_pretrained(folder)
    return {"config": json.loads(json.dumps(config.to_dict(), default=str))}


def _distances(
    task: str, *, base: str, others: list[str], changed: list[str], ids: list[int]
) -> dict[str, Any]:
    """Return how far the logits of each folder are from those of the base, or why it has none.

    `changed` are the names of the args that were changed in each.
    """
    wanted, missing = _huggingface(Path(base), ids)
    found: list[dict[str, Any]] = []
    for other, name in zip(others, changed, strict=True):
        signal.alarm(SECONDS)
        signal.signal(signal.SIGALRM, _stop)
        try:
            if task == "megatron":
                got = megatron_logits(Path(other), ids, name)[:, : wanted.shape[-1]]
            else:
                got, lacks = _huggingface(Path(other), ids)
                if lacks != missing:
                    found.append(
                        {"refused": f"weights are not found: {sorted(lacks ^ missing)[:2]}"}
                    )
                    continue
            found.append(_distance(wanted, got))
        except Exception as error:  # noqa: BLE001 -- whatever the libraries raise
            found.append({"refused": f"{type(error).__name__}: {error}"[:300]})
        finally:
            signal.alarm(0)
    return {"found": found}


def _stop(*_: Any) -> None:
    raise TimeoutError(f"takes more than {SECONDS} s")


def _huggingface(folder: Path, ids: list[int]) -> tuple[torch.Tensor, frozenset[str]]:
    """Return logits, (positions, vocabulary), and the names of weights that are not in the file."""
    auto = import_module("transformers").AutoModelForCausalLM
    model, info = auto.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    lacks = {*info["missing_keys"], *(str(name[0]) for name in info["mismatched_keys"])}
    return model.eval()(torch.tensor([ids]), use_cache=False).logits[0], frozenset(lacks)


def _distance(wanted: torch.Tensor, got: torch.Tensor) -> dict[str, Any]:
    """Return |got - wanted| / |wanted|, each row less its mean: softmax does not see it."""
    if got.shape != wanted.shape:
        return {"refused": f"logits of shape {tuple(got.shape)}"}
    if not bool(got.isfinite().all()):
        return {"rel": "inf"}
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (wanted, got))
    return {"rel": float((a - b).norm() / a.norm())}
