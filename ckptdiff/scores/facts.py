"""What the sides' files say about how a model is fed: tokenizer, context length, BOS and EOS."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

from ckptdiff.errors import BadArgument
from ckptdiff.logits.tokenizer import find_tokenizer
from ckptdiff.scores.tasks import ModelFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ckptdiff.assembly.recipe import Assembled

# Where lm-eval's `hf` looks for the context length, and what Megatron and Meta call it.
_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")


def model_facts(a: Assembled, b: Assembled) -> tuple[ModelFacts, tuple[str, ...]]:
    """Return how both sides are fed, and notes: by A's tokenizer, or by B's if A has none.

    Raises BadArgument if no side has a tokenizer.
    """
    files = [find_tokenizer(side.checkpoint.root) for side in (a, b)]
    file = files[0] or files[1]
    if file is None:
        raise BadArgument(
            f"{a.checkpoint.root} and {b.checkpoint.root} have no tokenizer: put tokenizer.json "
            "beside config.json"
        )
    notes = []
    if files[0] is None:
        notes.append("the ids are by B's tokenizer: A has none")
    elif files[1] is not None and not _is_same(files[0], files[1]):
        notes.append("the files of the tokenizers differ: both sides are asked by A's")
    own, other = (a, b) if files[0] else (b, a)
    configs = [side.checkpoint.config or {} for side in (own, other)]
    # Of two, config.json is what the harness would read.
    configs.sort(key=lambda config: "model_type" not in config)
    facts = ModelFacts(
        tokenizer=file,
        max_length=_first(configs, _LENGTHS),
        bos=_first(configs, ("bos_token_id",)),
        eos=_first(configs, ("eos_token_id",)),
        family=str(configs[0].get("model_type", "")),
    )
    return facts, tuple(notes)


def _is_same(one: object, other: object) -> bool:
    try:
        return filecmp.cmp(str(one), str(other), shallow=False)
    except OSError:
        return False


def _first(configs: Iterable[Mapping[str, Any]], names: Iterable[str]) -> int | None:
    """Return the first integer of these names; of a list, as EOS may be, its first."""
    for config in configs:
        # A model that sees pictures has its language model's settings in `text_config`.
        inner = config.get("text_config")
        for holder in (config, inner if isinstance(inner, dict) else {}):
            for name in names:
                value = holder.get(name)
                value = value[0] if isinstance(value, list) and value else value
                if type(value) is int and value >= 0:
                    return value
    return None
