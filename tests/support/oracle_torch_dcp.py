"""Have megatron-core's own FSDP 2 save a model as Megatron's `torch_dcp`, one process a rank.

Run by `oracle_server`, as `oracle_megatron` is.
"""

from __future__ import annotations

import json
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.support import oracle_megatron
from tests.support.oracle_core import use_the_cpu


def compare(*, hf: str, out: str, rank: int, world: int, meeting: str) -> dict[str, Any]:
    """Save the model in the folder `hf` with what `save_checkpoint` of Megatron-LM puts beside."""
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    import_module("megatron.core.parallel_state").initialize_model_parallel()
    use_the_cpu()
    settings = json.loads((Path(hf) / "config.json").read_text())
    config = import_module("transformers").AutoConfig.from_pretrained(hf)
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(Path(hf).glob("*.safetensors")):
        weights |= load_file(file)
    model = oracle_megatron.build(config, 1, config.vocab_size, torch.bfloat16)
    model.load_state_dict(
        oracle_megatron.shards(settings, weights, 1, 0, config.vocab_size), strict=False
    )
    fsdp: Any = import_module("megatron.core.distributed.torch_fully_sharded_data_parallel")
    of_group = fsdp.DeviceMesh.from_group
    fsdp.DeviceMesh.from_group = lambda group, _: of_group(group, "cpu")
    model.config.transformer_impl = "local"
    ddp: Any = import_module("megatron.core.distributed")
    wrapped = fsdp.TorchFullyShardedDataParallel(
        model.config, ddp.DistributedDataParallelConfig(), model
    )
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.0)
    for parameter in wrapped.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {
        "args": args_of(config), "checkpoint_version": 3.0, "iteration": 7,
        "model": wrapped.state_dict_for_save_checkpoint(), "optimizer": optimizer.state_dict(),
        "opt_param_scheduler": {"num_steps": 7}, "rng_state": [{"random_rng_state": 1}],
        "num_floating_point_operations_so_far": 0,
    }  # fmt: skip
    folder = Path(out) / "iter_0000007"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "latest_checkpointed_iteration.txt").write_text("7")
    checkpoint: Any = import_module("torch.distributed.checkpoint")
    checkpoint.save(state, storage_writer=checkpoint.FileSystemWriter(folder))
    dist.barrier()
    dist.destroy_process_group()
    return {}


def args_of(config: Any) -> Namespace:
    return Namespace(
        num_layers=config.num_hidden_layers, hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size, num_attention_heads=config.num_attention_heads,
        group_query_attention=True, num_query_groups=config.num_key_value_heads,
        kv_channels=config.head_dim, swiglu=True, normalization="RMSNorm", add_bias_linear=False,
        qk_layernorm=config.model_type == "qwen3", norm_epsilon=config.rms_norm_eps,
        rotary_base=int(config.rope_parameters["rope_theta"]), position_embedding_type="rope",
        max_position_embeddings=config.max_position_embeddings, vocab_size=config.vocab_size,
        padded_vocab_size=config.vocab_size, tensor_model_parallel_size=1,
        untie_embeddings_and_output_weights=not config.tie_word_embeddings, bf16=True,
        pipeline_model_parallel_size=1, use_torch_fsdp2=True, ckpt_format="torch_dcp",
    )  # fmt: skip
