"""How many rows of a Megatron vocabulary are tokens, where only the other side can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.config.model import ModelConfig

_DIVISIBLE_BY = 128  # Megatron's default of make_vocab_size_divisible_by


def with_vocabulary(
    config: ModelConfig,
    rows_by_name: Mapping[str, int],
    checkpoint: Checkpoint,
    like: Assembled | None,
) -> ModelConfig:
    """Return the config with the vocabulary size counted in the tensors: args often misstate it.

    `rows_by_name` are the stored rows of embedding and head, by Hugging Face name. The same tensor
    of `like` says how many of them are not padding, if padding explains the others.
    """
    if not rows_by_name:
        return config
    # Embedding or head may be missing on a rank: the larger count is that of the complete one.
    name = max(rows_by_name, key=lambda name: rows_by_name[name])
    rows = rows_by_name[name]
    known = like.tensors.get(name) if like is not None else None
    tokens = known.shape[0] if known is not None and known.shape else None
    if tokens is not None and not _is_padded(tokens, rows, checkpoint):
        tokens = None
    return replace(config, padded_vocab_size=rows, vocab_size=tokens)


def _is_padded(tokens: int, rows: int, checkpoint: Checkpoint) -> bool:
    """Return whether Megatron's padding makes so many rows of a vocabulary, or there are fewer.

    It fills up to a multiple of make_vocab_size_divisible_by times TP, or to what its args state.
    """
    args = checkpoint.config or {}
    if rows <= tokens:
        return True
    stated = _positive(args, "vocab_size"), _positive(args, "padded_vocab_size")
    if stated[0] is not None and stated[0] <= tokens and stated[1] == rows:
        return True
    tp = _positive(args, "tensor_model_parallel_size") or checkpoint.parallelism.tp
    divisor = _positive(args, "make_vocab_size_divisible_by")
    if divisor is None:  # a smaller one would leave fewer rows
        return rows - tokens < tp * _DIVISIBLE_BY
    return rows == -(-tokens // (divisor * tp)) * divisor * tp


def _positive(args: Mapping[str, Any], name: str) -> int | None:
    value = args.get(name)
    return value if type(value) is int and value > 0 else None
