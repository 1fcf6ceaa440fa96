"""Folders of torch.distributed.checkpoint (DCP) that Megatron did not write.

accelerate's and the Trainer's with FSDP, torchtitan's, and those of programs that call
`torch.distributed.checkpoint.save`. Their tensors are whole and have the names that the model's
class gives them: Hugging Face's, or Meta's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard
from ckptdiff.errors import CorruptFile, NotACheckpoint
from ckptdiff.formats.dcp import Place, read_metadata, unread_notes, unread_tensors
from ckptdiff.formats.dcp_chunks import read_wholes
from ckptdiff.formats.model_files import read_model_files
from ckptdiff.formats.titan import convention_of, meta_name, params_of
from ckptdiff.formats.torch_state import MOST_NAMED
from ckptdiff.formats.unfinished import METADATA
from ckptdiff.formats.weight_files import has_weights, weights_beside
from ckptdiff.formats.wholes import addressed
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ckptdiff.formats.dcp import Described
    from ckptdiff.formats.files import Progress

NAME = "dcp"
# The keys under which programs save the weights, the surest first.
_WEIGHTS = ("model", "state_dict", "model_state_dict", "module")
# What they save beside them, in the same folder: states of the optimizer and of the run.
_BESIDE = re.compile(
    r"^(?:\w{1,20}\.)?(?:optimizers?|optims?|optim(?:izer)?_state(?:_dict|s)?|(?:lr_)?schedulers?|"
    r"lr_scheduler_state(?:_dict)?|dataloader|train_state|rng(?:_state)?s?|ema_optimizer)"
    r"(?:[_-]?\d+)?(?:\.|$)"
)
_ACCELERATE = "pytorch_model_fsdp_"  # the folder of a model, beside those of its optimizers
_STEP = re.compile(r"(?:step|checkpoint|ckpt|iter|epoch)[-_]?(\d{1,18})$")
_MAX_NAMED = 5  # of what lies beside the weights


def sniff(path: Path) -> bool:
    """Return whether `path` is a folder of DCP, or leads to the one model in it."""
    if not path.is_dir():
        return path.name == METADATA
    return (path / METADATA).exists() or _model_folder(path) is not None


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open a folder, or accelerate's folder above it, from `.metadata` and the chunks' headers.

    Raises as `opened` does.
    """
    root = path.parent if path.name == METADATA else _model_folder(path) or path
    return opened(root, *read_metadata(root), progress)


def opened(
    root: Path,
    described: Sequence[Described],
    opaque: Mapping[str, Place | None],
    progress: Progress | None,
) -> Checkpoint:
    """Return the checkpoint in a folder whose `.metadata` was read.

    It has a single shard, whose tensors are whole. Raises MissingShard, CorruptFile, UnreadableFile
    or NotACheckpoint.
    """
    chosen, beside = _weights(described)
    if not chosen:
        raise NotACheckpoint(_why_no_weights(root, described))
    found = read_wholes(root, chosen.values(), progress)
    wholes = dict(zip(chosen, found, strict=True))
    convention = convention_of(wholes)
    if convention == "meta":
        wholes = {meta_name(name): whole for name, whole in wholes.items()}
    tensors, chunks = addressed(root / METADATA, wholes)
    notes: list[str] = []
    unread = {name: place for name, place in opaque.items() if not _BESIDE.match(name)}
    notes += unread_notes(unread)
    entries = (name for name in opaque if name not in unread_tensors(unread))
    if others := _first_parts([*sorted(beside), *entries]):
        more = ", …" if len(others) > _MAX_NAMED else ""
        notes.append(f"also in {root.name}, not compared: {', '.join(others[:_MAX_NAMED])}{more}")
    ignored, said = files_beside(root, described, opaque)
    notes += said
    model = read_model_files(root, notes)
    config = model.config
    if config is not None and convention == "meta":
        config = params_of(config, notes)
    return Checkpoint(
        root=root,
        format=NAME,
        convention=convention,
        config=config,
        notes=tuple(notes),
        parallelism=Parallelism(),
        shards=(Shard(Rank(), 0, tensors),),
        files=tuple(sorted({root / r.file for t in chosen.values() for r in t.records})),
        iteration=_iteration(root),
        token_files=model.token_files,
        model_folder=model.folder,
        chunks=chunks,
        ignored=ignored,
    )


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return the tensors beside the weights by name and shape, and the entries that are none."""
    described, opaque = read_metadata(checkpoint.root)
    _, beside = _weights(described)
    found = [
        Entry(
            tensor.name,
            "tensor",
            f"{tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}",
        )
        for tensor in described
        if tensor.name in beside
    ]
    return found + [Entry(name, "opaque") for name in opaque]


def files_beside(
    root: Path, described: Iterable[Described], opaque: Mapping[str, Place | None]
) -> tuple[tuple[Path, ...], list[str]]:
    """Return the files of weights in a folder of DCP that `.metadata` does not name, and a note."""
    named = {root / record.file for tensor in described for record in tensor.records}
    named |= {root / place.file for place in opaque.values() if place is not None}
    return weights_beside(root, named)


def is_of_optimizer(name: str) -> bool:
    """Return whether a tensor of a distributed checkpoint is of an optimizer's state."""
    found = _BESIDE.match(name)
    return found is not None and "optim" in found[0]


