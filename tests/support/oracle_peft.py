"""Have PEFT make an adapter of a tiny model, save it, load it again and merge it."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def compare(
    *,
    rank: int,
    meeting: str,
    folder: str,
    family: str,
    dtype: str,
    adapter: str,
    settings: dict[str, Any],
    tied: bool = False,
    merge: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `base`, `adapter` and `merged` into a folder; return how torch adds up products here.

    `merge` has arguments of PEFT's loading and merging.
    """
    peft = import_module("peft")
    warnings.simplefilter("ignore")
    out, kind = Path(folder), getattr(torch, dtype)
    model = _model(family, tied=tied).to(kind)
    model.save_pretrained(out / "base")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(7)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            noise = torch.randn_like(parameter, dtype=torch.float32) * 0.05
            parameter.data = noise.to(getattr(torch, adapter))
        elif "modules_to_save" in name:
            parameter.data = torch.randn_like(parameter)
    wrapped.save_pretrained(out / "adapter")
    options = merge or {}
    base = type(model).from_pretrained(out / "base", dtype=kind)
    loaded = peft.PeftModel.from_pretrained(
        base, out / "adapter", autocast_adapter_dtype=options.get("autocast", True)
    )
    merged = loaded.merge_and_unload(safe_merge=options.get("safe", False))
    merged.save_pretrained(out / "merged")
    return {"in_order": _adds_in_order()}


def _adds_in_order() -> bool:
    """Return whether torch adds a product's terms in order here, by fused multiply-adds."""
    one, other = torch.randn(64, 32), torch.randn(32, 48)
    total = torch.zeros(64, 48)
    for k in range(32):
        total = (total.double() + torch.outer(one[:, k].double(), other[k].double())).float()
    return torch.equal(total, one @ other)


def _model(family: str, *, tied: bool) -> Any:
    transformers = import_module("transformers")
    torch.manual_seed(0)
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
        tokens = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **tokens))
    if family == "llava":
        return _llava(transformers)
    name = {"llama": "Llama", "qwen3": "Qwen3", "phi3": "Phi3"}[family]
    own = {"head_dim": 8} if family == "qwen3" else {}
    config = getattr(transformers, f"{name}Config")(**SIZES, **own, tie_word_embeddings=tied)
    return getattr(transformers, f"{name}ForCausalLM")(config)


def _llava(transformers: Any) -> Any:
    """Return a model of which files have other names than modules in memory."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=28, patch_size=14, projection_dim=32,
    )  # fmt: skip
    text = transformers.LlamaConfig(**SIZES)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)
    return transformers.LlavaForConditionalGeneration(config)
