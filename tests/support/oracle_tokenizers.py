"""The ids that transformers' AutoTokenizer makes of a text, by folder. Run by `oracle_server`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def compare(*, folders: list[str], text: str, **_: Any) -> dict[str, list[int]]:
    """Return the ids of the text by the tokenizer of each folder."""
    auto = import_module("transformers").AutoTokenizer
    return {folder: list(auto.from_pretrained(folder)(text).input_ids) for folder in folders}