def _weights(described: Iterable[Described]) -> tuple[dict[str, Described], set[str]]:
    """Return the weights by their names in the model, and the names of the other tensors.

    Raises CorruptFile if two have one name.
    """
    groups: dict[tuple[str, ...], dict[str, Described]] = defaultdict(dict)
    beside: set[str] = set()
    for tensor in described:
        keys = tensor.keys or (tensor.name,)
        depth = next((i + 1 for i, key in enumerate(keys[:-1]) if key in _WEIGHTS), 0)
        # Below a key of the weights a name is one that the model's class has given.
        outer = keys[:-1] if depth else (tensor.name,)
        if any(map(_BESIDE.match, outer)):
            beside.add(tensor.name)
            continue
        name = ".".join(keys[depth:])
        if name in groups[keys[:depth]]:
            raise CorruptFile(f"two tensors are called {shown(name)}")
        groups[keys[:depth]][name] = tensor
    chosen = min(groups, key=_rank_of, default=())
    for where, group in groups.items():
        if where != chosen:
            beside |= {tensor.name for tensor in group.values()}
    return groups.get(chosen, {}), beside


def _rank_of(keys: tuple[str, ...]) -> tuple[int, int]:
    """Return the place of a dict among those of which one holds the weights."""
    return (_WEIGHTS.index(keys[-1]) if keys else len(_WEIGHTS), len(keys))


def _first_parts(names: Iterable[str]) -> list[str]:
    """Return the part of each name that says what it is of, each once."""
    parts = (
        found[0].rstrip(".") if (found := _BESIDE.match(name)) else name.partition(".")[0]
        for name in names
    )
    return list(dict.fromkeys(part[:MOST_NAMED] for part in parts))


def _iteration(root: Path) -> int | None:
    """Return the step that the folder's name states, or that of the folder above it."""
    found = _STEP.search(root.name) or _STEP.search(root.absolute().parent.name)
    return int(found[1]) if found else None


def _model_folder(path: Path) -> Path | None:
    """Return accelerate's folder of the one model in a folder that has no weights of its own."""
    if not path.is_dir() or (path / METADATA).exists():
        return None
    found = [child for child in path.glob(f"{_ACCELERATE}*") if (child / METADATA).exists()]
    return found[0] if len(found) == 1 and not has_weights(path) else None


def _why_no_weights(root: Path, described: Sequence[Described]) -> str:
    """Return a sentence on a folder of DCP that holds no weights."""
    if not described:
        return f"{root}: its .metadata names no tensor"
    parts = ", ".join(_first_parts(tensor.name for tensor in described)[:_MAX_NAMED])
    beside = sorted(child.name for child in root.absolute().parent.glob(f"{_ACCELERATE}*"))
    hint = f"the weights are in {', '.join(beside)} beside it" if beside else "give the weights"
    return f"{root}: holds the state of a run ({parts}) and no weights; {hint}"
