"""How Megatron-LM is started from a checkpoint: what it does not take over from its args."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields.base import show
from ckptdiff.config.megatron_flags import flag_of, is_off_switch, why_not
from ckptdiff.config.taken_over import DELTA, LATENT, NOT_TAKEN_OVER, TAKEN_OVER

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.config.programs import Version

_YARN = (
    *("yarn_original_max_position_embeddings", "yarn_beta_fast", "yarn_beta_slow"),
    "yarn_correction_range_round_to_int",
)
_SCALED = ("rotary_scaling_factor", "mscale", "mscale_all_dim")
# What args are called in the args that 0.16 and later write.
_RENAMED = {
    "norm_epsilon": "layernorm_epsilon",
    "apply_layernorm_1p": "layernorm_zero_centered_gamma",
}
_MAMBA_SPEC = ("megatron.core.models.mamba.mamba_layer_specs", "mamba_stack_spec")


@dataclass(frozen=True, slots=True)
class Leftover:
    """An arg that a release leaves to the command line."""

    arg: str
    value: Any
    words: tuple[str, ...]  # the flag and its value
    why_not: str | None  # why the release does not do what the flag says; None: it does


def leftovers(args: Mapping[str, Any], version: Version) -> list[Leftover]:
    """Return the args that a release does not take over, and whose default will not do."""
    found = []
    for arg, default in NOT_TAKEN_OVER.items():
        value = args.get(arg, args.get(_RENAMED.get(arg, arg), default))
        is_idle = value is None or value == default or not _has_effect(arg, args)
        if is_idle or version in TAKEN_OVER.get(arg, ()):
            continue
        bare = value is True or is_off_switch(arg)
        words = (flag_of(arg),) if bare else (flag_of(arg), show(value))
        found.append(Leftover(arg, value, words, why_not(words, version)))
    return found


def _has_effect(arg: str, args: Mapping[str, Any]) -> bool:
    """Return whether any layer of such a model reads an arg."""
    latent = bool(args.get("multi_latent_attention"))
    yarn = not latent and args.get("position_embedding_type") == "yarn"
    if arg == "bias_gelu_fusion":
        # Beside a squared ReLU with biases the fusion is refused, so its flag is needed.
        gated = args.get("swiglu") or args.get("quick_geglu")
        return not gated and bool(args.get("add_bias_linear", True))
    if arg == "rope_scaling_factor":
        return bool(args.get("use_rope_scaling"))
    if arg in LATENT:
        return latent
    if arg in _YARN:
        return yarn
    if arg in _SCALED:
        return latent or yarn
    if arg in DELTA:
        return bool(args.get("experimental_attention_variant"))
    return True


def world_size(size: Parallelism) -> int:
    """Return how many processes there are, at least: each holds one rank of every kind."""
    return size.processes * size.pp


def launch_words(
    args: Mapping[str, Any],
    size: Parallelism,
    version: Version,
    *,
    load: Path,
    tokenizer: Path | None,
    tokens: int,
    stated: Iterable[str] = (),
) -> list[str]:
    """Return the command that starts Megatron-LM from a checkpoint with these args.

    `tokenizer` is a folder with a Hugging Face tokenizer; without one, NullTokenizer has as many
    `tokens`. Args that are `stated` are there even if the release takes them over. It trains one
    step on made-up data: what was left to choose is at its end.
    """
    hybrid = bool(args.get("is_hybrid_model"))
    program = "pretrain_gpt.py"
    if hybrid:
        program = "pretrain_hybrid.py" if version == "0.19" else "pretrain_mamba.py"
    # Before Blackwell, Megatron-LM demands it beside tensor parallelism.
    words = ["CUDA_DEVICE_MAX_CONNECTIONS=1"] if size.tp > 1 else []
    words += ["torchrun", "--nproc-per-node", str(world_size(size)), program]
    words += ["--load", str(load), "--use-checkpoint-args"]
    words += ["--finetune", "--no-load-optim", "--no-load-rng"]
    words += ["--ckpt-format", str(args["ckpt_format"])]
    words += _layer_words(args, version, hybrid=hybrid)
    words += _parallel_words(args, size)
    for left in leftovers(args, version):
        words += left.words if left.why_not is None else ()
    words += _stated_words(args, version, stated, {word for word in words if word[:2] == "--"})
    if tokenizer is not None:
        words += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tokenizer)]
    else:
        # Before 0.19, NullTokenizer has one id more than it is told.
        null = tokens if version == "0.19" else tokens - 1
        words += ["--tokenizer-type", "NullTokenizer", "--vocab-size", str(null)]
    words += ["--micro-batch-size", "1", "--train-iters", "1", "--lr", "1e-5"]
    return [*words, "--eval-iters", "0", "--mock-data"]


def _stated_words(
    args: Mapping[str, Any], version: Version, names: Iterable[str], given: Container[str]
) -> Iterator[str]:
    """Yield the flags of args that are not given yet, and that the release does what they say."""
    for name in names:
        value = args.get(name)
        if value is None or value is False or is_off_switch(name) or flag_of(name) in given:
            continue
        words = (flag_of(name),) if value is True else (flag_of(name), show(value))
        if why_not(words, version) is None:
            yield from words


def _layer_words(args: Mapping[str, Any], version: Version, *, hybrid: bool) -> Iterator[str]:
    """Yield the flags that choose what layers are made of."""
    if hybrid:  # whose layers are Transformer Engine's alone
        if version != "0.19":
            yield from ("--spec", *_MAMBA_SPEC)
        return
    impl = args.get("transformer_impl") or "transformer_engine"
    yield from ("--transformer-impl", impl)
    if args.get("use_legacy_models"):
        yield "--use-legacy-models"
    if impl == "local":
        # PyTorch's norm knows no persistent kernel; the others need Transformer Engine or Apex.
        yield from ("--no-persist-layer-norm", "--no-rope-fusion")
        yield "--no-gradient-accumulation-fusion"


def _parallel_words(args: Mapping[str, Any], size: Parallelism) -> Iterator[str]:
    """Yield the flags of the parallel sizes, and of how layers are spread over stages."""
    for flag, number, default in (
        ("--tensor-model-parallel-size", size.tp, 1),
        ("--pipeline-model-parallel-size", size.pp, 1),
        ("--expert-model-parallel-size", size.ep, 1),
        ("--expert-tensor-parallel-size", size.etp, size.tp),
    ):
        if number != default:
            yield from (flag, str(number))
    for name in (
        *("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank"),
        *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"),
        "pipeline_model_parallel_layout",
    ):
        if args.get(name) is not None:
            yield from (flag_of(name), str(args[name]))
    if args.get("sequence_parallel") and can_split_sequence(args):
        yield "--sequence-parallel"


def can_split_sequence(args: Mapping[str, Any]) -> bool:
    """Return whether the norms of a model's layers work beside sequence parallelism."""
    local = args.get("transformer_impl") == "local" and not args.get("is_hybrid_model")
    return not (local and args.get("normalization") == "RMSNorm")
