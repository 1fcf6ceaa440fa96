"""Which of Megatron's modules save an `_extra_state` beside their weights, and where it goes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Modules with an `_extra_state`, which a strict load asks for; it may be None.
_STATEFUL = re.compile(
    r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|output_layer|query_key_value|dense\w*)$"
)
# The same in a distributed checkpoint, for both layer specs together: a model cannot be loaded
# without the states of its own spec, and does not ask for those of the other.
_STATEFUL_DISTRIBUTED = re.compile(
    r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|\w+_latent_proj|\w*norm)$"
)
_PROJ_TO_CORE = ("self_attention.linear_proj", "self_attention.core_attention")
_HEAD_STATE = "output_layer._extra_state"
_TIED_HEAD = "word_embeddings_for_head.weight"


def with_states(names: Iterable[str], *, last: bool) -> list[str]:
    """Return native names, with the name of each module's state behind its last weight.

    `last` says whether they are of the last pipeline stage, which ends in the output layer.
    """
    modules: dict[str, str] = {}
    given = list(names)
    for name in given:
        module = name.rpartition(".")[0]
        if _STATEFUL.search(module):
            modules[module] = name
    module_after = {name: module for module, name in modules.items()}
    named = []
    for name in given:
        named.append(name)
        if name in module_after:
            named.append(f"{module_after[name]}._extra_state")
    is_legacy = any(name.startswith("language_model.") for name in given)
    state = f"language_model.{_HEAD_STATE}" if is_legacy else _HEAD_STATE
    if last and state not in named and _TIED_HEAD not in given:
        named.append(state)
    return named


def distributed_states(name: str, *, in_hybrid: bool) -> Iterator[str]:
    """Yield the modules whose state a distributed checkpoint stores beside the tensor `name`.

    A model with Mamba layers asks for that of its output layer too; a GPTModel does not.
    """
    # A tensor that is stored in parts has one more name behind it: `in_proj.weight.z`.
    module = name.rpartition(".")[0].removesuffix(".weight")
    if in_hybrid and f"{module}._extra_state" == _HEAD_STATE:
        yield module
    if _STATEFUL_DISTRIBUTED.search(module):
        yield module
    if module.endswith(_PROJ_TO_CORE[0]):
        yield module.replace(*_PROJ_TO_CORE)


def legacy_path(name: str) -> list[str]:
    """Return the keys that lead to a tensor in a legacy checkpoint's nested dictionaries.

    Below `encoder` there is one flat dictionary.
    """
    front, encoder, rest = name.partition(".encoder.")
    return [front, "encoder", rest] if encoder else name.split(".")
