"""A pair in the shape of DeepSeek-V3, 671 billion parameters: zeros without a place on the disk."""

from __future__ import annotations

import argparse
import io
from typing import TYPE_CHECKING

from .data import write_shards

if TYPE_CHECKING:
    from pathlib import Path

    from .data import Shape

LAYERS, DENSE, EXPERTS = 61, 3, 256  # layer 61, behind them, is the prediction layer
HIDDEN, FFN, EXPERT_FFN, VOCAB = 7168, 18432, 2048, 129280
HEADS, Q_LORA, KV_LORA, NOPE, ROPE = 128, 1536, 512, 128, 64
PP, EP = 16, 64
SHARD_BYTES = 4.2e9  # makes the 163 files of the original
OTHER_ARGS = 420  # Megatron saves some 460 settings in every file

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "first_k_dense_replace": DENSE,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "kv_lora_rank": KV_LORA,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": EXPERT_FFN,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": HEADS,
    "num_experts_per_tok": 8,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": Q_LORA,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": NOPE,
    "vocab_size": VOCAB,
}

ARGS = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": PP,
    "virtual_pipeline_model_parallel_size": None,
    "expert_model_parallel_size": EP,
    "expert_tensor_parallel_size": 1,
    "context_parallel_size": 1,
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "ffn_hidden_size": FFN,
    "num_attention_heads": HEADS,
    "group_query_attention": False,
    "num_query_groups": 1,
    "kv_channels": HIDDEN // HEADS,
    "multi_latent_attention": True,
    "q_lora_rank": Q_LORA,
    "kv_lora_rank": KV_LORA,
    "qk_head_dim": NOPE,
    "qk_pos_emb_head_dim": ROPE,
    "v_head_dim": NOPE,
    "vocab_size": VOCAB,
    "padded_vocab_size": VOCAB,
    "make_vocab_size_divisible_by": 128,
    "max_position_embeddings": 4096,
    "add_qkv_bias": False,
    "add_bias_linear": False,
    "untie_embeddings_and_output_weights": True,
    "normalization": "RMSNorm",
    "norm_epsilon": 1e-06,
    "apply_layernorm_1p": False,
    "swiglu": True,
    "num_experts": EXPERTS,
    "moe_layer_freq": [int(layer >= DENSE) for layer in range(LAYERS)],
    "moe_ffn_hidden_size": EXPERT_FFN,
    "moe_shared_expert_intermediate_size": EXPERT_FFN,
    "moe_router_score_function": "sigmoid",
    "moe_router_topk": 8,
    "moe_router_num_groups": 8,
    "moe_router_group_topk": 4,
    "moe_router_topk_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "mtp_num_layers": 1,
    "position_embedding_type": "rope",
    "rotary_base": 10000,
    "rotary_percent": 1.0,
    "rotary_scaling_factor": 40.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "transformer_impl": "transformer_engine",
    "use_legacy_models": False,
    "ckpt_format": "torch",
    "bf16": True,
    "fp16": False,
    **{f"other_setting_{number}": number for number in range(OTHER_ARGS)},
}


def write_hf(folder: Path) -> Path:
    """Write the original's form: 8-bit codes with a factor for each block."""
    write_shards(folder, CONFIG, _huggingface(), SHARD_BYTES, None)
    return folder


