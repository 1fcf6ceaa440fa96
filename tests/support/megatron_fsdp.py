"""Have the real Megatron-FSDP save a checkpoint on a CPU, and the same model as Hugging Face's.

`python -m tests.support.megatron_fsdp WHEEL FOLDER`, by the oracle's Python with einops, made
`tests/data/megatron_fsdp.zip`. WHEEL is a folder into which the wheel of megatron-core 0.19.2 was
unpacked; it is copied, and the copy asks for `cpu` where it asked for `cuda`. Four ranks, TP 2.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.support.stand_ins import Nothing, prepare

WORLD, TP = 4, 2
LAYERS, HIDDEN, HEADS, GROUPS, CHANNELS, FFN, VOCAB = 2, 16, 4, 2, 4, 18, 32
ARGS: dict[str, Any] = {
    "num_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
    "num_query_groups": GROUPS, "group_query_attention": True, "kv_channels": CHANNELS,
    "ffn_hidden_size": FFN, "swiglu": True, "normalization": "RMSNorm", "qk_layernorm": True,
    "padded_vocab_size": VOCAB, "vocab_size": VOCAB, "tensor_model_parallel_size": TP,
    "pipeline_model_parallel_size": 1, "rotary_base": 1000000, "norm_epsilon": 1e-6,
    "max_position_embeddings": 128, "untie_embeddings_and_output_weights": True,
    "position_embedding_type": "rope", "add_bias_linear": False, "bf16": True,
    "use_megatron_fsdp": True, "ckpt_format": "fsdp_dtensor", "iteration": 5,
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
    "attention_bias": False, "head_dim": CHANNELS, "hidden_size": HIDDEN,
    "intermediate_size": FFN, "max_position_embeddings": 128, "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS, "num_key_value_heads": GROUPS, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "tie_word_embeddings": False, "vocab_size": VOCAB,
    "torch_dtype": "bfloat16",
}  # fmt: skip


class NoStream(Nothing):
    """Stands in for streams and events of a GPU."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def on_a_cpu(package: Path, copy: Path) -> None:
    """Copy the package, with the CPU asked for in its FSDP and its optimizers."""
    shutil.copytree(package / "megatron", copy / "megatron")
    core = copy / "megatron/core"
    for file in (*core.glob("distributed/fsdp/**/*.py"), *core.glob("optimizer/*.py")):
        text = re.sub(r"f?(['\"])cuda(:\{[^}]*\})?\1", "'cpu'", file.read_text())
        text = text.replace(
            "torch.device('cpu', torch.cuda.current_device())", "torch.device('cpu')"
        )
        file.write_text(text.replace(".cuda()", ".cpu()"))


def replace_cuda() -> None:
    cuda: Any = torch.cuda
    for name in ("Stream", "Event", "stream", "current_stream", "default_stream"):
        setattr(cuda, name, NoStream)
    for name in ("synchronize", "empty_cache", "set_rng_state"):
        setattr(cuda, name, lambda *_: None)
    cuda.current_device = lambda: torch.device("cpu")
    cuda.get_rng_state = torch.get_rng_state


def save(rank: int, copy: str, out: str) -> None:
    """Build, wrap and save the model on one of the ranks."""
    import_module("einops")  # the real one, before its stand-in
    prepare(copy)
    replace_cuda()
    dist.init_process_group("gloo", init_method=f"file://{out}/point", rank=rank, world_size=WORLD)
    core: Any = import_module("megatron.core")
    functional: Any = torch.nn.functional
    parallel: Any = import_module("megatron.core.parallel_state")
    parallel.initialize_model_parallel(TP, 1)
    torch.manual_seed(parallel.get_tensor_model_parallel_rank())
    shape = {name: ARGS[name] for name in ("num_layers", "hidden_size", "num_attention_heads")}
    config = core.transformer.TransformerConfig(
        **shape, num_query_groups=GROUPS, kv_channels=CHANNELS, ffn_hidden_size=FFN,
        normalization="RMSNorm", gated_linear_unit=True, activation_func=functional.silu,
        add_bias_linear=False, use_cpu_initialization=True, params_dtype=torch.bfloat16, bf16=True,
        qk_layernorm=True, tensor_model_parallel_size=TP, gradient_accumulation_fusion=False,
    )  # fmt: skip
    specs: Any = import_module("megatron.core.models.gpt.gpt_layer_specs")
    spec = specs.get_gpt_layer_local_spec(qk_layernorm=True, normalization="RMSNorm")
    model = import_module("megatron.core.models.gpt").GPTModel(
        config, spec, vocab_size=VOCAB, max_sequence_length=128, position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    ).bfloat16()  # fmt: skip
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape).bfloat16()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapter: Any = import_module("megatron.core.distributed.fsdp.mcore_fsdp_adapter")
    distributed: Any = import_module("megatron.core.distributed")
    wrapped = adapter.FullyShardedDataParallel(
        config,
        distributed.DistributedDataParallelConfig(
            use_megatron_fsdp=True, use_distributed_optimizer=True, overlap_grad_reduce=True,
            data_parallel_sharding_strategy="optim_grads_params", overlap_param_gather=True,
        ),
        import_module("megatron.core.transformer.module").Float16Module(config, model),
        device=torch.device("cpu"),
    )  # fmt: skip
    state = _state(wrapped)
    if rank == 0:
        iteration = Path(out) / "mfsdp/iter_0000005"
        iteration.mkdir(parents=True)
        (iteration.parent / "latest_checkpointed_iteration.txt").write_text("5")
    held: list[Any] = [None] * WORLD
    dist.all_gather_object(held, before)
    checkpoint: Any = import_module("torch.distributed.checkpoint")
    writer = checkpoint.FileSystemWriter(f"{out}/mfsdp/iter_0000005")
    checkpoint.save(state, storage_writer=writer)
    if rank == 0:
        _as_huggingface(held[:TP], Path(out) / "hf")


