"""The files beside a config.json that decide what is fed: of generation, of the tokenizer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.files import is_there, open_regular, read_at, read_small
from ckptdiff.formats.json_files import check_depth, integer, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
POST_PROCESSOR = "tokenizer.json"  # of which only that is read
# Of these one is in every folder that has a tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
CHAT_TEMPLATE = "chat_template.jinja"  # goes before the entry in tokenizer_config.json

MAX_TEMPLATE = 10_000_000  # bytes
# The post-processor comes before the vocabulary, and behind tokens that were added.
_HEAD = 8_000_000  # bytes
_KEY = re.compile(r'(?<!\\)"post_processor"\s*:\s*')


def read_token_files(folder: Path, notes: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """Return the objects in those of the files that are there, by name.

    Of tokenizer.json it is only its `post_processor`. What cannot be read is noted: the weights do
    not depend on it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in (GENERATION, TOKENIZER):
        file = folder / name
        if not is_there(file):
            continue
        try:
            found[name] = read_object(file)
        except CkptDiffError:
            notes.append(f"{name} cannot be read, so its token ids are not known")
    if (folder / POST_PROCESSOR).is_file():
        found |= _post_processor(folder / POST_PROCESSOR)
    if is_there(folder / CHAT_TEMPLATE):
        try:
            text = read_small(folder / CHAT_TEMPLATE, MAX_TEMPLATE).decode(errors="replace")
            found[TOKENIZER] = {**found.get(TOKENIZER, {}), "chat_template": text}
        except CkptDiffError:
            notes.append(f"{CHAT_TEMPLATE} cannot be read")
    return found


def _post_processor(file: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return `{POST_PROCESSOR: {"post_processor": …}}`, or nothing if it is not found."""
    try:
        with open_regular(file) as opened:
            head = read_at(opened, 0, _HEAD).decode(errors="replace")
        found = _KEY.search(head)
        if found is None:
            return {}
        value, _ = json.JSONDecoder(parse_int=integer).raw_decode(head, found.end())
        check_depth(value)
    except (CkptDiffError, ValueError, RecursionError):
        return {}  # whoever reads the whole file says what is wrong with it
    return {POST_PROCESSOR: {"post_processor": value}}
