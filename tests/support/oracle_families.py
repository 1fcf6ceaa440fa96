"""Compare logits of transformers and megatron-core for families beyond Llama's.

A tiny model of `families.MODELS` is scattered by ckptdiff's rules into a GPTModel built from
megatron-core's local parts. Run by `oracle_server`.
"""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Rank
from tests.support import oracle_mamba
from tests.support.by_channels import by_channels
from tests.support.families import MODELS, SIZES, cut, gathered, on_disk
from tests.support.oracle_core import distance, logits, meet, save, save_ranks
from tests.support.oracle_logits import write

PLAIN_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
LATENT_SIZES: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 4,
    "rope_parameters": {
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "factor": 4.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "original_max_position_embeddings": 16,
    },
}
# What a model needs beyond `families.MODELS` for megatron-core to compute the same.
DIFFERING: dict[str, dict[str, Any]] = {
    "mixtral": {"sliding_window": None},
    "qwen2_moe": {"decoder_sparse_step": 1, "norm_topk_prob": False},
    "deepseek_v2": {
        **LATENT_SIZES,
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 3.0,
    },
    "deepseek_v3": {**LATENT_SIZES, "n_group": 2},
    "glm4_moe_lite": {**LATENT_SIZES, "num_hidden_layers": 3, "rms_norm_eps": 1e-6},
    "qwen3_moe": {
        "norm_topk_prob": True,
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "factor": 6.0,
            "beta_fast": 4.0,
            "mscale": 2.0,
            "mscale_all_dim": 0.5,
            "original_max_position_embeddings": 16,
        },
    },
    "gpt_oss": {
        "sliding_window": 7,
        "swiglu_limit": 0.5,
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "factor": 6.0,
            "truncate": False,
            "original_max_position_embeddings": 16,
        },
    },
    "glm4_moe": {"norm_topk_prob": True, "routed_scaling_factor": 1.0},
    "gpt_neox": {"use_parallel_residual": False},
    "exaone4": {"num_hidden_layers": 4, "sliding_window": 7, "sliding_window_pattern": 2},
    "olmo3": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": None},
    "qwen3_next": {"norm_topk_prob": True},
    "gemma2": {
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window": 64,
    },
    "gemma3_text": {
        "query_pre_attn_scalar": 16,
        "sliding_window": 64,
        "rope_parameters": {"full_attention": PLAIN_ROPE, "sliding_attention": PLAIN_ROPE},
    },
}

DELTA = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
SQUARED = ("nemotron", "nemotron_h")  # whose activation is a squared ReLU
LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
GEMMAS = ("gemma", "gemma2", "gemma3_text")
LESS_ONE = (*DELTA, *GEMMAS, "nemotron")  # whose norms' weights are stored less one
WINDOWED = ("gpt_oss", "exaone4", "olmo3")  # in the layers that are listed as such
# Norms behind what a layer's halves compute.
BEHIND = ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4")
QK_NORMS = (
    *LATENT,
    "qwen3",
    "qwen3_moe",
    "glm4_moe",
    "gemma3_text",
    *("olmo2", "olmo3", "olmoe", "exaone4", "minimax_m2"),
    *DELTA,
)


def expert_tp(model: str, tp: int) -> int:
    """Megatron refuses to cut experts that have biases."""
    return 1 if model == "gpt_oss" else tp


