"""Compare logits: transformers, and megatron-core with weights scattered by ckptdiff's rules.

Run by `oracle_server`, since it patches torch for a machine without CUDA. It needs megatron-core
0.16.1 and transformers 5.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from ckptdiff.arch import find_architecture
from ckptdiff.arch.scatter import scatter
from ckptdiff.config.model import from_huggingface
from tests.support.oracle_core import distance, logits, meet, save

if TYPE_CHECKING:
    from torch import Tensor


def build(hf: Any, tp: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> Any:
    """Return a GPTModel of megatron-core for a configuration of transformers."""
    gpt = import_module("megatron.core.models.gpt")
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    transformer = import_module("megatron.core.transformer")
    rope = hf.rope_parameters
    qk_norm = hf.model_type == "qwen3"
    window = getattr(hf, "sliding_window", None)
    config = transformer.TransformerConfig(
        num_layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        ffn_hidden_size=hf.intermediate_size,
        num_attention_heads=hf.num_attention_heads,
        num_query_groups=hf.num_key_value_heads,
        kv_channels=getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        layernorm_epsilon=hf.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=hf.model_type == "qwen2",
        qk_layernorm=qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=tp,
        params_dtype=dtype,
        # Only a model that is told so computes its softmax in float32.
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        window_size=(window - 1, 0) if window else None,
        use_cpu_initialization=True,
        perform_initialization=False,
        # The fused kernels need CUDA, Apex or Transformer Engine.
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
    )
    model = gpt.GPTModel(
        config,
        specs.get_gpt_layer_local_spec(qk_layernorm=qk_norm, normalization="RMSNorm"),
        vocab_size=vocabulary,
        max_sequence_length=4096,
        parallel_output=False,
        position_embedding_type="rope",
        rotary_base=rope["rope_theta"],
        rope_scaling=rope.get("rope_type") == "llama3",
        rope_scaling_factor=rope.get("factor", 8.0),
        share_embeddings_and_output_weights=hf.tie_word_embeddings,
    )
    return model.to(dtype).eval()


def shards(
    config: dict[str, Any], weights: dict[str, Tensor], tp: int, rank: int, vocabulary: int
) -> dict[str, Tensor]:
    """Return the rank's tensors as ckptdiff's rules put them together; padding is far off."""
    architecture = find_architecture(config)
    assert architecture is not None
    sizes = replace(from_huggingface(config), padded_vocab_size=vocabulary)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    found: dict[str, Tensor] = {}
    for share in scatter(architecture, sizes, shapes, tp):
        name, pieces = share.name, share.pieces
        if share.rank != rank:
            continue
        shape = [max(piece[2][dim][1] for piece in pieces) for dim in range(len(pieces[0][2]))]
        shard = torch.full(shape, float("nan"))
        for source, of, box in pieces:
            target = shard[tuple(slice(*edge) for edge in box)]
            assert target.isnan().all(), f"{name}: two pieces fill one place"
            part = None if source is None else weights[source][tuple(slice(*edge) for edge in of)]
            target.copy_(torch.full_like(target, 1e3) if part is None else part)
        assert not shard.isnan().any(), f"{name}: some places are not filled"
        found[name] = shard
    return found


def compare(
    *, folder: str, saved: str, tp: int, kv_swap: bool, rank: int, meeting: str
) -> dict[str, float]:
    """Compare the logits of the model in `folder`; megatron-core's is left in `saved`."""
    meet(meeting, rank, tp)
    reference = import_module("transformers").AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    weights: dict[str, Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        weights |= load_file(file)
    size = reference.config.vocab_size
    vocabulary = (size + 8 * tp - 1) // (8 * tp) * 8 * tp
    if kv_swap:
        for name in [name for name in weights if ".k_proj." in name]:
            other = name.replace(".k_proj.", ".v_proj.")
            weights[name], weights[other] = weights[other], weights[name]
    config = json.loads((Path(folder) / "config.json").read_text())
    scattered = shards(config, weights, tp, rank, vocabulary)
    model = build(reference.config, tp, vocabulary)
    expected = {name for name, value in model.state_dict().items() if torch.is_tensor(value)}
    assert expected == set(scattered), sorted(expected ^ set(scattered))
    model.load_state_dict(scattered, strict=False)
    ids, got = logits(model, size)
    save(model, Path(saved), rank)
    torch.distributed.destroy_process_group()
    return distance(got, reference(ids).logits[0])
