"""DeepSpeed checkpoints: `latest` and a folder such as `global_step1000` of each rank's files.

Without ZeRO-3 the weights are whole in `mp_rank_00_model_states.pt`, and the files of the optimizer
hold them once more in fp32. With ZeRO-3 they are there in fp32 alone, cut over the ranks. A
universal checkpoint has a folder for each weight, in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard
from ckptdiff.errors import (
    CorruptFile,
    MissingShard,
    MixedShards,
    NotACheckpoint,
    UnsupportedLayout,
)
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.files import each_file
from ckptdiff.formats.model_files import read_model_files
from ckptdiff.formats.ranks import deepspeed_files as names
from ckptdiff.formats.ranks.deepspeed_flat import (
    MASTER,
    MOMENTS,
    PartsLeft,
    check_alike,
    fragments,
    put_together,
    read_rank,
)
from ckptdiff.formats.ranks.deepspeed_state import (
    as_stored,
    check_experts,
    read_expert,
    read_model,
    read_universal,
    renamed,
)
from ckptdiff.formats.wholes import Whole, addressed
from ckptdiff.text import plural, shown

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.checkpoint import Chunk, TensorRef
    from ckptdiff.formats.files import Progress
    from ckptdiff.formats.ranks.deepspeed_files import Files
    from ckptdiff.formats.ranks.deepspeed_flat import RankPartitions
    from ckptdiff.formats.ranks.deepspeed_state import ModelState

NAME = "deepspeed"
_MAX_NAMED = 3
_NOT_LISTED = ("param_slice_mappings", "param_alignment_paddings")  # a line for each parameter


@dataclass(slots=True)
class Held:
    """The weights of a checkpoint, where they lie."""

    tensors: dict[str, TensorRef] = field(default_factory=dict)
    chunks: dict[TensorRef, tuple[Chunk, ...]] | None = None  # None: each lies in one piece
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    steps: int | None = None


def sniff(path: Path) -> bool:
    """Return whether `path` holds files of DeepSpeed, names a folder that does, or is one."""
    if not path.is_dir():
        return names.is_rank_file(path) or names.is_model_file(path)
    return names.folder_of(path) is not None


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder of DeepSpeed, or the one above it, from the headers of its files.

    Raises MissingShard, MixedShards, CorruptFile, UnsupportedLayout, NotACheckpoint or
    UnreadableFile.
    """
    if names.is_rank_file(path):
        raise NotACheckpoint(
            f"{path}: is one rank's part of a DeepSpeed checkpoint. Give the folder it is in"
        )
    root = names.folder_of(path) or path.parent
    names.check_there(root)
    files = names.files_of(root)
    names.check_readable(files)
    if files.is_universal:
        held = _universal(files, progress)
    elif files.parts:
        held = _partitioned(files, progress)
    else:
        held = _plain(files)
    beside = read_model_files(root, held.notes)
    step = names.step_of(root)
    if step is not None and held.steps not in (None, step):
        held.notes.append(f"its model is of step {held.steps}, by the file, and not of {step}")
    return Checkpoint(
        root=root,
        format=NAME,
        convention="hf",
        config=beside.config,
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, held.tensors),),
        files=tuple(dict.fromkeys(held.files)),
        iteration=held.steps if step is None else step,
        token_files=beside.token_files,
        notes=tuple(held.notes),
        chunks=held.chunks,
        model_folder=beside.folder,
    )


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return what lies beside the weights, and each rank's optimizer state as it is stored."""
    files = names.files_of(checkpoint.root)
    found: list[Entry] = []
    for file in (*files.models.values(), *files.parts.values()):
        for key, value in read_model(file).beside().items():
            found += tree.entries(key, value)
        break  # the others say the same
    for rank, file in sorted(files.optimizers.items()):
        index = torch_zip.read_index(file)
        state = index.get("optimizer_state_dict") if isinstance(index, dict) else None
        for key, value in (state if isinstance(state, dict) else {}).items():
            if key not in _NOT_LISTED:
                found += tree.entries(f"optimizer.{rank}.{tree.text_of(key)}", value)
    return found


