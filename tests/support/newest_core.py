"""Save and load torch_dist checkpoints with a newer megatron-core than the oracle has installed.

Run by the oracle's Python: `-m tests.support.newest_core WHEEL save MODEL FOLDER` and `… load MODEL
FOLDER`. WHEEL is a folder into which the wheel of megatron-core was unpacked. A CPU is enough:
what the package imports and does not use to build a model and to save it is stood in for.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from tests.support.stand_ins import prepare

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN, HEADS, GROUPS, CHANNELS, FFN, VOCAB, LAYERS = 32, 4, 2, 8, 48, 64, 2
EXPERTS, EXPERT_FFN = 4, 16
INNER_HEADS, INNER_CHANNELS, STATE_GROUPS, STATE = 4, 8, 2, 8
# Of the hybrids: Mamba, attention, an MLP, Mamba, and with experts. A bar ends a pipeline stage.
LETTERS, WITH_EXPERTS = "M*-M", "M*|-E"
ARGS: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "group_query_attention": True,
    "num_query_groups": GROUPS, "kv_channels": CHANNELS, "ffn_hidden_size": FFN,
    "normalization": "RMSNorm", "norm_epsilon": 1e-5, "add_bias_linear": False,
    "padded_vocab_size": VOCAB, "vocab_size": VOCAB, "max_position_embeddings": 128,
    "untie_embeddings_and_output_weights": True, "rotary_base": 10000,
    "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1,
}  # fmt: skip
OF_MODEL: dict[str, dict[str, Any]] = {
    "llama": {"num_layers": LAYERS, "swiglu": True, "position_embedding_type": "rope"},
    "qwen3_moe": {
        "num_layers": LAYERS, "swiglu": True, "position_embedding_type": "rope",
        "qk_layernorm": True, "num_experts": EXPERTS, "moe_ffn_hidden_size": EXPERT_FFN,
        "moe_router_topk": 2, "moe_layer_freq": 1,
    },
    "nemotron_h": {
        "num_layers": len(LETTERS), "squared_relu": True, "position_embedding_type": "none",
        "is_hybrid_model": True, "hybrid_override_pattern": LETTERS,
        "mamba_num_heads": INNER_HEADS, "mamba_head_dim": INNER_CHANNELS,
        "mamba_num_groups": STATE_GROUPS, "mamba_state_dim": STATE,
    },
    # Of Transformer Engine's parts, as Megatron-LM builds it, and its args as 0.19 has them.
    "nemotron_3": {
        "num_layers": len(WITH_EXPERTS) - 1, "squared_relu": True,
        "position_embedding_type": "none", "hybrid_layer_pattern": WITH_EXPERTS,
        "hybrid_override_pattern": None,
        "mamba_num_heads": INNER_HEADS, "mamba_head_dim": INNER_CHANNELS,
        "mamba_num_groups": STATE_GROUPS, "mamba_state_dim": STATE,
        "num_experts": EXPERTS, "moe_ffn_hidden_size": EXPERT_FFN, "moe_router_topk": 2,
        "moe_shared_expert_intermediate_size": EXPERT_FFN, "moe_router_enable_expert_bias": True,
        "moe_router_score_function": "sigmoid", "moe_grouped_gemm": True,
        "moe_router_load_balancing_type": "seq_aux_loss", "moe_router_pre_softmax": False,
    },
}  # fmt: skip
HYBRIDS = ("nemotron_h", "nemotron_3")


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def build(model: str) -> Any:
    """Return a model of local parts, with random weights."""
    transformer = import_module("megatron.core.transformer")
    functional: Any = torch.nn.functional
    args = {**ARGS, **OF_MODEL[model]}
    options: dict[str, Any] = {
        "num_layers": args["num_layers"],
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_query_groups": GROUPS,
        "kv_channels": CHANNELS,
        "ffn_hidden_size": FFN,
        "normalization": "RMSNorm",
        "gated_linear_unit": bool(args.get("swiglu")),
        "activation_func": functional.silu if args.get("swiglu") else squared,
        "add_bias_linear": False,
        "use_cpu_initialization": True,
        "params_dtype": torch.bfloat16,
        "bf16": True,
        "qk_layernorm": bool(args.get("qk_layernorm")),
        "gradient_accumulation_fusion": False,
    }
    if "num_experts" in args:
        options |= {
            "num_moe_experts": EXPERTS,
            "moe_ffn_hidden_size": EXPERT_FFN,
            "moe_router_topk": 2,
            "moe_token_dispatcher_type": "allgather",
        }
    if model in HYBRIDS:
        return hybrid(model, options)
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    spec = specs.get_gpt_layer_local_spec(
        num_experts=options.get("num_moe_experts"),
        moe_grouped_gemm=False,
        qk_layernorm=options["qk_layernorm"],
        normalization="RMSNorm",
    )
    return (
        import_module("megatron.core.models.gpt")
        .GPTModel(
            transformer.TransformerConfig(**options),
            spec,
            vocab_size=VOCAB,
            max_sequence_length=128,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=False,
        )
        .bfloat16()
    )


def squared(x: Tensor) -> Tensor:
    return torch.relu(x) ** 2


def hybrid(model: str, options: dict[str, Any]) -> Any:
    """Return a hybrid of Mamba, attention and MLP layers, and of experts with Transformer Engine.

    Local parts are in ModelOpt's spec alone.
    """
    transformer = import_module("megatron.core.transformer")
    if model == "nemotron_h":
        specs = import_module("megatron.core.post_training.modelopt.hybrid.model_specs")
        spec = specs.get_hybrid_stack_modelopt_spec(local_core_attention=True)
    else:
        spec = import_module("megatron.core.models.hybrid.hybrid_layer_specs").hybrid_stack_spec
        options |= {
            "moe_shared_expert_intermediate_size": EXPERT_FFN,
            "moe_router_enable_expert_bias": True,
            "moe_router_score_function": "sigmoid",
            "moe_grouped_gemm": True,
        }
    options |= {
        "is_hybrid_model": True,
        "mamba_num_heads": INNER_HEADS,
        "mamba_head_dim": INNER_CHANNELS,
        "mamba_num_groups": STATE_GROUPS,
        "mamba_state_dim": STATE,
    }
    return (
        import_module("megatron.core.models.hybrid.hybrid_model")
        .HybridModel(
            transformer.TransformerConfig(**options),
            spec,
            vocab_size=VOCAB,
            max_sequence_length=128,
            # A bar is for more stages than one.
            hybrid_layer_pattern=letters_of(model),
            share_embeddings_and_output_weights=False,
        )
        .bfloat16()
    )


def letters_of(model: str) -> str:
    return (LETTERS if model == "nemotron_h" else WITH_EXPERTS).replace("|", "")


# ── the same weights in Hugging Face's names, by plain torch ─────────────────────────────────────


def queries_keys_values(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut (groups * (queries + 2) * channels, hidden) into queries, keys and values."""
    share = HEADS // GROUPS * CHANNELS
    groups = fused.view(GROUPS, share + 2 * CHANNELS, HIDDEN)
    parts = groups[:, :share], groups[:, share:-CHANNELS], groups[:, -CHANNELS:]
    return tuple(part.reshape(-1, HIDDEN) for part in parts)  # type: ignore[return-value]