def transformer_config(hf: Any, model: str, tp: int, ep: int) -> Any:
    transformer = import_module("megatron.core.transformer")
    functional: Any = torch.nn.functional

    def get(*names: str) -> Any:
        return next((v for name in names if (v := getattr(hf, name, None)) is not None), None)

    experts = get("num_local_experts", "num_experts", "n_routed_experts")
    layer_norm = model in ("gpt2", "gpt_neox", "nemotron")
    gated = not layer_norm and model != "nemotron_h"
    options: dict[str, Any] = {
        "num_layers": hf.num_hidden_layers,
        "hidden_size": hf.hidden_size,
        "ffn_hidden_size": get("n_inner", "intermediate_size") or 4 * hf.hidden_size,
        "num_attention_heads": hf.num_attention_heads,
        "num_query_groups": get("num_key_value_heads") or hf.num_attention_heads,
        "kv_channels": get("head_dim") or hf.hidden_size // hf.num_attention_heads,
        "layernorm_epsilon": get(
            "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps"
        ),
        "normalization": "LayerNorm" if layer_norm else "RMSNorm",
        "gated_linear_unit": gated,
        "activation_func": functional.gelu if layer_norm else functional.silu,
        "add_bias_linear": model in ("gpt2", "gpt_neox", "gpt_oss") or bool(get("mlp_bias")),
        "add_qkv_bias": bool(get("qkv_bias", "attention_bias")),
        "qk_layernorm": model in QK_NORMS,
        "tensor_model_parallel_size": tp,
        "expert_model_parallel_size": ep,
        "expert_tensor_parallel_size": expert_tp(model, tp),
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "params_dtype": torch.float32,
        "use_cpu_initialization": True,
        "perform_initialization": False,
        "bias_activation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
        "gradient_accumulation_fusion": False,
        "persist_layer_norm": False,
    }
    if model == "gpt2" or model in GEMMAS:
        options["activation_func"] = lambda x: functional.gelu(x, approximate="tanh")
    if model in SQUARED:
        options["activation_func"] = lambda x: functional.relu(x).square()
    if experts is not None:
        sigmoid = model in ("glm4_moe", "deepseek_v3", "glm4_moe_lite", "nemotron_h", "minimax_m2")
        options |= {
            "num_moe_experts": experts,
            "moe_ffn_hidden_size": get("moe_intermediate_size", "intermediate_size"),
            "moe_router_topk": hf.num_experts_per_tok,
            "moe_router_load_balancing_type": "none",
            "moe_aux_loss_coeff": 0.0,
            "moe_token_dispatcher_type": "allgather",
            "moe_router_score_function": "sigmoid" if sigmoid else "softmax",
            "moe_router_pre_softmax": get("norm_topk_prob") is False,
            "moe_router_enable_expert_bias": sigmoid,
        }
        dense = get("first_k_dense_replace") or 0
        kinds = get("mlp_layer_types")
        sparse = [
            int(kinds[i] == "sparse" if kinds else i >= dense) for i in range(hf.num_hidden_layers)
        ]
        if model != "nemotron_h" and not all(sparse):  # a list alone has layers saved one by one
            options["moe_layer_freq"] = sparse
        shared = get("shared_expert_intermediate_size")
        if get("n_shared_experts"):
            shared = hf.n_shared_experts * hf.moe_intermediate_size
        shared = get("moe_shared_expert_intermediate_size") or shared
        if shared:
            options["moe_shared_expert_intermediate_size"] = shared
            options["moe_shared_expert_gate"] = model == "qwen2_moe" or model in DELTA
    if model == "gpt_oss":
        fused = import_module("megatron.core.fusions.fused_bias_geglu")
        options |= {
            "softmax_type": "learnable",
            "activation_func": fused.quick_gelu,
            "activation_func_clamp_value": hf.swiglu_limit,
            "glu_linear_offset": 1.0,
        }
    if model in WINDOWED:
        options |= {
            "window_size": (hf.sliding_window - 1, 0),
            "window_attn_skip_freq": [int(t == "sliding_attention") for t in hf.layer_types],
        }
    if model == "exaone4":
        options["no_rope_freq"] = [int(t == "full_attention") for t in hf.layer_types]
    if model == "ernie4_5":
        options |= {"rotary_interleaved": True, "add_bias_linear": hf.use_bias}
    if model == "smollm3":
        options["no_rope_freq"] = [int(not on) for on in hf.no_rope_layers]
    if model in DELTA:
        options |= {
            "attention_output_gate": True,
            "experimental_attention_variant": "gated_delta_net",
            "linear_attention_freq": [int(t == "linear_attention") for t in hf.layer_types],
            "linear_conv_kernel_dim": hf.linear_conv_kernel_dim,
            "linear_key_head_dim": hf.linear_key_head_dim,
            "linear_value_head_dim": hf.linear_value_head_dim,
            "linear_num_key_heads": hf.linear_num_key_heads,
            "linear_num_value_heads": hf.linear_num_value_heads,
            "deterministic_mode": False,
        }
    if model == "nemotron_h":
        options |= {
            "mamba_num_heads": hf.mamba_num_heads,
            "mamba_head_dim": hf.mamba_head_dim,
            "mamba_num_groups": hf.n_groups,
            "mamba_state_dim": hf.ssm_state_size,
            "moe_latent_size": hf.moe_latent_size,
            "is_hybrid_model": True,
        }
    if model in LATENT:
        return latent_config(hf, options)
    return transformer.TransformerConfig(**options)


