"""What runs of the real megatron-core have in common: ranks on a CPU, logits, a checkpoint."""

from __future__ import annotations

import contextlib
import multiprocessing.dummy
from argparse import Namespace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch.nn.functional import silu

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TOKENS = 40


def meet(meeting: str, rank: int, tp: int, ep: int = 1, etp: int | None = None) -> None:
    """Join the other ranks, with what they need of CUDA replaced."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=tp * ep)
    parallel_state = import_module("megatron.core.parallel_state")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
    )
    use_the_cpu()
    torch.set_grad_enabled(False)


def use_the_cpu() -> None:
    """Patch what megatron-core 0.16.1 asks of CUDA on its way through a local-spec GPTModel."""
    random: Any = import_module("megatron.core.tensor_parallel.random")
    utils: Any = import_module("megatron.core.transformer.utils")
    fused_softmax: Any = import_module("megatron.core.fusions.fused_softmax")
    experts: Any = import_module("megatron.core.transformer.moe.moe_utils")
    writer: Any = import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")

    def mask(size: int) -> Tensor:
        return torch.triu(torch.ones(size, size), diagonal=1).bool()

    def window_mask(rows: int, columns: int, window: tuple[int, int]) -> Tensor:
        ahead = torch.arange(columns) - torch.arange(rows)[:, None] - (columns - rows)
        return (ahead < -window[0]) | (ahead > window[1])

    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda device=None: None
    random.CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()
    utils.get_default_causal_mask = fused_softmax.get_default_causal_mask = mask
    fused_softmax.get_sliding_window_causal_mask = window_mask
    # Without Transformer Engine this name is left undefined.
    experts.te_general_gemm = None
    # Files are written by threads, not processes, and without psutil to log the memory.
    writer.mp = Namespace(get_context=lambda method: multiprocessing.dummy)
    writer._process_memory = lambda: 0


def logits(network: Any, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the tokens of a made-up text, and what megatron-core computes for them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (1, TOKENS), generator=generator)
    return ids, network(ids, torch.arange(TOKENS)[None], None)[0, :, :vocabulary]


def distance(got: Tensor, wanted: Tensor) -> dict[str, float]:
    """Return how far two models' logits are apart, and how far they spread."""
    return {"max_abs": float((got - wanted).abs().max()), "spread": float(wanted.std())}


def save(network: Any, folder: Path, rank: int, **more: Any) -> None:
    """Save a model by megatron-core as Megatron-LM does: torch_dist, with its args and `more`."""
    target = folder / "iter_0000001"
    if rank == 0:
        target.mkdir(parents=True)
        (folder / "latest_checkpointed_iteration.txt").write_text("1")
    torch.distributed.barrier()
    state = {
        "args": Namespace(**arguments(network) | more),
        "checkpoint_version": 3.0,
        "iteration": 1,
        "model": network.sharded_state_dict(),
    }
    import_module("megatron.core.dist_checkpointing").save(state, str(target))


def save_ranks(network: Any, folder: Path, tp: int, ep: int | None, **more: Any) -> None:
    """Save this rank's shard in the older format, a file a rank: `ep` is None without experts."""
    rank = f"mp_rank_{tp:02d}" if ep is None else f"mp_rank_{tp:02d}_{ep:03d}"
    target = folder / "iter_0000001" / rank
    target.mkdir(parents=True)
    state = {name: v for name, v in network.state_dict().items() if torch.is_tensor(v)}
    args = Namespace(**arguments(network) | more | {"ckpt_format": "torch"})
    held = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": state}
    torch.save(held, target / "model_optim_rng.pt")


def arguments(network: Any) -> dict[str, Any]:
    """Return Megatron-LM's args: the configuration, in which some names are others."""
    config = network.config
    fused = import_module("megatron.core.fusions.fused_bias_geglu")
    gated = config.gated_linear_unit
    plain = (bool, int, float, str, list, tuple, type(None))
    args = {name: value for name, value in vars(config).items() if isinstance(value, plain)}
    return args | {
        "num_experts": config.num_moe_experts,
        "group_query_attention": config.num_query_groups != config.num_attention_heads,
        "norm_epsilon": config.layernorm_epsilon,
        "apply_layernorm_1p": config.layernorm_zero_centered_gamma,
        "swiglu": gated and config.activation_func is silu,
        "quick_geglu": gated and config.activation_func is fused.quick_gelu,
        "position_embedding_type": network.position_embedding_type,
        "max_position_embeddings": network.max_sequence_length,
        "rotary_base": getattr(network, "rotary_base", 10000),  # MambaModel keeps none
        "rotary_percent": getattr(network, "rotary_percent", 1.0),
        "use_rope_scaling": getattr(network, "rotary_scaling", False),
        "untie_embeddings_and_output_weights": not network.share_embeddings_and_output_weights,
        "padded_vocab_size": network.vocab_size,
        "ckpt_format": "torch_dist",
    }