def read_optimizer(checkpoint: Checkpoint) -> tuple[dict[str, Checkpoint], list[str]]:
    """Return the state of the optimizer as checkpoints with the weights' names, by its kind.

    And in words what cannot be given to the weights. Raises CorruptFile, MissingShard, MixedShards,
    UnsupportedLayout or UnreadableFile.
    """
    files = names.files_of(checkpoint.root)
    found: dict[str, dict[str, Whole]] = {}
    if files.is_universal:
        model = _first_model(files)
        for kind, word in ((MASTER, names.FP32), *((moment, moment) for moment in MOMENTS)):
            refs = read_universal(
                files.folder, None if model is None else model.trained, None, word
            )
            found[kind] = {
                name: as_stored(name, ref)
                for name, ref in refs.items()
                if model is None or name in model.trained  # and no buffer
            }
    elif files.experts:
        return {}, ["the optimizer of a model whose experts are split over other ranks"]
    elif files.optimizers:
        model, ranks = _model_of(files), _rank_states(files, None)
        left = PartsLeft.of([rank.file for rank in ranks])
        for kind in (MASTER, *MOMENTS):
            if all(kind in rank.kinds for rank in ranks):
                found[kind] = put_together(model.groups, ranks, kind, left)
    elif _model_of(files).tree.get("optimizer"):
        return {}, ["an optimizer of DeepSpeed without ZeRO, which numbers the parameters"]
    kinds: dict[str, Checkpoint] = {}
    for kind, wholes in found.items():
        tensors, chunks = addressed(checkpoint.root, wholes)
        shards = (Shard(Rank(), 0, tensors),)
        if tensors:
            kinds[kind] = replace(checkpoint, shards=shards, chunks=chunks)
    return kinds, []


def has_optimizer(checkpoint: Checkpoint) -> bool:
    """Return whether files beside the weights hold them in fp32. Only names are looked at."""
    files = names.files_of(checkpoint.root)
    return files.is_universal or (bool(files.optimizers) and not files.experts)


# ── without ZeRO-3: the weights are whole ────────────────────────────────────────────────────────


def _plain(files: Files) -> Held:
    """Return the weights of the model's file, and those of its experts, in files of their own."""
    model = _model_of(files)
    if not model.module:
        raise CorruptFile(f"{model.file}: its entry `module` holds no tensor")
    tensors = dict(model.module)
    check_experts(files.folder, files.experts, model.tree)
    for file, index in each_file([file for _, file in sorted(files.experts.items())], read_expert):
        if repeated := tensors.keys() & index.keys():
            raise MixedShards(f"{file}: {shown(min(repeated))} is in another file too")
        tensors |= index
    notes = []
    ranks = model.size("dp_world_size")
    lacking = ranks - len(files.optimizers)
    if files.optimizers and lacking > 0:
        notes.append(
            f"{lacking} of {shown(ranks)} ranks' files *_optim_states.pt are not here: the weights "
            "are whole, the state of the optimizer is not"
        )
    return Held(tensors, None, [model.file, *files.experts.values()], notes, model.steps)


# ── ZeRO-3: the weights are cut over the ranks ───────────────────────────────────────────────────


def _partitioned(files: Files, progress: Progress | None) -> Held:
    """Return the weights that the ranks hold in fp32, and what the model's file holds beside."""
    if not files.optimizers:
        raise MissingShard(
            f"{files.folder}: has no files *_optim_states.pt, in which ZeRO-3 keeps the weights. "
            "Copy them beside the others"
        )
    ranks = _rank_states(files, progress)
    names.check_ranks(files.folder, files.parts, len(ranks), "*_model_states.pt")
    if ranks[0].stage < 3:
        raise MixedShards(
            f"{ranks[0].file}: is of a save without ZeRO-3, and {files.parts[0].name} of one with "
            "it; move the files of one away"
        )
    model = _model_of(files)
    if model.tree.get("ds_autoep_layers"):
        raise UnsupportedLayout(
            f"{files.folder}: its experts are split over other ranks than the rest. Convert it "
            "with DeepSpeed's ds_to_universal, and give the folder that it writes"
        )
    left = PartsLeft.of([rank.file for rank in ranks])
    wholes = put_together(model.groups, ranks, MASTER, left)
    read = [rank.file for rank in ranks]
    wholes |= _frozen(_models_of_ranks(files, model), read, left)
    wholes |= {n: as_stored(n, ref) for n, ref in model.filled.items() if n not in wholes}
    of = plural(len(ranks), "rank")
    note = f"its weights are put together from DeepSpeed's fp32 partitions of {of}"
    return _held(files, model, wholes, read, note)


def _models_of_ranks(files: Files, model: ModelState) -> list[ModelState]:
    """Return what the model's file of each rank says.

    Raises MixedShards unless they are of the save that the first one is of.
    """
    found = []
    for file, other in each_file([file for _, file in sorted(files.parts.items())], read_model):
        if _save_of(other) != _save_of(model):
            raise MixedShards(
                f"{file}: is of another save than {model.file.name}: of step {other.steps}, and "
                f"that of step {model.steps}, or with other parameters"
            )
        found.append(other)
    return found


def _save_of(model: ModelState) -> tuple[object, ...]:
    return model.steps, model.groups, model.frozen