def _state(wrapped: Any) -> dict[str, Any]:
    """Return what `save_checkpoint` of Megatron-LM saves: it sees the model without its adapter."""
    optimizers: Any = import_module("megatron.core.optimizer")
    optimizer = optimizers.get_megatron_optimizer(
        optimizers.OptimizerConfig(
            optimizer="adam", lr=0.0, weight_decay=0.0, bf16=True, params_dtype=torch.bfloat16,
            use_distributed_optimizer=True,
        ),
        [wrapped],
    )  # fmt: skip
    metadata = {"distrib_optim_sharding_type": "fsdp_dtensor"}
    moments = optimizer.sharded_state_dict({}, is_loading=True, metadata=metadata)
    # torch's Adam has no state where a rank holds nothing of a parameter; NVIDIA's has.
    known, moments["state"] = moments["state"], {}
    for name, parameter in wrapped.named_parameters():
        held = known.get(name) or {
            kind: torch.zeros_like(parameter.detach()) for kind in ("exp_avg", "exp_avg_sq")
        }
        held["exp_avg"].to_local().fill_(0.25)
        held["exp_avg_sq"].to_local().fill_(0.5)
        moments["state"][name] = held
    fsdp: Any = import_module("megatron.core.transformer.fsdp_dtensor_checkpoint")
    model = wrapped.module.state_dict()
    fsdp.handle_fp8_extra_state_case(model)
    model, moments = fsdp.handle_swiglu_in_state_dict(wrapped.module, model, moments)
    state = {"model": model, "optimizer": moments, "args": Namespace(**ARGS), "iteration": 5}
    uneven: Any = import_module("megatron.core.distributed.fsdp.src.megatron_fsdp.uneven_dtensor")
    uneven.preprocess_state_dict_for_uneven_dtensor(state)
    return {**state, "checkpoint_version": 3.0}


def _as_huggingface(ranks: list[dict[str, torch.Tensor]], folder: Path) -> None:
    """Write the model of the TP ranks under Hugging Face's names, by plain loops."""
    found: dict[str, torch.Tensor] = {}
    for name, first in ranks[0].items():
        parts = [rank[name] for rank in ranks]
        layer = name.removeprefix("decoder.").partition(".self_attention.")[0].partition(".mlp.")[0]
        hf = f"model.{layer}"
        match name.split(".")[-2]:
            case "word_embeddings":
                found["model.embed_tokens.weight"] = torch.cat(parts)
            case "output_layer":
                found["lm_head.weight"] = torch.cat(parts)
            case "final_layernorm":
                found["model.norm.weight"] = first
            case "input_layernorm":
                found[name.replace("decoder.", "model.")] = first
            case "pre_mlp_layernorm":
                new = name.replace("decoder.", "model.")
                found[new.replace("pre_mlp_layernorm", "post_attention_layernorm")] = first
            case "q_layernorm" | "k_layernorm" as norm:
                found[f"{hf}.self_attn.{norm[0]}_norm.weight"] = first
            case "linear_proj":
                found[f"{hf}.self_attn.o_proj.weight"] = torch.cat(parts, dim=1)
            case "linear_fc2":
                found[f"{hf}.mlp.down_proj.weight"] = torch.cat(parts, dim=1)
            case "linear_fc1":
                halves = [part.chunk(2) for part in parts]
                found[f"{hf}.mlp.gate_proj.weight"] = torch.cat([gate for gate, _ in halves])
                found[f"{hf}.mlp.up_proj.weight"] = torch.cat([up for _, up in halves])
            case "linear_qkv":
                per_group = HEADS // GROUPS
                groups = torch.cat(parts).view(GROUPS, per_group + 2, CHANNELS, HIDDEN)
                for letter, slots in (("q", slice(per_group)), ("k", [-2]), ("v", [-1])):
                    found[f"{hf}.self_attn.{letter}_proj.weight"] = groups[:, slots].reshape(
                        -1, HIDDEN
                    )
            case other:
                raise AssertionError(other)
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in found.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))


def main() -> None:
    package, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as copy:
        on_a_cpu(package, Path(copy))
        processes: Any = import_module("torch.multiprocessing")
        processes.spawn(save, args=(copy, str(out)), nprocs=WORLD)
    (out / "point").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