def latent_config(hf: Any, options: dict[str, Any]) -> Any:
    """Return DeepSeek's configuration."""
    rope = hf.rope_parameters
    return import_module("megatron.core.transformer").MLATransformerConfig(
        **options,
        q_lora_rank=hf.q_lora_rank,
        kv_lora_rank=hf.kv_lora_rank,
        qk_head_dim=hf.qk_nope_head_dim,
        qk_pos_emb_head_dim=hf.qk_rope_head_dim,
        v_head_dim=hf.v_head_dim,
        moe_router_topk_scaling_factor=hf.routed_scaling_factor,
        moe_router_num_groups=hf.n_group,
        moe_router_group_topk=hf.topk_group if hf.n_group > 1 else None,
        rotary_scaling_factor=rope["factor"],
        mscale=rope["mscale"],
        mscale_all_dim=rope["mscale_all_dim"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
    )


def yarn_args(rope: dict[str, Any]) -> dict[str, Any]:
    """Return what GPTModel asks of its configuration for YaRN, though it has no such fields."""
    return {
        "yarn_rotary_scaling_factor": rope["factor"],
        "yarn_original_max_position_embeddings": rope["original_max_position_embeddings"],
        "yarn_beta_fast": rope.get("beta_fast", 32.0),
        "yarn_beta_slow": rope.get("beta_slow", 1.0),
        "yarn_mscale": rope.get("mscale", 1.0),
        "yarn_mscale_all_dim": rope.get("mscale_all_dim", 0.0),
        "yarn_correction_range_round_to_int": rope.get("truncate", True),
    }


def layers(config: Any, hf: Any, model: str) -> Any:
    """Return the block's spec, with gated DeltaNet put in where the model has it."""
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    block = specs.get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    for number in range(config.num_layers):
        layer = deepcopy(block.layer_specs[number])
        parts = layer.submodules
        if model in DELTA and hf.layer_types[number] == "linear_attention":
            parts.self_attention = delta_net()
        if model in BEHIND:
            row = import_module("megatron.core.tensor_parallel").RowParallelLinear
            parts.self_attention.submodules.linear_proj = normed(row, parts.input_layernorm)
            parts.mlp.submodules.linear_fc2 = normed(row, parts.input_layernorm)
        if model in ("olmo2", "olmo3", "exaone4"):
            nothing = import_module("megatron.core.transformer.identity_op").IdentityOp
            parts.input_layernorm = parts.pre_mlp_layernorm = nothing
        if model in LATENT:
            parts.self_attention.submodules.core_attention = by_channels()
        if model in ("olmo2", "olmo3", "olmoe", "minimax_m2"):
            parts.self_attention.module = wide_norms(parts.self_attention.module)
        block.layer_specs[number] = layer
    return block


def delta_net() -> Any:
    """Gated DeltaNet of local parts, with Megatron's own computation in torch."""
    delta: Any = import_module("megatron.core.ssm.gated_delta_net")
    backend = import_module("megatron.core.models.backends").LocalSpecProvider()
    spec = import_module("megatron.core.transformer.spec_utils").ModuleSpec
    delta.HAVE_FLA = True
    delta.l2norm = lambda x: x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)
    delta.chunk_gated_delta_rule = delta.torch_chunk_gated_delta_rule
    return spec(
        module=delta.GatedDeltaNet,
        submodules=delta.GatedDeltaNetSubmodules(
            in_proj=backend.column_parallel_linear(),
            out_norm=backend.layer_norm(rms_norm=True),
            out_proj=backend.row_parallel_linear(),
        ),
    )


