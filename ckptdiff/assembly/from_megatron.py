"""Assemble Megatron's shards into canonical tensors: read each rule backward over the ranks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch import guess_architecture
from ckptdiff.arch.base import PADDING, column
from ckptdiff.arch.moe import is_grouped, ungrouped
from ckptdiff.arch.naming import KEY_NORM, QUERY_NORM, split_native
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.arch.templates import fill_name
from ckptdiff.assembly.by_name import NO_RULES, assemble_by_name, tensors_by_name
from ckptdiff.assembly.dcp_chunks import ViewsOfWholes
from ckptdiff.assembly.derived_buffers import derived_entry, is_derived
from ckptdiff.assembly.every_rank import RanksWithFiles
from ckptdiff.assembly.families import fitting_families, has_wide_norms
from ckptdiff.assembly.local_numbers import experts_per_rank, layer_offsets, shards_by_split_names
from ckptdiff.assembly.padded_rows import with_vocabulary
from ckptdiff.assembly.recipe import (
    Assembled,
    Assembly,
    Copy,
    LayoutError,
    Piece,
    can_be_copies,
    transposed,
    whole_box,
)
from ckptdiff.config import model as configs
from ckptdiff.config.model import SIZES
from ckptdiff.errors import CkptDiffError, MissingShard, UnsupportedLayout
from ckptdiff.formats.run_config import UNTIED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.assembly.local_numbers import SplitNames
    from ckptdiff.checkpoint import Box, Checkpoint, Shard, TensorRef
    from ckptdiff.config.model import ModelConfig


def assemble_megatron(
    checkpoint: Checkpoint, like: Assembled | None, family: Architecture | None = None
) -> Assembled:
    """Return the canonical tensors of a Megatron checkpoint.

    Each rule's shards are collected over the ranks, then the rule is read backward. `like` supplies
    what the files do not state, `family` the rules alone. Without rules, and without the sizes that
    rules need, each stored tensor is a tensor of its own. Raises UnknownConfig if a size in the
    args makes no sense.
    """
    named = shards_by_split_names(checkpoint)
    if is_rank_file(checkpoint):
        return assemble_by_name(checkpoint, named, "it has one rank's share of each tensor")
    architecture = like.architecture if like is not None else family
    keys = {key for _, names in named for (key, _), _ in names}
    is_guessed = architecture is None and (like is None or not like.checkpoint.config)
    if is_guessed:
        architecture = guess_architecture(keys, wide_qk_norm=has_wide_norms(checkpoint, named))
    if architecture is None or not any(map(architecture.rule_for, keys)):
        return assemble_by_name(checkpoint, named, NO_RULES)
    try:
        side = _assemble_by_rules(checkpoint, like, architecture, named)
        return (_by_other_rules(side, like, named) if is_guessed else None) or side
    except CkptDiffError:
        if not architecture.by_words:
            raise
        return assemble_by_name(checkpoint, named, NO_RULES)


def _by_other_rules(
    side: Assembled, like: Assembled | None, named: list[tuple[Shard, SplitNames]]
) -> Assembled | None:
    """Return the tensors by the rules of another family whose shapes fit, if the guessed do not."""
    if not any(error.kind == "layout" for error in side.errors.values()):
        return None
    others = fitting_families(side.checkpoint)
    read = (_assemble_by_rules(side.checkpoint, like, family, named) for family in others)
    return next((found for found in read if not found.errors), None)


def _assemble_by_rules(
    checkpoint: Checkpoint,
    like: Assembled | None,
    architecture: Architecture,
    named: list[tuple[Shard, SplitNames]],
) -> Assembled:
    """Return the canonical tensors by the rules of a family.

    Raises UnknownConfig if sizes that the rules need are not known, UnsupportedLayout if stages do
    not number their layers as Megatron does.
    """
    keys = {key for _, names in named for (key, _), _ in names}
    config = megatron_config(checkpoint, like)
    if config is None:
        return assemble_by_name(checkpoint, named, "nothing tells how many heads it has")
    if checkpoint.config_file is not None and UNTIED not in (checkpoint.config or {}):
        config = replace(config, tied_embeddings=not _has_head(architecture, keys))
    zero_centred = bool((checkpoint.config or {}).get("apply_layernorm_1p"))
    if any(map(is_grouped, keys)):
        named = _ungrouped(named, config.num_experts // checkpoint.parallelism.ep)
    collected, unmapped, derived = _collect(checkpoint, architecture, named, config.num_layers)
    if config.tied_embeddings:
        _join_tied(collected)
    config = with_vocabulary(config, _vocabulary_rows(collected), checkpoint, like)
    assemblies: dict[str, Assembly] = {}
    errors: dict[str, LayoutError] = {}
    views = ViewsOfWholes(checkpoint)
    with_files = RanksWithFiles({shard.rank for shard in checkpoint.shards})
    for (mapping, indices), ranks in collected.items():
        targets = [fill_name(pattern, indices) for pattern in mapping.hf]
        try:
            if mapping.zero_centred and zero_centred:
                raise UnsupportedLayout(
                    "Megatron keeps this norm less one (apply_layernorm_1p), Hugging Face keeps it "
                    "as it is; values that differ by one are not compared"
                )
            rule = mapping
            if architecture.wide_qk_norm:
                rule = _split_norm(mapping, ranks, config, checkpoint)
            found = read_backward(rule, targets, ranks, config, ranks_of(mapping, checkpoint))
            with_files.check_all_hold(mapping, ranks.values())
            assemblies |= {name: views.resolved(assembly) for name, assembly in found.items()}
        except CkptDiffError as error:
            is_missing = isinstance(error, MissingShard)
            why = LayoutError(str(error), "missing-shard" if is_missing else "layout")
            errors.update(dict.fromkeys(targets, why))
    notes: tuple[str, ...] = ()
    if architecture.by_words:

        def unruled(native: str) -> bool:
            key = split_native(native)[0]
            return architecture.rule_for(key) is None and not is_derived(key)

        notes = (f"read by other families' rules: there are none for {architecture.name}",)
        by_itself, unread = tensors_by_name(checkpoint, named, unruled)
        assemblies, errors, unmapped = {**assemblies, **by_itself}, {**errors, **unread}, set()
    elif unmapped and (like is None or like.checkpoint.convention == "megatron"):
        notes = (
            f"read by the rules of {architecture.name}, which know most of its names: it states "
            "no family, and may be of another one",
        )
    return Assembled(
        checkpoint,
        architecture,
        config,
        put_in_model_order(assemblies, architecture),
        unmapped=tuple(sorted(unmapped)),
        errors=put_in_model_order(errors, architecture),
        derived=tuple(derived_entry(ref, config, checkpoint) for ref in derived),
        notes=notes,
    )


def _split_norm(
    mapping: ParamMapping, ranks: Shards, config: ModelConfig, checkpoint: Checkpoint
) -> ParamMapping:
    """Return the rule of a norm over all heads; where ranks hold their own heads', it is split."""
    heads = {QUERY_NORM: config.num_attention_heads, KEY_NORM: config.num_query_groups}
    key, tp = split_native(fill_name(mapping.megatron, (0,)))[0], ranks_of(mapping, checkpoint)
    rows = heads.get(key, 0) * config.kv_channels
    shapes = {copy.ref.shape for copies in ranks.values() for copy in copies}
    if tp == 1 or not rows or shapes != {(rows // tp,)}:
        return mapping
    return column(mapping.megatron, mapping.hf[0], lambda _: rows, role=mapping.role)


def is_rank_file(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint is a single file, of one rank among several."""
    parallelism = checkpoint.parallelism
    ranks = parallelism.tp * parallelism.pp * parallelism.ep
    return checkpoint.files == (checkpoint.root,) and ranks > 1


Shards = dict[int, list[Copy]]  # tensor-parallel rank to the stored copies of its shard
# By rule, and by layer and expert numbers over the whole model.
Collected = dict[tuple["ParamMapping", tuple[int, ...]], Shards]


def _collect(
    checkpoint: Checkpoint,
    architecture: Architecture,
    named: list[tuple[Shard, SplitNames]],
    num_layers: int,
) -> tuple[Collected, set[str], list[TensorRef]]:
    """Group the shards by rule, and by layer and expert numbers over the whole model.

    Also return the native names that no rule knows, and the buffers that follow from the config.
    """
    offsets = layer_offsets(checkpoint, named)
    collected: Collected = {}
    unmapped: set[str] = set()
    derived: dict[str, TensorRef] = {}
    per_rank = experts_per_rank(named)
    for shard, names in named:
        rank = shard.rank
        expert_slice = checkpoint.parallelism.expert_slice(rank)
        offset = offsets[rank.pp, shard.chunk]
        for (key, indices), ref in names:
            mapping = architecture.rule_for(key)
            if mapping is None:
                if is_derived(key):
                    derived.setdefault(ref.name, ref)
                else:
                    unmapped.add(ref.name)
                continue
            numbers = list(indices)
            if mapping.of_layers:
                numbers[0] += offset
            elif mapping.of_predictions:
                numbers[0] += architecture.layers_of(mapping, num_layers).start
            shard_rank = rank.tp
            if mapping.of_experts:
                # A rank numbers its experts from 0. Where experts are split over fewer ranks than
                # the rest (ETP < TP), several ranks can hold the same shard.
                numbers[-1] += rank.ep * per_rank
                shard_rank = expert_slice
            shards = collected.setdefault((mapping, tuple(numbers)), {})
            shards.setdefault(shard_rank, []).append(Copy(ref, rank))
    return collected, unmapped, list(derived.values())


def _ungrouped(
    named: list[tuple[Shard, SplitNames]], experts: int
) -> list[tuple[Shard, SplitNames]]:
    """Replace each matrix of the legacy GroupedMLP by the single experts that it holds."""
    return [
        (
            shard,
            [
                found
                for (key, indices), ref in names
                for found in (
                    [
                        ((single, (*indices, expert)), view)
                        for single, expert, view in ungrouped(key, ref, experts)
                    ]
                    or [((key, indices), ref)]
                )
            ],
        )
        for shard, names in named
    ]


def ranks_of(mapping: ParamMapping, checkpoint: Checkpoint) -> int:
    """Return over how many ranks a tensor is split: ETP for experts, TP for the rest.

    In a distributed checkpoint every stored tensor is whole: 1.
    """
    if checkpoint.chunks is not None:
        return 1
    return checkpoint.parallelism.etp if mapping.of_experts else checkpoint.parallelism.tp


def read_backward(
    mapping: ParamMapping, targets: list[str], ranks: Shards, config: ModelConfig, tp: int
) -> dict[str, Assembly]:
    """Return the canonical tensors of one rule by name; they use every row of every shard once.

    Raises UnsupportedLayout if the shards are not what the rule says, MissingShard if a rank has
    none.
    """
    if mapping.transposed:
        # Seen as the Hugging Face side stores it, the shard is split along the other dimension.
        ranks = {r: [Copy(transposed(c.ref), c.rank) for c in ranks[r]] for r in ranks}
    missing = [rank for rank in range(tp) if rank not in ranks]
    if missing:
        raise MissingShard(
            f"TP rank {', '.join(map(str, missing))} of {tp} has no shard of it, other ranks have"
        )
    if mapping.partition is None or mapping.dim is None:
        first, *others = [copy for rank in sorted(ranks) for copy in ranks[rank]]
        _check_shapes(first, others)
        whole = whole_box(first.ref)
        piece = Piece(first.ref, first.rank, whole, whole, tuple(others))
        return {targets[0]: Assembly(targets[0], first.ref.shape, first.ref.dtype, (piece,))}
    dim = 1 - mapping.dim if mapping.transposed else mapping.dim
    if mapping.or_replicated and tp > 1 and _is_whole(ranks[0][0].ref, mapping, config):
        ranks = {0: [copy for rank in sorted(ranks) for copy in ranks[rank]]}
        tp = 1
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for rank in range(tp):
        first, *others = ranks[rank]
        _check_shapes(first, others)
        ref = first.ref
        parts = list(mapping.partition(config, tp, rank))
        wanted = sum(part.stop - part.start for part in parts)
        if len(ref.shape) <= dim or wanted != ref.shape[dim]:
            raise UnsupportedLayout(
                f"{ref.file}: {ref.name} has the shape {list(ref.shape)}; by the config it has "
                f"{wanted} along dimension {dim} at TP {tp}"
            )
        at = 0
        for part in parts:
            size = part.stop - part.start
            of = _along(ref, dim, at, at + size)
            box = _along(ref, dim, part.start, part.stop)
            pieces[part.source].append(Piece(ref, first.rank, of, box, tuple(others)))
            at += size
    padding = tuple(sorted(pieces.pop(PADDING, []), key=lambda piece: piece.box[dim]))
    return {
        target: _assembly(target, pieces[source], padding, dim)
        for source, target in enumerate(targets)
    }


def _is_whole(ref: TensorRef, mapping: ParamMapping, config: ModelConfig) -> bool:
    """Return whether a rank holds all rows of a tensor that the rule splits."""
    assert mapping.partition is not None
    assert mapping.dim is not None
    rows = sum(part.stop - part.start for part in mapping.partition(config, 1, 0))
    return len(ref.shape) > mapping.dim and ref.shape[mapping.dim] == rows


def _assembly(name: str, pieces: list[Piece], padding: tuple[Piece, ...], dim: int) -> Assembly:
    """Return the tensor that the pieces fill along `dim`.

    Raises UnsupportedLayout if their dtypes or their other dimensions differ.
    """
    pieces = sorted(pieces, key=lambda piece: piece.box[dim])
    dtypes = sorted({piece.ref.dtype for piece in pieces})
    others = {piece.box[:dim] + piece.box[dim + 1 :] for piece in pieces}
    if len(dtypes) != 1 or len(others) != 1:
        shapes = sorted({str(list(piece.ref.shape)) for piece in pieces})
        raise UnsupportedLayout(
            f"its shards do not fit: dtypes {', '.join(dtypes)}, shapes {', '.join(shapes)}"
        )
    end = 0
    for piece in pieces:
        start, stop = piece.box[dim]
        assert start == end, f"{name}: rows {end} to {start} are in no slice"
        end = stop
    shape = tuple(end if d == dim else bounds[1] for d, bounds in enumerate(pieces[0].box))
    return Assembly(name, shape, dtypes[0], tuple(pieces), padding)


def _check_shapes(first: Copy, others: Iterable[Copy]) -> None:
    """Raise UnsupportedLayout if a copy has another shape or dtype than its original."""
    for other in others:
        if not can_be_copies(other.ref, first.ref):
            raise UnsupportedLayout(
                f"{other.ref.file}: {other.ref.name} is {other.ref.dtype} {list(other.ref.shape)}; "
                f"its copy in {first.ref.file} is {first.ref.dtype} {list(first.ref.shape)}"
            )


def _join_tied(collected: Collected) -> None:
    """Make the head of the last stage one more copy of the tied embedding."""
    by_role = {mapping.role: (mapping, indices) for mapping, indices in collected}
    if "head" in by_role and "embedding" in by_role:
        embedding = collected[by_role["embedding"]]
        for rank, copies in collected.pop(by_role["head"]).items():
            embedding.setdefault(rank, []).extend(copies)


def _has_head(architecture: Architecture, keys: Iterable[str]) -> bool:
    """Return whether one of the keys is that of an output matrix."""
    rules = map(architecture.rule_for, keys)
    return any(rule is not None and rule.role == "head" for rule in rules)


def megatron_config(checkpoint: Checkpoint, like: Assembled | None) -> ModelConfig | None:
    """Return the config from the checkpoint's own args, else the other side's, or None.

    YAML that leaves out a size on which the layout depends tells too little. Raises UnknownConfig
    if a size makes no sense.
    """
    args = checkpoint.config
    if args is not None and (checkpoint.config_file is None or args.keys() >= SIZES):
        return configs.from_megatron(args)
    return like.config if like is not None else None


def _vocabulary_rows(collected: Collected) -> dict[str, int]:
    """Return how many rows embedding and head have over all ranks, by Hugging Face name."""
    return {
        mapping.hf[0]: sum(c[0].ref.shape[0] for c in ranks.values() if c[0].ref.shape)
        for (mapping, _), ranks in collected.items()
        if mapping.of_vocabulary
    }


def _along(ref: TensorRef, dim: int, start: int, stop: int) -> Box:
    """Return the box of a stored tensor that is `start:stop` along `dim`, whole along the rest."""
    whole = whole_box(ref)
    return (*whole[:dim], (start, stop), *whole[dim + 1 :])
