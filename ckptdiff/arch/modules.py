"""What Megatron's modules save beside their weights, and where, as their names tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Modules that keep a state beside their weights, which a strict load asks for; it may be None.
_STATEFUL = re.compile(
    r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|output_layer|query_key_value|dense\w*)$"
)
# The same of a distributed checkpoint. A model asks for the states of its own layer spec, and
# cannot be loaded without; those of the other spec are not missed.
_DISTRIBUTED = re.compile(r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|\w+_latent_proj|\w*norm)$")
_ATTENTION = ("self_attention.linear_proj", "self_attention.core_attention")
_HEAD_STATE = "output_layer._extra_state"
_TIED_HEAD = "word_embeddings_for_head.weight"


def with_states(names: Iterable[str], *, last: bool) -> list[str]:
    """Return native names with those of the modules' states behind the last weight of each.

    `last` says that they are of the last stage, which ends in the output layer.
    """
    modules: dict[str, str] = {}
    found = list(names)
    for name in found:
        module = name.rpartition(".")[0]
        if _STATEFUL.search(module):
            modules[module] = name
    behind = {name: module for module, name in modules.items()}
    made = []
    for name in found:
        made.append(name)
        if name in behind:
            made.append(f"{behind[name]}._extra_state")
    is_legacy = any(name.startswith("language_model.") for name in found)
    state = f"language_model.{_HEAD_STATE}" if is_legacy else _HEAD_STATE
    if last and state not in made and _TIED_HEAD not in found:
        made.append(state)
    return made


def distributed_states(name: str) -> Iterator[str]:
    """Yield the modules whose state a distributed checkpoint has beside a stored tensor."""
    module = name.rpartition(".")[0]
    if _DISTRIBUTED.search(module):
        yield module
    if module.endswith(_ATTENTION[0]):
        yield module.replace(*_ATTENTION)


def legacy_path(name: str) -> list[str]:
    """Return the keys to a tensor in the legacy model's tree: the encoder is one dictionary."""
    front, encoder, rest = name.partition(".encoder.")
    return [front, "encoder", rest] if encoder else name.split(".")