def in_hf_names(model: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {"lm_head.weight": state["output_layer.weight"]}
    embedding = state["embedding.word_embeddings.weight"]
    if model in HYBRIDS:
        found |= {
            "backbone.embeddings.weight": embedding,
            "backbone.norm_f.weight": state["decoder.final_norm.weight"],
        }
    else:
        found |= {
            "model.embed_tokens.weight": embedding,
            "model.norm.weight": state["decoder.final_layernorm.weight"],
        }
    for number in range(OF_MODEL[model]["num_layers"]):
        front = f"decoder.layers.{number}."
        layer = {k.removeprefix(front): t for k, t in state.items() if k.startswith(front)}
        if model in HYBRIDS:
            made = hybrid_layer(letters_of(model)[number], layer)
            found |= {f"backbone.layers.{number}.{name}": t for name, t in made.items()}
        else:
            made = layer_of(layer, has_experts=model == "qwen3_moe")
            found |= {f"model.layers.{number}.{name}": t for name, t in made.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def layer_of(layer: dict[str, Tensor], *, has_experts: bool) -> dict[str, Tensor]:
    q, k, v = queries_keys_values(layer["self_attention.linear_qkv.weight"])
    found = {
        "input_layernorm.weight": layer["input_layernorm.weight"],
        "post_attention_layernorm.weight": layer["pre_mlp_layernorm.weight"],
        "self_attn.q_proj.weight": q,
        "self_attn.k_proj.weight": k,
        "self_attn.v_proj.weight": v,
        "self_attn.o_proj.weight": layer["self_attention.linear_proj.weight"],
    }
    if not has_experts:
        return found | mlp_of("mlp.", layer, "mlp.")
    found |= {
        "self_attn.q_norm.weight": layer["self_attention.q_layernorm.weight"],
        "self_attn.k_norm.weight": layer["self_attention.k_layernorm.weight"],
        "mlp.gate.weight": layer["mlp.router.weight"],
    }
    for expert in range(EXPERTS):
        stored = f"mlp.experts.local_experts.{expert}."
        found |= mlp_of(f"mlp.experts.{expert}.", layer, stored)
    return found


def mlp_of(name: str, layer: dict[str, Tensor], stored: str) -> dict[str, Tensor]:
    gate, up = layer[f"{stored}linear_fc1.weight"].chunk(2)
    return {
        f"{name}gate_proj.weight": gate,
        f"{name}up_proj.weight": up,
        f"{name}down_proj.weight": layer[f"{stored}linear_fc2.weight"],
    }


def hybrid_layer(letter: str, layer: dict[str, Tensor]) -> dict[str, Tensor]:
    fused = {"M": "mixer.in_proj", "*": "self_attention.linear_qkv", "-": "mlp.linear_fc1"}
    # Transformer Engine's linear layers hold the norm before them.
    own = {"M": "norm", "*": "input_layernorm"}.get(letter, "pre_mlp_layernorm")
    norm = layer.get(f"{fused.get(letter)}.layer_norm_weight", layer.get(f"{own}.weight"))
    assert norm is not None
    return {**mixer_of(letter, layer), "norm.weight": norm}


def mixer_of(letter: str, layer: dict[str, Tensor]) -> dict[str, Tensor]:
    if letter == "M":
        # Megatron no longer has a module for the convolution, only its parameters.
        return {
            name.replace("conv1d_", "conv1d."): tensor
            for name, tensor in layer.items()
            if name.startswith("mixer.") and "layer_norm" not in name and "_extra" not in name
        }
    if letter == "*":
        q, k, v = queries_keys_values(layer["self_attention.linear_qkv.weight"])
        return {
            "mixer.q_proj.weight": q,
            "mixer.k_proj.weight": k,
            "mixer.v_proj.weight": v,
            "mixer.o_proj.weight": layer["self_attention.linear_proj.weight"],
        }
    if letter == "E":
        found = {
            "mixer.gate.weight": layer["mlp.router.weight"],
            "mixer.gate.e_score_correction_bias": layer["mlp.router.expert_bias"],
            "mixer.shared_experts.up_proj.weight": layer["mlp.shared_experts.linear_fc1.weight"],
            "mixer.shared_experts.down_proj.weight": layer["mlp.shared_experts.linear_fc2.weight"],
        }
        for number in range(EXPERTS):
            expert = f"mixer.experts.{number}."
            found[f"{expert}up_proj.weight"] = layer[f"mlp.experts.linear_fc1.weight{number}"]
            found[f"{expert}down_proj.weight"] = layer[f"mlp.experts.linear_fc2.weight{number}"]
        return found
    return {
        "mixer.up_proj.weight": layer["mlp.linear_fc1.weight"],
        "mixer.down_proj.weight": layer["mlp.linear_fc2.weight"],
    }


def config_of(model: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS, "head_dim": CHANNELS, "vocab_size": VOCAB,
        "tie_word_embeddings": False, "max_position_embeddings": 128, "torch_dtype": "bfloat16",
    }  # fmt: skip
    if model in HYBRIDS:
        experts = {
            "n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_shared_experts": 1,
            "moe_intermediate_size": EXPERT_FFN, "moe_shared_expert_intermediate_size": EXPERT_FFN,
            "norm_topk_prob": True, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
        }  # fmt: skip
        return config | (experts if model == "nemotron_3" else {}) | {
            "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h",
            "hybrid_override_pattern": letters_of(model), "num_hidden_layers": 4,
            "mamba_num_heads": INNER_HEADS, "mamba_head_dim": INNER_CHANNELS,
            "n_groups": STATE_GROUPS, "ssm_state_size": STATE, "layer_norm_epsilon": 1e-5,
            "mlp_hidden_act": "relu2",
        }  # fmt: skip
    config |= {
        "num_hidden_layers": LAYERS, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }  # fmt: skip
    if model == "llama":
        return config | {"architectures": ["LlamaForCausalLM"], "model_type": model}
    return config | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": model, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_FFN, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip


def number(network: Any) -> None:
    """Fill the model with small numbers, of which an archive of it is short."""
    for count, (_, tensor) in enumerate((*network.named_parameters(), *network.named_buffers())):
        numbers = torch.arange(tensor.numel()) * (count + 3) % 251 - 125
        tensor.data.copy_(numbers.view(tensor.shape))


# ── the two commands ─────────────────────────────────────────────────────────────────────────────


def sharded(network: Any) -> Any:
    """Return what the model has to save or to load, as Megatron-LM asks for it."""
    parallel_state = import_module("megatron.core.parallel_state")
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return network.sharded_state_dict(
        metadata={"dp_cp_group": group, "singleton_local_shards": False}
    )


def save(model: str, folder: Path) -> dict[str, Any]:
    """Save `folder/megatron` by megatron-core, and `folder/hf` with the same weights."""
    network = build(model)
    number(network)
    state = {k: v.detach() for k, v in network.state_dict().items() if torch.is_tensor(v)}
    (folder / "hf").mkdir(parents=True)
    save_file(in_hf_names(model, state), folder / "hf/model.safetensors")
    (folder / "hf/config.json").write_text(json.dumps(config_of(model)))
    iteration = folder / "megatron/iter_0000001"
    iteration.mkdir(parents=True)
    args = Namespace(**ARGS, **OF_MODEL[model])
    import_module("megatron.core.dist_checkpointing").save(
        {**sharded(network), "args": args, "checkpoint_version": 3.0, "iteration": 1},
        str(iteration),
        content_metadata={"singleton_local_shards": False},
        verify_integrity=True,
    )
    (folder / "megatron/latest_checkpointed_iteration.txt").write_text("1")
    return {"files": sorted(file.name for file in iteration.iterdir())}


def load(model: str, folder: Path) -> dict[str, Any]:
    """Load a checkpoint of ours as Megatron-LM does, and say what differs from `folder/hf`."""
    checkpointing = import_module("megatron.core.dist_checkpointing")
    network = build(model)
    iteration = next((folder / "ours").glob("iter_*"))
    common = checkpointing.load_common_state_dict(str(iteration))
    state = checkpointing.load(sharded(network), str(iteration))
    _, unused, absent = checkpointing.load(sharded(network), str(iteration), strict="return_all")
    network.load_state_dict({k: v for k, v in state.items() if torch.is_tensor(v)}, strict=False)
    from safetensors.torch import load_file

    wanted = load_file(folder / "hf/model.safetensors")
    tensors = {k: v.detach() for k, v in network.state_dict().items() if torch.is_tensor(v)}
    found = in_hf_names(model, tensors)
    return {
        "args": vars(common["args"])["num_layers"],
        "absent": sorted(absent),
        "unused": sorted(n for n in unused if "_extra_state" not in n),
        "different": [n for n in wanted if not torch.equal(wanted[n], found[n])],
        "tensors": len(found),
    }


def main(wheel: str, command: str, model: str, folder: str) -> None:
    prepare(wheel, engine=model in HYBRIDS)  # whose spec takes its norms from there
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{command}", rank=0, world_size=1
    )
    parallel_state = import_module("megatron.core.parallel_state")
    parallel_state.initialize_model_parallel(1, 1)
    torch.manual_seed(0)
    found = (save if command == "save" else load)(model, Path(folder))
    found["version"] = import_module("megatron.core").__version__
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
