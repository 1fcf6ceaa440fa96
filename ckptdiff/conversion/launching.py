"""How the program that a checkpoint was converted for is started from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.launch import launch_words
from ckptdiff.formats.token_files import TOKENIZERS
from ckptdiff.text import shell_word

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.plan import Target

# Files of which one is enough for transformers' AutoTokenizer.


def launch_of(
    target: Target,
    args: argparse.Namespace,
    out: Path,
    first: str,
    tokens: int,
    sides: Iterable[Assembled],
    stated: Iterable[str] = (),
) -> str:
    """Return the line to start the target program from a checkpoint that lies in `out`.

    `first` is the path in it of a file with tensors. `tokens` are the rows of the vocabulary that
    mean one; the tokenizer is that of the first of `sides` which has one. Args that are `stated`
    are on the line though the program takes them over. Paths are absolute, since the program is
    started in a folder of its own. For Megatron-Bridge, which opens the folder of an
    iteration, it is a line of Python.
    """
    load = out.absolute()
    tokenizer = next((folder for folder in map(_tokenizer_of, sides) if folder), None)
    if target.version == "bridge":
        folder = str((load / first).parent)
        kind = "hybrid" if getattr(args, "is_hybrid_model", False) else "gpt"
        return (
            "from megatron.bridge.training.model_load_save import load_megatron_model; "
            f"model = load_megatron_model({folder!r}, model_type={kind!r})"
        )
    size, version = target.parallelism, target.version
    words = launch_words(
        vars(args), size, version, load=load, tokenizer=tokenizer, tokens=tokens, stated=stated
    )
    ahead = words[:1] if "=" in words[0] else []  # what is set for the program is not quoted
    return " ".join([*ahead, *map(shell_word, words[len(ahead) :])])


def _tokenizer_of(side: Assembled) -> Path | None:
    """Return the folder of a side that has a tokenizer in Hugging Face's files."""
    checkpoint = side.checkpoint
    if checkpoint.convention != "hf" and checkpoint.model_folder is None:
        return None
    folder = checkpoint.folder.absolute()
    return folder if any((folder / name).is_file() for name in TOKENIZERS) else None
