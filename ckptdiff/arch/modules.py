"""Which of Megatron's modules save an `_extra_state` beside their weights, and where it goes."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Modules with an `_extra_state`, which a strict load asks for; it may be None.
_STATEFUL = re.compile(
    r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|\w+_latent_proj|output_layer|query_key_value"
    r"|dense\w*)$"
)
# And those of Transformer Engine's spec. The norm inside a Mamba mixer is none of its modules.
_STATEFUL_ENGINE = re.compile(r"(?<!\.mixer)\.(\w*norm|core_attention)$")
# The same in a distributed checkpoint, for both layer specs together: a model cannot be loaded
# without the states of its own spec, and does not ask for those of the other.
_STATEFUL_DISTRIBUTED = re.compile(
    r"(^|\.)(linear_\w+|in_proj|out_proj|eh_proj|\w+_latent_proj|\w*norm)$"
)
_PROJ_TO_CORE = ("self_attention.linear_proj", "self_attention.core_attention")
_HEAD_STATE = "output_layer._extra_state"
_HYBRIDS_LAST_NORM = "decoder.final_norm"
_TIED_HEAD = "word_embeddings_for_head.weight"


def with_states(names: Iterable[str], *, last: bool, engine: bool = False) -> list[str]:
    """Return native names, with the name of each module's state behind its last weight.

    `last` says whether they are of the last pipeline stage, which ends in the output layer,
    `engine` whether the modules are Transformer Engine's. Attention has a state and no weight.
    """
    modules: dict[str, str] = {}
    given = list(names)
    for name in given:
        module = name.rpartition(".")[0]
        if _STATEFUL.search(module) or (engine and _STATEFUL_ENGINE.search(module)):
            modules[module] = name
        if engine and module.endswith(_PROJ_TO_CORE[0]):
            modules.setdefault(module.replace(*_PROJ_TO_CORE), name)
    behind: dict[str, list[str]] = defaultdict(list)
    for module, name in modules.items():
        behind[name].append(f"{module}._extra_state")
    named = [n for name in given for n in (name, *behind.get(name, ()))]
    is_legacy = any(name.startswith("language_model.") for name in given)
    state = f"language_model.{_HEAD_STATE}" if is_legacy else _HEAD_STATE
    if last and state not in named and _TIED_HEAD not in given:
        named.append(state)
    return named


def distributed_states(name: str) -> Iterator[str]:
    """Yield the modules whose state a distributed checkpoint stores beside the tensor `name`.

    A model with Mamba layers asks for that of its output layer too, tied or not; a GPTModel does
    not.
    """
    # A tensor that is stored in parts has one more name behind it: `in_proj.weight.z`.
    module = name.rpartition(".")[0].removesuffix(".weight")
    if module == _HYBRIDS_LAST_NORM:
        yield _HEAD_STATE.rpartition(".")[0]
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
