"""Assemble Meta's own files: join the ranks' slices, reorder rotary rows as Hugging Face does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.llama import LLAMA
from ckptdiff.arch.meta import EMBEDDING, GATE, HEAD, META_RULES, QUERY, MetaRule
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.templates import fill_name, split_name
from ckptdiff.assembly.dcp_chunks import ViewsOfWholes
from ckptdiff.assembly.derived_buffers import derived_entry, is_derived
from ckptdiff.assembly.recipe import Assembled, Assembly, Copy, LayoutError, Piece
from ckptdiff.checkpoint import Rank, TensorRef
from ckptdiff.config import model as configs
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CkptDiffError, MissingShard, UnknownConfig, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.checkpoint import Box, Checkpoint
    from ckptdiff.config.model import ModelConfig


def assemble_meta(checkpoint: Checkpoint, like: Assembled | None = None) -> Assembled:
    """Return the canonical tensors of a Llama model under Meta's names.

    `like` supplies the sizes where the checkpoint states none, as torchtitan's does not. Without
    either, queries and keys are errors: nothing tells where a head begins.

    Raises UnknownConfig if params.json lacks a size, MissingShard if the last files are missing.
    """
    stored = {
        name: [shard.tensors[name] for shard in checkpoint.shards]
        for name in checkpoint.shards[0].tensors
    }
    if checkpoint.config is not None:
        config: ModelConfig | None = _config(checkpoint, stored)
    else:
        config = like.config if like is not None else None
    views = ViewsOfWholes(checkpoint)
    tensors: dict[str, Assembly] = {}
    errors: dict[str, LayoutError] = {}
    unmapped: list[str] = []
    derived: list[TensorRef] = []
    for name, refs in stored.items():
        key, indices = split_name(name)
        rule = META_RULES.get(key)
        if rule is None:
            if is_derived(name):
                derived.append(refs[0])
            else:
                unmapped.append(name)
            continue
        target = fill_name(rule.hf, indices)
        try:
            tensors[target] = views.resolved(_join(target, rule, refs, config))
        except CkptDiffError as error:
            errors[target] = LayoutError(str(error))
    return Assembled(
        checkpoint,
        LLAMA,
        config,
        put_in_model_order(tensors, LLAMA),
        unmapped=tuple(sorted(unmapped)),
        errors=put_in_model_order(errors, LLAMA),
        derived=tuple(derived_entry(ref, config, checkpoint) for ref in derived),
    )


def _config(checkpoint: Checkpoint, stored: dict[str, list[TensorRef]]) -> ModelConfig:
    """Return the config of params.json, with sizes that it does not state counted in the tensors.

    Raises UnknownConfig if params.json lacks a size, MissingShard if the files do not hold all
    query heads.
    """
    params: dict[str, Any] = dict(checkpoint.config or {})
    by_key = {split_name(name)[0]: refs for name, refs in stored.items()}
    gate_rows = sum(ref.shape[0] for ref in by_key.get(GATE, ()) if ref.shape)
    vocabulary = 0
    embedding = stored.get(EMBEDDING, [])
    if embedding and all(len(ref.shape) == 2 for ref in embedding):
        by_rows = embedding[0].shape[1] == params.get("dim")
        vocabulary = sum(r.shape[0] for r in embedding) if by_rows else embedding[0].shape[0]
    try:
        config = configs.from_meta(
            params, ffn=gate_rows or 1, vocabulary=vocabulary, tied=HEAD not in stored
        )
    except UnknownConfig as error:
        raise UnknownConfig(f"{checkpoint.root}: {error}") from error
    queries = by_key.get(QUERY, [])
    held = sum(ref.shape[0] for ref in queries if ref.shape)
    needed = config.num_attention_heads * config.kv_channels
    if 0 < held < needed and needed % held == 0:
        count = len(checkpoint.files)
        raise MissingShard(
            f"{checkpoint.root}: found {count} of {count * needed // held} files: they hold {held} "
            f"of {needed} query rows. Copy the missing consolidated files"
        )
    return config


def _join(name: str, rule: MetaRule, refs: list[TensorRef], config: ModelConfig | None) -> Assembly:
    """Return one canonical tensor from the ranks' slices of it.

    Raises UnsupportedLayout if the slices do not fit each other or the config, UnknownConfig if it
    takes one and there is none.
    """
    first = refs[0]
    for ref in refs:
        if (ref.shape, ref.dtype) != (first.shape, first.dtype):
            raise UnsupportedLayout(
                f"{ref.file}: {ref.name} is {ref.dtype} {list(ref.shape)}; "
                f"in {first.file.name} it is {first.dtype} {list(first.shape)}"
            )
    if rule.split == "whole" or (config is None and rule.split != "rotary"):
        return _whole(name, refs)
    if config is None:
        raise UnknownConfig(
            "nothing tells how many heads it has; put the model's config.json beside it"
        )
    if len(first.shape) != 2:
        raise UnsupportedLayout(f"{first.file}: {first.name} of shape {list(first.shape)}")
    dim = 1 if rule.split == "columns" else 0
    if rule.split == "either":
        dim = 0 if first.shape[1] == config.hidden_size else 1
    copies = _copies_of_a_head(rule, refs, config)
    size = first.shape[dim]
    pieces: list[Piece] = []
    for position, start in enumerate(range(0, len(refs), copies)):
        ref = refs[start]
        others = [(refs[r], Rank(r)) for r in range(start + 1, start + copies)]
        whole = tuple((0, n) for n in ref.shape)
        box = tuple(
            (position * size, (position + 1) * size) if d == dim else bounds
            for d, bounds in enumerate(whole)
        )
        piece = Piece(ref, Rank(start), whole, box, tuple(Copy(r, rank) for r, rank in others))
        pieces += _split_halves(piece, config.kv_channels) if rule.split == "rotary" else [piece]
    shape = tuple(n * len(refs) // copies if d == dim else n for d, n in enumerate(first.shape))
    return Assembly(name, shape, first.dtype, tuple(pieces))


def _whole(name: str, refs: list[TensorRef]) -> Assembly:
    first, *others = refs
    whole = tuple((0, n) for n in first.shape)
    copies = tuple(Copy(ref, Rank(rank)) for rank, ref in enumerate(others, 1))
    piece = Piece(first, Rank(0), whole, whole, copies)
    return Assembly(name, first.shape, first.dtype, (piece,))


def _copies_of_a_head(rule: MetaRule, refs: list[TensorRef], config: ModelConfig) -> int:
    """Return how many ranks hold each head: several do where there are more ranks than heads.

    Raises UnsupportedLayout if the ranks do not hold whole heads.
    """
    if rule.heads is None:
        return 1
    heads = config.num_attention_heads if rule.heads == "query" else config.num_query_groups
    needed, held = heads * config.kv_channels, sum(ref.shape[0] for ref in refs)
    if held % needed or len(refs) % (held // needed) or refs[0].shape[0] % config.kv_channels:
        raise UnsupportedLayout(
            f"{refs[0].file}: {refs[0].name} of shape {list(refs[0].shape)} on {len(refs)} ranks "
            f"does not hold {heads} heads of {config.kv_channels} rows"
        )
    return held // needed


def _split_halves(piece: Piece, head: int) -> Iterator[Piece]:
    """Yield two pieces for each head of `head` rows: Meta's even rows, then its odd rows.

    In this order they are Hugging Face's first and second half of the head. Raises
    UnsupportedLayout if `head` is odd.
    """
    if head % 2:
        raise UnsupportedLayout(f"{piece.ref.file}: heads of {head} rows have no halves")
    (start, stop), columns = piece.box
    for row in range(0, stop - start, head):
        for half in (0, 1):
            first = start + row + half * head // 2
            box: Box = ((first, first + head // 2), columns)
            ref = _every_second(piece.ref, row + half, head // 2)
            copies = tuple(
                replace(copy, ref=_every_second(copy.ref, row + half, head // 2))
                for copy in piece.copies
            )
            yield Piece(ref, piece.rank, ((0, head // 2), columns), box, copies)


def _every_second(ref: TensorRef, row: int, count: int) -> TensorRef:
    """Return a view of `count` rows of a matrix: every second one, from `row` on."""
    row_step, column_step = ref.stride
    offset = ref.offset + row * row_step * ITEMSIZE[ref.dtype]
    return TensorRef(
        ref.name, (count, ref.shape[1]), ref.dtype, ref.file, offset, (2 * row_step, column_step)
    )
