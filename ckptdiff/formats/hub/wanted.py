"""Which files of a model on the hub a comparison or a conversion reads."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ckptdiff.formats.weight_files import LOADED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# The config, what generation and the tokenizer take, and the index of the weights.
_BESIDE = (
    "*.json", "tokenizer*", "*.tiktoken", "*.model", "merges.txt", "vocab.txt", "chat_template*",
)  # fmt: skip
# Where transformers would find none: the first of these of which there is any.
_OTHER_WEIGHTS = (
    ("model*.safetensors", "adapter_model*.safetensors", "*.safetensors"),
    ("pytorch_model*.bin", "adapter_model*.bin"),
    ("consolidated*.pth",),
    ("*.pt", "*.pth", "*.ckpt", "*.bin"),
)
# What trainers put beside them.
_NO_WEIGHTS = ("training_args.bin", "optimizer*", "scheduler*", "*rng_state*", "scaler.pt")
# Megatron's and distributed checkpoints, in whatever folders, and what is beside them there.
_SHARDS = ("*.distcp", "model_optim_rng.pt", "model_rng.pt")
_WITH_SHARDS = (".metadata", "common.pt", "latest_checkpointed_iteration.txt", "*.yaml")


def wanted(names: Iterable[str], indexed: Collection[str] = ()) -> list[str]:
    """Return the files to fetch among those of a model: one kind of weights, and what is beside.

    `indexed` are those that an index names. Files in folders of the model are taken where it is a
    Megatron or a distributed checkpoint alone.
    """
    everything = {*names, *indexed}
    known = {name for name in everything if "/" not in name}
    weights = _weights({name for name in known if not _matches(name, _NO_WEIGHTS)}, indexed)
    if not weights and any(_matches(_last(name), _SHARDS) for name in everything):
        of_use = (*_SHARDS, *_WITH_SHARDS, *_BESIDE)
        return sorted(name for name in everything if _matches(_last(name), of_use))
    beside = [name for name in known if _matches(name, _BESIDE) and not _is_index(name)]
    return sorted({*beside, *weights})


def weights_of(names: Iterable[str]) -> list[str]:
    """Return those of some files that hold weights which can be read."""
    patterns = [pattern for kind in _OTHER_WEIGHTS for pattern in kind]
    return [
        name
        for name in names
        if _matches(_last(name), _SHARDS)
        or ("/" not in name and _matches(name, patterns) and not _matches(name, _NO_WEIGHTS))
    ]


def _weights(known: Collection[str], indexed: Collection[str]) -> list[str]:
    """Return the weights that transformers loads, with their index, or else all of one kind."""
    for name in LOADED:
        stem, _, suffix = name.rpartition(".")
        index = f"{name}.index.json"
        if name in known:
            return [name]
        if index in known:
            numbered = re.compile(rf"{stem}[^.]*-\d+-of-\d+\.{suffix}")
            parts = indexed or list(filter(numbered.fullmatch, known)) or known
            return [index, *(part for part in parts if part.endswith(f".{suffix}"))]
    for kind in _OTHER_WEIGHTS:
        for pattern in kind:
            if found := [name for name in known if fnmatchcase(name, pattern)]:
                return [*found, *filter(_is_index, known)]
    return []


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _is_index(name: str) -> bool:
    return name.endswith(".index.json")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
