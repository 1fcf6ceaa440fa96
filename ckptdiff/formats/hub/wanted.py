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


def wanted(names: Iterable[str], indexed: Collection[str] = ()) -> list[str]:
    """Return the files to fetch among those of a model: one kind of weights, and what is beside.

    `indexed` are those that an index names. Files in folders of the model are not taken.
    """
    known = {name for name in (*names, *indexed) if "/" not in name}
    beside = [n for n in known if _matches(n, _BESIDE) and not _is_index(n)]
    return sorted({*beside, *_weights(known, indexed)})


def weights_of(names: Iterable[str]) -> list[str]:
    """Return those of some files that hold weights which can be read."""
    patterns = [p for kind in _OTHER_WEIGHTS for p in kind]
    return [name for name in names if _matches(name, patterns)]


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


def _is_index(name: str) -> bool:
    return name.endswith(".index.json")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
