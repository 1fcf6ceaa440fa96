"""What a pair of checkpoints says about how a task's texts are fed: tokenizer and length."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument
from ckptdiff.logits.tokenizer import find_tokenizer
from ckptdiff.scores.tasks import ModelFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled

# Where lm-eval looks for a model's length, in this order.
_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
_MEGATRON_LENGTHS = ("max_position_embeddings", "seq_length", "max_sequence_length")


def model_facts(a: Assembled, b: Assembled) -> tuple[ModelFacts, tuple[str, ...]]:
    """Return what texts are fed by, and notes: by A's tokenizer, or B's if A has none.

    Raises BadArgument if no side has a tokenizer.
    """
    files = [find_tokenizer(side.checkpoint.folder) for side in (a, b)]
    file = files[0] or files[1]
    if file is None:
        raise BadArgument(
            f"{a.checkpoint.root} and {b.checkpoint.root} have no tokenizer: put the model's "
            "tokenizer.json into either folder"
        )
    notes = [] if files[0] else ["the ids are by B's tokenizer: A has none"]
    if files[0] and files[1] and not _is_same(files[0], files[1]):
        notes.append(
            "the files of the tokenizers differ: both sides are asked by A's, so what B's makes of "
            "the texts is not seen here"
        )
    sides = (a, b) if files[0] else (b, a)
    config = next((_text(side) for side in sides if side.checkpoint.convention == "hf"), {})
    longest = next((n for key in _LENGTHS if (n := _number(config, key))), None)
    if longest is None:
        args = (side.checkpoint.config or {} for side in sides)
        found = (_number(one, key) for one in args for key in _MEGATRON_LENGTHS)
        longest = next(filter(None, found), None)
    facts = ModelFacts(
        file,
        longest,
        _number(config, "bos_token_id"),
        _number(config, "eos_token_id"),
        str(config.get("model_type") or ""),
    )
    return facts, tuple(notes)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _text(side: Assembled) -> dict[str, Any]:
    """Return the part of config.json that is about the language model."""
    config: dict[str, Any] = dict(side.checkpoint.config or {})
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _number(config: Mapping[str, Any], key: str) -> int | None:
    """Return a size or an id; None for anything else, such as a list of ids."""
    value = config.get(key)
    return value if type(value) is int and value >= 0 else None
