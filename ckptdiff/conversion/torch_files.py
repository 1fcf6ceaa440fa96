"""The files of Megatron's `torch` format: one for each rank, with its shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.arch.modules import legacy_path, with_states
from ckptdiff.conversion.output_file import OutputFile
from ckptdiff.formats.megatron import CHECKPOINT_VERSION, WEIGHT_FILES, iteration_name
from ckptdiff.formats.pickling import Blank
from ckptdiff.formats.torch_save import lay_out

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.checkpoint import Parallelism, Rank
    from ckptdiff.resharding.to_megatron import Sharded


def rank_files(
    sharded: Sharded,
    parallelism: Parallelism,
    args: Namespace,
    iteration: int | str,
    names: Names,
) -> Iterator[OutputFile]:
    """Yield the file of every rank, with one model for each of its virtual chunks."""
    for rank in parallelism.ranks():
        tree: dict[str, Any] = {
            "args": args,
            "checkpoint_version": CHECKPOINT_VERSION,
            "iteration": iteration if isinstance(iteration, int) else 0,
        }
        recipes: dict[int, Assembly] = {}
        for chunk in range(parallelism.vpp):
            tensors = sharded.models[rank, chunk]
            last = (rank.pp, chunk) == (parallelism.pp - 1, parallelism.vpp - 1)
            model: dict[str, Any] = {}
            for name in with_states(tensors, last=last, engine=names == "te"):
                recipe = tensors.get(name)
                model[name] = None
                if recipe is not None:
                    model[name] = blank = Blank(recipe.dtype, recipe.shape)
                    recipes[id(blank)] = recipe
            key = "model" if parallelism.vpp == 1 else f"model{chunk}"
            tree[key] = _nested(model) if names == "legacy" else model
        (file, *_) = WEIGHT_FILES
        layout, blanks = lay_out(tree, file.removesuffix(".pt"))
        path = f"{iteration_name(iteration)}/{_folder(rank, parallelism)}/{file}"
        yield OutputFile(path, layout, tuple(recipes[id(blank)] for blank in blanks))


def _folder(rank: Rank, size: Parallelism) -> str:
    """Return the name of a rank's folder: the PP and EP rank only where their size is above 1."""
    stage = f"_{rank.pp:03d}" if size.pp > 1 else ""
    return f"mp_rank_{rank.tp:02d}{stage}" + (f"_{rank.ep:03d}" if size.ep > 1 else "")


def _nested(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict of the legacy model: nested by module, the encoder flat."""
    tree: dict[str, Any] = {}
    for name, value in model.items():
        *path, last = legacy_path(name)
        node = tree
        for word in path:
            node = node.setdefault(word, {})
        node[last] = value
    return tree