def _huggingface() -> dict[str, tuple[str, Shape]]:
    """Return dtype and shape of every tensor, in the order of the files."""
    stored: dict[str, tuple[str, Shape]] = {}

    def plain(name: str, *shape: int, dtype: str = "BF16") -> None:
        stored[name] = (dtype, shape)

    def codes(name: str, rows: int, columns: int) -> None:
        stored[f"{name}.weight"] = ("F8_E4M3", (rows, columns))
        stored[f"{name}.weight_scale_inv"] = ("F32", (-(-rows // 128), -(-columns // 128)))

    def mlp(prefix: str, size: int) -> None:
        codes(f"{prefix}.gate_proj", size, HIDDEN)
        codes(f"{prefix}.up_proj", size, HIDDEN)
        codes(f"{prefix}.down_proj", HIDDEN, size)

    plain("model.embed_tokens.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS + 1):
        at = f"model.layers.{layer}"
        if layer == LAYERS:
            plain(f"{at}.embed_tokens.weight", VOCAB, HIDDEN)
            plain(f"{at}.enorm.weight", HIDDEN)
            plain(f"{at}.hnorm.weight", HIDDEN)
            plain(f"{at}.eh_proj.weight", HIDDEN, 2 * HIDDEN)
        plain(f"{at}.input_layernorm.weight", HIDDEN)
        codes(f"{at}.self_attn.q_a_proj", Q_LORA, HIDDEN)
        plain(f"{at}.self_attn.q_a_layernorm.weight", Q_LORA)
        codes(f"{at}.self_attn.q_b_proj", HEADS * (NOPE + ROPE), Q_LORA)
        codes(f"{at}.self_attn.kv_a_proj_with_mqa", KV_LORA + ROPE, HIDDEN)
        plain(f"{at}.self_attn.kv_a_layernorm.weight", KV_LORA)
        codes(f"{at}.self_attn.kv_b_proj", HEADS * 2 * NOPE, KV_LORA)
        codes(f"{at}.self_attn.o_proj", HIDDEN, HEADS * NOPE)
        plain(f"{at}.post_attention_layernorm.weight", HIDDEN)
        if layer < DENSE:
            mlp(f"{at}.mlp", FFN)
            continue
        plain(f"{at}.mlp.gate.weight", EXPERTS, HIDDEN)
        plain(f"{at}.mlp.gate.e_score_correction_bias", EXPERTS, dtype="F32")
        mlp(f"{at}.mlp.shared_experts", EXPERT_FFN)
        for expert in range(EXPERTS):
            mlp(f"{at}.mlp.experts.{expert}", EXPERT_FFN)
    plain(f"model.layers.{LAYERS}.shared_head.norm.weight", HIDDEN)
    plain(f"model.layers.{LAYERS}.shared_head.head.weight", VOCAB, HIDDEN)
    plain("model.norm.weight", HIDDEN)
    plain("lm_head.weight", VOCAB, HIDDEN)
    return stored


def write_megatron(folder: Path) -> Path:
    """Write the `torch` format of 1,024 ranks in Transformer Engine's names, bf16."""
    import torch

    first = 0
    for pp in range(PP):
        layers = range(first, first + LAYERS // PP + (pp < LAYERS % PP))
        first = layers.stop
        shapes = _stage(pp, layers)
        for ep in range(EP):
            model: dict[str, object] = {
                name: io.BytesIO()
                if shape is None
                else torch.empty(
                    shape, dtype=torch.float32 if name.endswith("bias") else torch.bfloat16
                )
                for name, shape in shapes.items()
            }
            state = {
                "args": argparse.Namespace(**ARGS, rank=pp * EP + ep),
                "checkpoint_version": 3.0,
                "iteration": 1,
                "model": model,
            }
            file = folder / "iter_0000001" / f"mp_rank_00_{pp:03d}_{ep:03d}" / "model_optim_rng.pt"
            file.parent.mkdir(parents=True)
            with torch.serialization.skip_data():
                torch.save(state, file)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


def _stage(pp: int, layers: range) -> dict[str, Shape | None]:
    """Return the shapes that every rank of a pipeline stage holds; None for an extra state."""
    shapes: dict[str, Shape | None] = {}

    def linear(name: str, *shape: int, norm: int | None = None) -> None:
        if norm is not None:
            shapes[f"{name}.layer_norm_weight"] = (norm,)
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}._extra_state"] = None

    def block(at: str, *, dense: bool) -> None:
        attention, mlp = f"{at}.self_attention", f"{at}.mlp"
        shapes[f"{at}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{attention}.core_attention._extra_state"] = None
        linear(f"{attention}.linear_proj", HIDDEN, HEADS * NOPE)
        linear(f"{attention}.linear_q_down_proj", Q_LORA, HIDDEN)
        linear(f"{attention}.linear_q_up_proj", HEADS * (NOPE + ROPE), Q_LORA, norm=Q_LORA)
        linear(f"{attention}.linear_kv_down_proj", KV_LORA + ROPE, HIDDEN)
        linear(f"{attention}.linear_kv_up_proj", HEADS * 2 * NOPE, KV_LORA, norm=KV_LORA)
        if dense:
            linear(f"{mlp}.linear_fc1", 2 * FFN, HIDDEN, norm=HIDDEN)
            linear(f"{mlp}.linear_fc2", HIDDEN, FFN)
            return
        shapes[f"{at}.pre_mlp_layernorm.weight"] = (HIDDEN,)
        shapes[f"{mlp}.router.weight"] = (EXPERTS, HIDDEN)
        shapes[f"{mlp}.router.expert_bias"] = (EXPERTS,)
        for fc, shape in (("fc1", (2 * EXPERT_FFN, HIDDEN)), ("fc2", (HIDDEN, EXPERT_FFN))):
            for expert in range(EXPERTS // EP):
                shapes[f"{mlp}.experts.linear_{fc}.weight{expert}"] = shape
            shapes[f"{mlp}.experts.linear_{fc}._extra_state"] = None
        linear(f"{mlp}.shared_experts.linear_fc1", 2 * EXPERT_FFN, HIDDEN)
        linear(f"{mlp}.shared_experts.linear_fc2", HIDDEN, EXPERT_FFN)

    if pp in (0, PP - 1):  # the last stage embeds tokens too, for the prediction layer
        shapes["embedding.word_embeddings.weight"] = (VOCAB, HIDDEN)
    for number, layer in enumerate(layers):
        block(f"decoder.layers.{number}", dense=layer < DENSE)
    if pp == PP - 1:
        shapes["decoder.final_layernorm.weight"] = (HIDDEN,)
        at = "mtp.layers.0"
        shapes[f"{at}.enorm.weight"] = shapes[f"{at}.hnorm.weight"] = (HIDDEN,)
        linear(f"{at}.eh_proj", HIDDEN, 2 * HIDDEN)
        block(f"{at}.transformer_layer", dense=False)
        shapes[f"{at}.final_layernorm.weight"] = (HIDDEN,)
        shapes["output_layer.weight"] = (VOCAB, HIDDEN)
    return shapes
