"""What a conversion does with a head that is stored, though the config ties it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.comparison.equal import are_equal

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled


def settled_head(source: Assembled, *, to_huggingface: bool, notes: list[str]) -> Assembled:
    """Return the source with its head as it is to be written; adds to `notes`.

    Hugging Face keeps what is stored. Megatron's tied model has no head: one that repeats the
    embedding is left out, and one that differs is kept in a model that is not tied. Reads the head
    and the embedding, as far as they are equal. Raises UnreadableFile.
    """
    rules, config = source.architecture, source.config
    if rules is None or config is None or not config.tied_embeddings:
        return source
    name = rules.head_name()
    head, embedding = source.tensors.get(name), source.tensors.get(rules.embedding().hf[0])
    if head is None or embedding is None:
        return source
    if to_huggingface:
        notes.append(f"{name} is stored, though the config ties it to the embedding: it is kept")
        return source
    if are_equal(head, embedding):
        notes.append(f"{name} repeats the embedding, to which the config ties it: left out")
        return replace(source, tensors={n: t for n, t in source.tensors.items() if n != name})
    notes.append(
        f"{name} differs from the embedding, to which the config ties it: it is kept, and args say "
        "untie_embeddings_and_output_weights"
    )
    settings = {**(source.checkpoint.config or {}), "tie_word_embeddings": False}
    return replace(
        source,
        checkpoint=replace(source.checkpoint, config=settings),
        config=replace(config, tied_embeddings=False),
    )
