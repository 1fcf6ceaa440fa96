"""Plan the files of a Megatron checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Parallelism, Rank
from ckptdiff.config.megatron_args import megatron_args, parallel_args
from ckptdiff.conversion.bridge_config import bridge_texts
from ckptdiff.conversion.casting import main_dtype
from ckptdiff.conversion.completeness import has_predictions, rows_of_vocabulary
from ckptdiff.conversion.naming_scheme import scheme_of
from ckptdiff.conversion.refused_sizes import check_limits, planned_of
from ckptdiff.conversion.stages import stages_of, uneven_ends
from ckptdiff.conversion.storable import check_storable
from ckptdiff.conversion.torch_dist_files import distributed_files
from ckptdiff.conversion.torch_files import rank_files
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import megatron
from ckptdiff.resharding.to_megatron import shard
from ckptdiff.text import plural

if TYPE_CHECKING:
    import argparse

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.output_file import OutputFile
    from ckptdiff.conversion.plan import Target


def megatron_files(
    side: Assembled, target: Target, notes: list[str], cannot: list[str]
) -> tuple[
    tuple[OutputFile, ...], tuple[tuple[str, bytes], ...], tuple[str, ...], argparse.Namespace
]:
    """Return the files, the texts, the names left out, and the args of a Megatron checkpoint.

    Adds to `notes`, and to `cannot` what the program that it is for cannot compute.
    """
    assert side.architecture is not None
    check_storable(side)
    if side.config is None:
        raise UnsupportedLayout(f"{side.checkpoint.root}: its config says too little to cut it")
    size = target.parallelism
    names, grouped = scheme_of(side, target, notes, cannot)
    rows = rows_of_vocabulary(side)
    block = target.vocab_divisible_by * size.tp
    padded = -(-rows // block) * block
    if padded > rows:
        added = plural(padded - rows, "row")
        notes.append(f"padded vocabulary {rows} -> {padded}: {added}, copies of the last")
    elif had := max((t.padding_rows for t in side.tensors.values()), default=0):
        notes.append(f"padded vocabulary {rows + had} -> {rows}: {plural(had, 'row')} dropped")
    config = replace(side.config, vocab_size=rows, padded_vocab_size=padded)
    restated = megatron_args(
        side,
        size,
        names=names,
        dtype=main_dtype(side),
        ckpt_format="torch" if target.to == "megatron" else "torch_dist",
        padded_vocab_size=padded,
        make_vocab_size_divisible_by=target.vocab_divisible_by,
        grouped_experts=grouped,
        version=target.version,
    )
    args = restated.settings
    notes += restated.notes
    cannot += restated.cannot
    if getattr(args, "mtp_num_layers", None) and not has_predictions(side):
        args.mtp_num_layers = None
        notes.append("the config counts prediction layers, the files hold none: args count none")
    check_limits(planned_of(target, names, config, vars(args)))
    stages = stages_of(config.num_layers, target)
    vars(args).update(parallel_args(size, vars(args), *uneven_ends(stages, size.pp)))
    saved = side.checkpoint.iteration
    iteration = 1 if saved is None or side.checkpoint.convention == "hf" else saved
    texts: tuple[tuple[str, bytes], ...] = ()
    if target.to == "torch_dist":
        whole = Parallelism()
        sharded = shard(side, config, whole, [config.num_layers], "mcore")
        files, texts = distributed_files(
            sharded.models[Rank(), 0],
            side.architecture,
            config,
            args,
            iteration=iteration,
            names=names,
            max_size=target.max_shard_size,
        )
        if target.run_config:
            if padded > rows:
                notes.append(
                    "Megatron-Bridge exports padding rows of the vocabulary as tokens: pad to a "
                    "multiple of 1 to have none"
                )
            folder = megatron.iteration_name(iteration)
            family = side.architecture.name
            # `.metadata` stays the last: without it there is no checkpoint.
            texts = (*bridge_texts(family, vars(args), folder, iteration), *texts)
    else:
        sharded = shard(side, config, size, stages, names, grouped=grouped, version=target.version)
        files = tuple(rank_files(sharded, size, args, iteration, names))
    tracker = "release" if iteration == "release" else str(iteration)
    tensors = plural(len(side.tensors) - len(sharded.left), "tensor")
    how = (
        "each whole: they load at any parallelism"
        if target.to == "torch_dist"
        else f"layers by stage: {' '.join(map(str, stages))}"
    )
    notes.append(f"{tensors} in {plural(len(files), 'file')}; {how}")
    return files, (*texts, (megatron.TRACKER, tracker.encode())), sharded.left, args
