"""What a Megatron rank file holds beside the weights: arguments, optimizer, random states."""

from __future__ import annotations

import argparse
import enum
import random
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from tests.support.oracle import Layout


def training_state(models: list[dict[str, Any]], *, distributed: bool) -> dict[str, Any]:
    """Return what a training run saves beside the model: Adam's, the scheduler's, random states."""
    params = [p for m in models for k, p in m.items() if torch.is_tensor(p) and p.numel()]
    groups = [[p for p in params if p.ndim == 1], [p for p in params if p.ndim > 1]]
    common = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    optimizer: dict[str, Any] = {"param_groups": [{**common, "wd_mult": float(i)} for i in (0, 1)]}
    whole: dict[str, Any] = {"optimizer": optimizer}
    if not distributed:
        ordered = [p for group in groups for p in group]
        optimizer["state"] = {
            i: {"step": torch.tensor(2.0), "exp_avg": p.float() / 8, "exp_avg_sq": p.float() ** 2}
            for i, p in enumerate(ordered)
        }
        start = 0
        for group, entry in zip(groups, optimizer["param_groups"], strict=True):
            entry["params"] = list(range(start, start + len(group)))
            start += len(group)
        whole["fp32_from_fp16_params"] = [[p.float() for p in group] for group in groups]
    state = torch.random.get_rng_state()
    rng = {
        "random_rng_state": random.Random(0).getstate(),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": state,
        "cuda_rng_state": state,
        "rng_tracker_states": {"model-parallel-rng": state},
    }
    scheduler = {"max_lr": 1e-3, "num_steps": 2, "lr_decay_style": "linear", "wd_incr_steps": 2}
    return {"optimizer": whole, "opt_param_scheduler": scheduler, "rng_state": [rng]}


def flat_optimizer(models: list[dict[str, Any]]) -> dict[Any, Any]:
    """Return distrib_optim.pt: one flat buffer, in the reverse order of the model's tensors."""
    params = [p for m in models for p in m.values() if torch.is_tensor(p) and p.numel()]
    flat = torch.cat([p.float().reshape(-1) for p in reversed(params)])
    bucket = {"param": flat, "exp_avg": flat / 8, "exp_avg_sq": flat**2}
    dtypes = (params[0].dtype, torch.float32)
    return {"buckets_coalesced": True, 0: {dtypes: {**bucket, "numel_unpadded": flat.numel()}}}


# Classes that a real file names and a reader cannot import.
ModelType = enum.Enum("ModelType", "encoder_or_decoder", module="megatron.core.enums")
AttnBackend = enum.Enum("AttnBackend", "flash auto", module="megatron.core.transformer.enums")
RerunMode = enum.Enum("RerunMode", "DISABLED", module="megatron.core.rerun_state_machine")


@contextmanager
def _modules() -> Iterator[None]:
    """Have modules of Megatron's names in place, for a pickle to refer to."""
    modules = {
        name: ModuleType(name)
        for name in ("megatron", "megatron.core", "megatron.core.transformer")
    }
    for cls in (ModelType, AttnBackend, RerunMode):
        module = modules.setdefault(cls.__module__, ModuleType(cls.__module__))
        setattr(module, cls.__name__, cls)
    with mock.patch.dict(sys.modules, modules):
        yield


def save(state: object, file: Path) -> None:
    """Run torch.save as Megatron would."""
    with _modules():
        torch.save(state, file)


def load(file: Path) -> Any:
    """Load a file that `save` wrote, whole: only files of these tests are loaded so."""
    with _modules():
        return torch.load(file, weights_only=False)


def megatron_args(
    layout: Layout, pp: int, vpp: int, *, lies: Collection[str], distributed: bool
) -> argparse.Namespace:
    """Return the arguments that Megatron saves, as true as `lies` allows."""
    config, weights = layout.config, layout.weights
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta") or rope["rope_theta"]
    dtype = weights["model.norm.weight"].dtype
    llama3, mha = rope.get("rope_type") == "llama3", layout.groups == layout.heads
    lie_mha = mha and "mha" in lies
    lie_dtype = "dtype" in lies
    experts = config.get("num_local_experts")
    return argparse.Namespace(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.tp if experts else 1,
        context_parallel_size=1,
        num_layers=config["num_hidden_layers"],
        encoder_num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=layout.heads,
        group_query_attention=not lie_mha,
        num_query_groups=1 if lie_mha else layout.groups,
        kv_channels=layout.head_dim,
        vocab_size=config["vocab_size"],
        padded_vocab_size=layout.padded_vocab,
        make_vocab_size_divisible_by=layout.divisible_by,
        max_position_embeddings=config["max_position_embeddings"],
        seq_length=4096,
        add_qkv_bias="model.layers.0.self_attn.q_proj.bias" in weights,
        add_bias_linear=False,
        untie_embeddings_and_output_weights=not config["tie_word_embeddings"],
        normalization="RMSNorm",
        norm_epsilon=config["rms_norm_eps"],
        apply_layernorm_1p=False,
        swiglu=True,
        num_experts=experts,
        moe_router_topk=config.get("num_experts_per_tok", 2),
        moe_grouped_gemm=bool(experts) and layout.experts != "sequential",
        moe_layer_freq=1,
        moe_ffn_hidden_size=config["intermediate_size"],
        moe_shared_expert_intermediate_size=None,
        multi_latent_attention=False,
        qk_layernorm="model.layers.0.self_attn.q_norm.weight" in weights,
        position_embedding_type="rope",
        rotary_base=10000 if "rope" in lies else int(theta),
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=llama3 and "rope" not in lies,
        rope_scaling_factor=rope.get("factor", 8.0),
        transformer_impl="transformer_engine" if layout.names == "te" else "local",
        use_legacy_models=layout.names == "legacy",
        use_distributed_optimizer=distributed,
        ckpt_format="torch",
        params_dtype=torch.float32 if lie_dtype else dtype,
        bf16=dtype is torch.bfloat16 and not lie_dtype,
        fp16=dtype is torch.float16 and not lie_dtype,
        fp8=None,
        model_type=ModelType.encoder_or_decoder,
        attention_backend=AttnBackend.auto,
        cp_comm_type=["p2p"],
        tokenizer_type="Llama2Tokenizer",
        tokenizer_model=None,
        load="/example/hf",
        save="/example/megatron",
        iteration=None,
        seed=1234,
    )
