"""What megatron-core computes of rank files, by their args, as Megatron-LM's builder has it.

`configuration` follows core_transformer_config_from_args and `network` follows gpt_builder and
mamba_builder of Megatron-LM 0.16, with megatron-core's local parts, on one rank.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from tests.support import oracle_mamba
from tests.support.by_channels import by_channels
from tests.support.oracle_state import load

if TYPE_CHECKING:
    from pathlib import Path

# What one process on a CPU needs, and what does not change the result.
HERE: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("tensor_model_parallel_size", "pipeline_model_parallel_size"),
            *("expert_model_parallel_size", "expert_tensor_parallel_size", "context_parallel_size"),
        ),
        1,
    ),
    "virtual_pipeline_model_parallel_size": None,
    "sequence_parallel": False,
    "params_dtype": torch.float32,
    "bf16": False,
    "fp16": False,
    "use_cpu_initialization": True,
    "perform_initialization": False,
    "bias_activation_fusion": False,
    "masked_softmax_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "gradient_accumulation_fusion": False,
    "persist_layer_norm": False,
    "moe_grouped_gemm": False,
    "moe_token_dispatcher_type": "allgather",
    "moe_router_load_balancing_type": "none",
    "transformer_impl": "local",
    "layernorm_zero_centered_gamma": False,  # torch's norm has none: one is added to its weights
}


# Transformer Engine's fused norms, and where local parts have them.
FUSED = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    "linear_q_up_proj.layer_norm_": "q_layernorm.",
    "linear_kv_up_proj.layer_norm_": "kv_layernorm.",
    "mixer.in_proj.layer_norm_": "norm.",
}
GROUPED = re.compile(r"(?<=mlp\.experts\.)(linear_fc[12])\.weight(\d+)$")


def default_fields() -> dict[str, Any]:
    """Return the fields of both configurations with their defaults, those that JSON can hold."""
    transformer = import_module("megatron.core.transformer")
    plain = (bool, int, float, str, list, type(None))
    return {
        field.name: field.default
        for cls in (transformer.TransformerConfig, transformer.MLATransformerConfig)
        for field in dataclasses.fields(cls)
        if isinstance(field.default, plain)
    }


def configuration(args: Any, changed: str = "") -> Any:
    """Return megatron-core's configuration of a model by its args, one of which was `changed`."""
    transformer = import_module("megatron.core.transformer")
    functional: Any = torch.nn.functional

    def get(name: str) -> Any:
        return getattr(args, name, None)

    latent = bool(get("multi_latent_attention"))
    cls: Any = transformer.MLATransformerConfig if latent else transformer.TransformerConfig
    options = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(cls)
        if hasattr(args, field.name)
    }
    known = cls.__dataclass_fields__.keys() - {changed}
    options |= {name: value for name, value in HERE.items() if name in known}
    options |= {
        "num_moe_experts": get("num_experts"),
        "layernorm_epsilon": get("norm_epsilon"),
        "num_query_groups": get("num_query_groups") if get("group_query_attention") else None,
    }
    if get("swiglu"):
        options |= {"activation_func": functional.silu, "gated_linear_unit": True}
    if get("squared_relu"):
        assert not get("swiglu")
        options["activation_func"] = lambda x: functional.relu(x).square()
    elif get("quick_geglu"):
        assert not get("swiglu")
        fused = import_module("megatron.core.fusions.fused_bias_geglu")
        options |= {"activation_func": fused.quick_gelu, "gated_linear_unit": True}
    elif not get("swiglu") and get("bias_gelu_fusion"):
        # The fused kernel computes tanh's form; it is the same activation unfused.
        options["activation_func"] = lambda x: functional.gelu(x, approximate="tanh")
    if options.get("rope_type") is None:
        options.pop("rope_type", None)
    elif not latent:
        assert options["rope_type"] == "rope"
    if options["num_moe_experts"] is None:
        options = {name: v for name, v in options.items() if not name.startswith("moe_")}
    return cls(**options)


def network(args: Any, rows: int, changed: str) -> Any:
    """Return the GPTModel or MambaModel that Megatron-LM builds of args."""
    config = configuration(args, changed)
    specs: Any = import_module("megatron.core.models.gpt.gpt_layer_specs")

    def get(name: str, default: Any) -> Any:
        value = getattr(args, name, None)
        return default if value is None else value

    common = {
        "max_sequence_length": args.max_position_embeddings,
        "share_embeddings_and_output_weights": not args.untie_embeddings_and_output_weights,
        "position_embedding_type": args.position_embedding_type,
        "rotary_percent": get("rotary_percent", 1.0),
        "rotary_base": get("rotary_base", 10000),
    }
    if get("is_hybrid_model", False):
        return oracle_mamba.build(config, args.hybrid_override_pattern, rows, **common)
    if get("num_experts", 0):
        spec = specs.get_gpt_decoder_block_spec(
            config,
            use_transformer_engine=False,
            normalization=args.normalization,
            qk_l2_norm=get("qk_l2_norm", False),
        )
        layers = spec.layer_specs
    else:
        spec = specs.get_gpt_layer_local_spec(
            None,
            False,
            args.qk_layernorm,
            config.multi_latent_attention,
            normalization=args.normalization,
        )
        layers = [spec]
    if config.multi_latent_attention:
        for layer in layers:
            layer.submodules.self_attention.submodules.core_attention = by_channels()
    return (
        import_module("megatron.core.models.gpt")
        .GPTModel(
            config,
            spec,
            vocab_size=rows,
            parallel_output=False,
            **common,
            rope_scaling=get("use_rope_scaling", False),
            rope_scaling_factor=get("rope_scaling_factor", 8.0),
            seq_len_interpolation_factor=getattr(args, "rotary_seq_len_interpolation_factor", None),
        )
        .eval()
    )


def _local(name: str) -> str:
    for fused, local in FUSED.items():
        name = name.replace(fused, local)
    return GROUPED.sub(r"local_experts.\2.\1.weight", name)


def megatron_logits(folder: Path, ids: list[int], changed: str = "") -> torch.Tensor:
    """Return logits, (positions, rows of the vocabulary), of a folder with one rank file."""
    (file,) = folder.rglob("model_optim_rng.pt")
    state = load(file)
    args = state["args"]
    held = {_local(name): v.float() for name, v in state["model"].items() if torch.is_tensor(v)}
    model = network(args, held["embedding.word_embeddings.weight"].shape[0], changed)
    if getattr(args, "apply_layernorm_1p", False):
        held = {n: v + 1 if n.endswith("norm.weight") else v for n, v in held.items()}
    loaded = model.load_state_dict(held, strict=False)
    lacks = [n for n in loaded.missing_keys if "_extra_state" not in n and "local_tokens" not in n]
    if lacks or loaded.unexpected_keys:
        raise ValueError(f"weights do not fit: {[*lacks, *loaded.unexpected_keys][:3]}")
    logits: torch.Tensor = model(torch.tensor([ids]), torch.arange(len(ids))[None], None)[0]
    return logits
