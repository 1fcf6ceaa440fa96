"""Plan the files of a Hugging Face folder."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ckptdiff.assembly.packed import plain_names
from ckptdiff.config.compare import config_side
from ckptdiff.config.huggingface_config import huggingface_config
from ckptdiff.config.sayable import args_of_nobody, unsayable_args
from ckptdiff.conversion.casting import main_dtype
from ckptdiff.conversion.output_file import OutputFile
from ckptdiff.conversion.storable import check_names
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.formats.files import read_small
from ckptdiff.formats.hub.links import leads_out
from ckptdiff.formats.safetensors import lay_out
from ckptdiff.formats.token_files import TOKENIZERS
from ckptdiff.resharding.to_huggingface import INDEX, file_names, index_text, split_files, stored
from ckptdiff.text import format_bytes, plural

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.plan import Target

# The tokenizer's files and the generation config of a Hugging Face folder.
_COPIED_FILES = (
    "tokenizer*", "*.tiktoken", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template*", "generation_config.json",
)  # fmt: skip
_NO_TOKENIZER = "no tokenizer: one is copied from a Hugging Face folder to be like"
_MAX_COPIED_BYTES = 200_000_000  # of one such file: the plan holds it in memory


def huggingface_files(
    side: Assembled,
    target: Target,
    like: Assembled | None,
    lender: Assembled | None,
    notes: list[str],
    cannot: list[str],
) -> tuple[tuple[OutputFile, ...], tuple[tuple[str, bytes], ...]]:
    """Return the files and the texts of a Hugging Face folder; adds to `notes` and `cannot`.

    `lender` has the config.json to write, if `like` does not.
    """
    is_hf = side.checkpoint.convention == "hf"
    pattern = like or (side if is_hf and side.architecture is not None else None)
    names = None if pattern is None else plain_names(pattern)
    check_names(side)
    tensors = stored(side, names)
    groups = split_files(tensors, target.max_shard_size)
    files = dict(zip(file_names(len(groups)), groups, strict=True))
    outputs = []
    for file, held in files.items():
        # Tensors with wide elements first, so that every tensor is aligned to its elements.
        ordered = sorted(held, key=lambda t: -ITEMSIZE.get(t.recipe.dtype, 1))
        layout = lay_out((t.name, t.recipe.dtype, t.shape) for t in ordered)
        outputs.append(OutputFile(file, layout, tuple(t.recipe for t in ordered)))
    restated = huggingface_config(like or lender or side, dtype=main_dtype(side))
    config = restated.settings
    if lender is not None:
        notes.append("config.json is the one that args carry, and it still makes these args")
    notes += [f"config.json as in {like.checkpoint.root}"] if like is not None else []
    notes += restated.notes
    cannot += restated.cannot
    if side.checkpoint.convention == "megatron" and (like or lender) is not None:
        args = config_side(side)  # which the config.json that is written was not made from
        cannot += unsayable_args(args)
        notes += args_of_nobody(args)
    texts = _copied_texts(pattern, side, notes)
    if len(files) > 1:
        texts.append((INDEX, index_text(files)))
    if config:
        texts.append(("config.json", (json.dumps(config, indent=2) + "\n").encode()))
    notes.append(f"{plural(len(tensors), 'tensor')} in {plural(len(files), 'file')}")
    return tuple(outputs), tuple(texts)


def _copied_texts(
    pattern: Assembled | None, side: Assembled, notes: list[str]
) -> list[tuple[str, bytes]]:
    """Return (name, content) of the side files to copy; adds to `notes`.

    They are those of the folder that is the pattern and, where it has no tokenizer, those that lie
    beside the weights of `side`.
    """
    own = side.checkpoint
    folders = [] if pattern is None else [pattern.checkpoint.folder]
    if own.model_folder is not None or (pattern is None and own.convention == "hf"):
        folders.append(own.folder)
    texts: dict[str, bytes] = {}
    for folder in dict.fromkeys(folders):
        if texts.keys().isdisjoint(TOKENIZERS):
            texts = {**_texts_in(folder, notes), **texts}
    if not texts and pattern is None:
        notes.append(_NO_TOKENIZER)
    return list(texts.items())


def _texts_in(folder: Path, notes: list[str]) -> dict[str, bytes]:
    """Return the side files of a Hugging Face folder by name, but for what may not be copied."""
    children = sorted(folder.iterdir())
    found = [f for f in children if any(fnmatchcase(f.name, glob) for glob in _COPIED_FILES)]
    if broken := [f.name for f in found if not f.exists()]:
        notes.append(f"not copied, since they are links to nothing: {', '.join(broken)}")
    found = [f for f in found if f.is_file()]
    if linked := [f.name for f in found if leads_out(f)]:
        notes.append(f"not copied, since they are links out of {folder}: {', '.join(linked)}")
    found = [f for f in found if f.name not in linked]
    if large := [f.name for f in found if f.stat().st_size > _MAX_COPIED_BYTES]:
        most = format_bytes(_MAX_COPIED_BYTES)
        notes.append(f"not copied, since they have more than {most}: {', '.join(large)}")
    found = [f for f in found if f.name not in large]
    texts = {f.name: read_small(f, _MAX_COPIED_BYTES) for f in found}
    if texts:
        notes.append(f"copied from {folder}: {', '.join(texts)}")
    return texts