def _frozen(models: list[ModelState], read: list[Path], left: PartsLeft) -> dict[str, Whole]:
    """Return the parameters that were not trained, of which each rank has a part.

    Adds the files that hold them to `read`.
    """
    if not models[0].frozen:
        return {}
    files = [model.file for model in models]
    read += files
    held = [model.fragments for model in models]
    return {whole.native: whole for whole in fragments(models[0].frozen, held, files, left)}


def _rank_states(files: Files, progress: Progress | None) -> list[RankPartitions]:
    """Return what the ranks' files of optimizer states hold. Raises if one is missing, or more."""
    ordered = [file for _, file in sorted(files.optimizers.items())]
    ranks = [found for _, found in each_file(ordered, read_rank, progress)]
    check_alike(ranks)
    names.check_ranks(files.folder, files.optimizers, ranks[0].ranks, "*_optim_states.pt")
    return ranks


# ── universal: a folder for each weight ──────────────────────────────────────────────────────────


def _universal(files: Files, progress: Progress | None) -> Held:
    """Return the weights in folders of their own, and from the model's file what has none."""
    model = _first_model(files)
    trained = None if model is None else model.trained
    refs = read_universal(files.folder, trained, progress)
    wholes = {name: as_stored(name, ref) for name, ref in refs.items()}
    read = [ref.file for ref in refs.values()]
    note = "its weights are those of a universal checkpoint of DeepSpeed, in fp32"
    if model is None:
        return _held(files, None, wholes, read, note)
    is_whole = not files.tensor_ranks - {0} and _model_ranks(model) == 1
    # Of what was not trained there is a copy in fp32 at best, and DeepSpeed loads the model's.
    filled = {n: r for n, r in model.filled.items() if n not in wholes or n not in model.trained}
    if is_whole:
        wholes |= {name: as_stored(name, ref) for name, ref in filled.items()}
        filled = {}
    filled = {name: ref for name, ref in filled.items() if name not in wholes}
    if files.parts and model.frozen:
        names.check_ranks(
            files.folder, files.parts, model.size("dp_world_size"), "*_model_states.pt"
        )
        left = PartsLeft.of(list(files.parts.values()))
        wholes |= _frozen(_models_of_ranks(files, model), read, left)
    lacking = [name for name in model.trained if name not in wholes]
    if lacking:
        raise MissingShard(
            f"{files.folder / names.UNIVERSAL}: {len(lacking)} of {len(model.trained)} weights are "
            f"missing: {_listed(lacking)}. Copy their folders too"
        )
    held = _held(files, model, wholes, read, note)
    if filled:
        held.notes.append(
            f"not read, since they have no folder of their own and ranks share them elsewhere: "
            f"{_listed(list(filled))}"
        )
    return held


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


def _held(
    files: Files, model: ModelState | None, wholes: dict[str, Whole], read: list[Path], note: str
) -> Held:
    """Return what was found, with the parameters that are another one, and with notes."""
    notes = [note]
    if not wholes:
        raise NotACheckpoint(f"{files.folder}: holds no weights")
    if model is not None:
        read = [model.file, *read]
        shared = model.shared
        for name, other in shared.items():
            if other in wholes and name not in wholes:
                wholes[name] = renamed(name, wholes[other])
        if lacking := [name for name in model.module if name not in wholes]:
            notes.append(
                f"{plural(len(lacking), 'name')} of the model without weights here: "
                f"{_listed(lacking)}"
            )
    tensors, chunks = addressed(files.folder, wholes)
    return Held(tensors, chunks, read, notes, None if model is None else model.steps)


def _first_model(files: Files) -> ModelState | None:
    """Return what the file of the model's states says, or that of the first rank that is there."""
    found = files.models or files.parts
    return read_model(found[min(found)]) if found else None


def _model_of(files: Files) -> ModelState:
    """Return what the model's file says.

    Raises MissingShard, or UnsupportedLayout if tensors are split over other ranks.
    """
    model = _first_model(files)
    if model is None or 0 not in (files.models or files.parts):
        raise MissingShard(
            f"{files.folder}: mp_rank_00_model_states.pt is missing, which holds the model. Copy "
            "it beside the others"
        )
    if (ranks := _model_ranks(model)) > 1:
        names.refuse_tensor_ranks(files.folder, ranks)
    return model


def _model_ranks(model: ModelState) -> int:
    """Return over how many ranks each tensor, or the layers, were split."""
    tensor = model.size("mp_world_size", "tp_degree")
    return max(tensor, model.size("", "pp_degree"))


def _listed(found: list[str]) -> str:
    more = ", …" if len(found) > _MAX_NAMED else ""
    return ", ".join(map(shown, found[:_MAX_NAMED])) + more