def normed(linear: Any, norm: Any) -> Any:
    """A linear layer with a norm of its result, as Megatron-Bridge builds it."""

    class Normed(linear):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            config = kwargs["config"]
            self.post_layernorm = norm(config, config.hidden_size, config.layernorm_epsilon)

        def forward(self, x: torch.Tensor) -> Any:
            result, bias = super().forward(x)
            return self.post_layernorm(result), bias

    return Normed


def wide_norms(attention: Any) -> Any:
    """Attention that norms the queries of all heads at once, and the keys (TP 1)."""

    class Wide(attention):  # type: ignore[misc]
        def __init__(self, config: Any, submodules: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, submodules, *args, **kwargs)
            norm, d = submodules.q_layernorm, config.kv_channels
            eps = config.layernorm_epsilon
            self.q_layernorm = norm(config, d * config.num_attention_heads, eps)
            self.k_layernorm = norm(config, d * config.num_query_groups, eps)

        def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
            norms = self.q_layernorm, self.k_layernorm
            self.q_layernorm = self.k_layernorm = None
            query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
            self.q_layernorm, self.k_layernorm = norms
            query = norms[0](query.flatten(-2)).view_as(query)
            return query, norms[1](key.flatten(-2)).view_as(key), value

    return Wide


def build(
    hf: Any,
    model: str,
    tp: int,
    ep: int,
    vocabulary: int,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Return a GPTModel of the family's local layer spec."""
    config = transformer_config(hf, model, tp, ep)
    # Only a model that is told so computes its softmax in float32.
    config.bf16, config.fp16 = (dtype is narrow for narrow in (torch.bfloat16, torch.float16))
    config.params_dtype = dtype
    if model == "nemotron_h":
        return oracle_mamba.build(
            config,
            "".join(oracle_mamba.LETTERS[kind] for kind in hf.layers_block_type),
            vocabulary,
            max_sequence_length=hf.max_position_embeddings,
            share_embeddings_and_output_weights=hf.tie_word_embeddings,
        )
    rope = getattr(hf, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    kind = "learned_absolute" if model == "gpt2" else "rope"
    if rope.get("rope_type") == "yarn" and model not in LATENT:
        kind = "yarn"
        vars(config).update(yarn_args(rope))
    network = import_module("megatron.core.models.gpt").GPTModel(
        config,
        layers(config, hf, model),
        vocab_size=vocabulary,
        max_sequence_length=hf.max_position_embeddings,
        parallel_output=False,
        position_embedding_type=kind,
        rotary_base=rope.get("rope_theta", 10000.0),
        rotary_percent=rope.get("partial_rotary_factor", 1.0),
        share_embeddings_and_output_weights=hf.tie_word_embeddings,
    )
    return network.eval()


def compare(
    *,
    model: str,
    tp: int,
    ep: int,
    fault: bool,
    folder: str,
    rank: int,
    meeting: str,
    changes: dict[str, Any] | None = None,
    less_one: bool = False,
) -> dict[str, Any]:
    """Compare the logits of one model, with `changes` to its config.

    One switch speaks of all norms, and a gated DeltaNet's own is not zero-centred in transformers:
    with `less_one` it is saved as that switch has it, else as it is, without the switch.
    A bias of attention's output alone, which Megatron has not, is zero, and not loaded.
    Both models are left in `folder`, as `hf` and `megatron`, and what they give, as `….logits`.
    """
    meet(meeting, rank, tp, ep, expert_tp(model, tp))
    transformers = import_module("transformers")
    torch.manual_seed(0)
    sizes = {**SIZES, **MODELS[model][1], **DIFFERING.get(model, {}), **(changes or {})}
    hf = transformers.AutoConfig.for_model(model, **sizes)
    reference = transformers.AutoModelForCausalLM.from_config(hf, attn_implementation="eager")
    reference = reference.eval().float()
    for name, value in reference.state_dict().items():
        # The delta rule's long sums round more: smaller numbers keep that below the limit.
        large = 0.1 if model in DELTA else 0.2
        value.normal_(std=large if "norm" not in name and value.dim() > 1 else 0.1)
        zero_centred = model in LESS_ONE and "linear_attn" not in name
        if "norm" in name and name.endswith("weight") and not zero_centred:
            value.add_(1)
        all_biased = sizes.get("mlp_bias") or model in ("gpt_oss", "ernie4_5")
        if name.endswith("o_proj.bias") and not all_biased:
            value.zero_()
    weights = {
        name: value.detach().clone()
        for name, value in reference.state_dict().items()
        if not (name == "lm_head.weight" and hf.tie_word_embeddings)
    }
    stored: Any = {}
    written = hf.to_dict() | {"architectures": [type(reference).__name__]}
    whole = assemble(on_disk(written, weights, stored))
    assert whole.errors == {}
    cuts = gathered(whole, stored)
    if fault:
        for name in [n for n in cuts if ".k_proj.weight" in n or ".gate_proj.weight" in n]:
            cuts[name] = cuts[name].flip(0)
    mine = Rank(rank % tp, 0, rank // tp)
    scattered: Any = {}
    checkpoint = cut(whole, cuts, tp, ep, scattered, expert_tp(model, tp))
    (shard,) = (shard for shard in checkpoint.shards if shard.rank == mine)
    state = {
        name: scattered[ref.file, name].as_strided(ref.shape, ref.stride)
        for name, ref in shard.tensors.items()
    }
    if not (sizes.get("mlp_bias") or model in ("gpt2", "gpt_neox", "gpt_oss", "ernie4_5")):
        state = {n: v for n, v in state.items() if not n.endswith("linear_proj.bias")}
    if model == "nemotron_h":  # as its class names it; checkpoints of both names are read
        state["decoder.final_norm.weight"] = state.pop("decoder.final_layernorm.weight")
    vocabulary = tp * state["embedding.word_embeddings.weight"].shape[0]
    network = build(hf, model, tp, ep, vocabulary)
    # torch's norm has no zero-centred weight: for the logits, the one that it would use is loaded.
    used = {
        name: v + 1 if model in LESS_ONE and name.endswith("layernorm.weight") else v
        for name, v in state.items()
    }
    scale = hf.hidden_size**0.5 if model in GEMMAS else 1.0
    network.embedding.register_forward_hook(lambda _module, _args, result: result * scale)
    expected = {n: v for n, v in network.state_dict().items() if torch.is_tensor(v)}
    # A counter of Megatron's that no checkpoint of Hugging Face has.
    expected = {n: v for n, v in expected.items() if not n.endswith("tokens_per_expert")}
    assert set(expected) == set(state), sorted(set(expected) ^ set(state))
    network.load_state_dict(used, strict=False)
    ids, got = logits(network, hf.vocab_size)
    if less_one:
        state = {n: v - 1 if n.endswith("out_norm.weight") else v for n, v in state.items()}
    network.load_state_dict(state, strict=False)
    args = {"apply_layernorm_1p": model in LESS_ONE and (less_one or model not in DELTA)}
    args |= {"bias_gelu_fusion": model == "gpt2", "squared_relu": model in SQUARED}
    if model == "nemotron_h":
        args["hybrid_override_pattern"] = network.hybrid_override_pattern
    save(network, Path(folder) / "megatron", rank, **args)
    save_ranks(network, Path(folder) / "ranks", mine.tp, mine.ep if ep > 1 else None, **args)
    wanted = reference(ids).logits[0]
    if rank == 0:
        reference.save_pretrained(Path(folder) / "hf")
        write(wanted, Path(folder) / "hf.logits")
        write(got, Path(folder) / "megatron.logits")
    torch.distributed.destroy_process_group()
    return distance(got, wanted) | {"ids": ids[0].tolist()}
