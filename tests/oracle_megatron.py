"""Compare logits: transformers, and megatron-core with weights scattered by ckptdiff's rules.

A program of its own (`python oracle_megatron.py FOLDER TP [kv-swap]`), since it patches torch for
a machine without CUDA. It needs megatron-core 0.16.1 and transformers 5; prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 40


def spawn(folder: str, tp: int, *rest: str) -> int:
    """Run one process a rank and return the first status that is not zero."""
    with tempfile.TemporaryDirectory() as meeting:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, folder, str(tp), *rest],
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "MEETING": f"file://{meeting}/point",
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in range(tp)
        ]
        return max((process.wait() for process in ranks), key=abs)


def use_the_cpu() -> None:
    """Patch what megatron-core 0.16.1 asks of CUDA on its way through a local-spec GPTModel."""
    import torch

    random: Any = import_module("megatron.core.tensor_parallel.random")
    utils: Any = import_module("megatron.core.transformer.utils")
    fused_softmax: Any = import_module("megatron.core.fusions.fused_softmax")

    def mask(size: int) -> Tensor:
        return torch.triu(torch.ones(size, size), diagonal=1).bool()

    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    random.CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()
    utils.get_default_causal_mask = fused_softmax.get_default_causal_mask = mask


def build(hf: Any, tp: int, vocabulary: int) -> Any:
    """Return a GPTModel of megatron-core for a configuration of transformers."""
    import torch

    gpt = import_module("megatron.core.models.gpt")
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    transformer = import_module("megatron.core.transformer")
    rope = hf.rope_parameters
    qk_norm = hf.model_type == "qwen3"
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
        params_dtype=torch.float32,
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
    return model.eval()


def shards(
    config: dict[str, Any], weights: dict[str, Tensor], tp: int, rank: int, vocabulary: int
) -> dict[str, Tensor]:
    """Return the rank's tensors as ckptdiff's rules put them together; padding is far off."""
    import torch

    from ckptdiff.arch import find_architecture
    from ckptdiff.arch.scatter import scatter
    from ckptdiff.config import from_huggingface

    architecture = find_architecture(config)
    assert architecture is not None
    sizes = replace(from_huggingface(config), padded_vocab_size=vocabulary)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    found: dict[str, Tensor] = {}
    for owner, name, pieces in scatter(architecture, sizes, shapes, tp):
        if owner != rank:
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


def compare(folder: Path, tp: int, rank: int, *, kv_swap: bool) -> dict[str, float]:
    """Return how far the two models' logits are apart, and how far they spread."""
    import torch
    import torch.distributed
    from safetensors.torch import load_file

    torch.distributed.init_process_group(
        "gloo", init_method=os.environ["MEETING"], rank=rank, world_size=tp
    )
    parallel_state = import_module("megatron.core.parallel_state")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp)
    use_the_cpu()
    torch.set_grad_enabled(False)
    reference = import_module("transformers").AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    size = reference.config.vocab_size
    vocabulary = (size + 8 * tp - 1) // (8 * tp) * 8 * tp
    if kv_swap:
        for name in [name for name in weights if ".k_proj." in name]:
            other = name.replace(".k_proj.", ".v_proj.")
            weights[name], weights[other] = weights[other], weights[name]
    config = json.loads((folder / "config.json").read_text())
    scattered = shards(config, weights, tp, rank, vocabulary)
    model = build(reference.config, tp, vocabulary)
    expected = {name for name, value in model.state_dict().items() if torch.is_tensor(value)}
    assert expected == set(scattered), sorted(expected ^ set(scattered))
    model.load_state_dict(scattered, strict=False)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, size, (1, TOKENS), generator=generator)
    got = model(ids, torch.arange(TOKENS)[None], None)[0, :, :size]
    wanted = reference(ids).logits[0]
    torch.distributed.destroy_process_group()
    return {"max_abs": float((got - wanted).abs().max()), "spread": float(wanted.std())}


def main(folder: str, tp: str, *rest: str) -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if "RANK" not in os.environ:
        return spawn(folder, int(tp), *rest)
    rank = int(os.environ["RANK"])
    result = compare(Path(folder), int(tp), rank, kv_swap="kv-swap" in rest)
    if rank == 0:
        sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
