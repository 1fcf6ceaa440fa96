"""The checkpoint formats that ckptdiff opens. A new one is a module here and an entry below."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MissingShard,
    NotACheckpoint,
    UnreadableFile,
)
from ckptdiff.formats import hf, megatron, meta, plain_dcp, torch_dist
from ckptdiff.formats.adapter import adapter_config, beside_a_model
from ckptdiff.formats.gc_pause import uncollected
from ckptdiff.formats.hub.layout import followed, snapshot_of, some, why_nothing, why_partial
from ckptdiff.formats.hub.lookup import located
from ckptdiff.formats.no_checkpoint import why_no_checkpoint
from ckptdiff.formats.ranks import deepspeed, fsdp, safetensors_parts
from ckptdiff.formats.stamps import noting_stamps, stamps_of
from ckptdiff.formats.unfinished import dead_saves, why_unfinished

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.checkpoint import Checkpoint, Entry
    from ckptdiff.formats.files import Progress
    from ckptdiff.formats.hub.layout import Snapshot


class Format(Protocol):
    """What the module of a format offers."""

    NAME: str

    def sniff(self, path: Path) -> bool: ...
    def open(self, path: Path, progress: Progress | None = None) -> Checkpoint: ...
    def read_entries(self, checkpoint: Checkpoint) -> list[Entry]: ...


_MAX_CHILDREN = 200  # entries of a folder that are checked for being checkpoints
_MAX_NAMED = 12  # of the checkpoints found there

FORMATS: tuple[Format, ...] = (
    deepspeed,
    torch_dist,
    plain_dcp,
    megatron,
    meta,
    fsdp,
    safetensors_parts,
    hf,
)
JOURNAL = ".ckptdiff-unfinished"  # in a folder that a conversion is still writing


@uncollected()
def open_checkpoint(
    path: Path, *, progress: Progress | None = None, unfinished: bool = False
) -> Checkpoint:
    """Open a folder of any format, an iteration folder or a single file, from its headers alone.

    A path that does not exist and may be the id of a model is looked up in the hub's cache.
    `progress` is called with the number of files read and of all files. A folder that a conversion
    has not finished is refused unless `unfinished` is set. Raises NotACheckpoint, or another
    CkptDiffError that says what is missing, damaged or unreadable.
    """
    try:
        path = followed(located(path))
        if not unfinished:
            _refuse_unfinished(path)
        fsdp.refuse_root(path)
        snapshot = snapshot_of(path)
        if snapshot is not None:
            return _open_snapshot(path, snapshot, progress)
        opened = _open(path, progress)
    except CkptDiffError:
        raise
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror})") from error
    if opened is None:
        raise _nothing_in(path)
    return opened


def open_adapter(path: Path) -> Checkpoint:
    """Open an adapter, also where the model lies in the same folder. Raises as open_checkpoint."""
    return open_checkpoint(beside_a_model(followed(located(path))))


def _nothing_in(path: Path) -> NotACheckpoint:
    """Return the error of a path that no format opens."""
    found = _checkpoints_inside(path)
    if found and why_unfinished(path) is None:
        dead = dead_saves(path)
        died = f"; {', '.join(dead)}: never finished" if dead else ""
        return NotACheckpoint(
            f"{path}: is no checkpoint itself, but holds some: {', '.join(found)}{died}. "
            "Give one of them"
        )
    return NotACheckpoint(why_nothing(path) or why_no_checkpoint(path))


def _open(path: Path, progress: Progress | None) -> Checkpoint | None:
    """Open a path in its format; None if it has none that is known."""
    with noting_stamps() as seen:
        for module in FORMATS:
            if module.sniff(path):
                opened = module.open(path, progress)
                config = adapter_config(opened)
                stamps = stamps_of(opened.files, seen)
                return replace(opened, stamps=stamps, adapter_config=config)
    return None


def _open_snapshot(path: Path, snapshot: Snapshot, progress: Progress | None) -> Checkpoint:
    """Open a snapshot of the hub's cache, or a file of it.

    Raises MissingShard if not all of it was fetched that it takes.
    """
    is_top = snapshot.has_at_top(path)
    try:
        opened = _open(path, progress)
        if opened is None:
            raise _nothing_in(path)
    except (MissingShard, NotACheckpoint) as error:
        lacks = isinstance(error, MissingShard) or not _checkpoints_inside(path)
        if is_top and lacks and (why := why_partial(snapshot)):
            raise MissingShard(why, hint="fetch-rest") from error
        raise
    except CorruptFile as error:
        # What is in the cache is taken for whole: fetching leaves it as it is.
        words = f"hf cache rm model/{snapshot.model.id} removes the model, to be fetched again"
        raise CorruptFile(f"{error}; {words}", hint=error.hint) from error
    model, lacking = snapshot.model, snapshot.lacking() if is_top else []
    notes = [f"{model.id} of the hub, commit {model.commit}"]
    notes += [f"not fetched of this commit: {some(lacking)}"] if lacking else []
    return replace(opened, hub=model, notes=(*notes, *opened.notes))


def _refuse_unfinished(path: Path) -> None:
    for folder in (path, *path.resolve().parents[:4]):
        if (folder / JOURNAL).exists():
            raise NotACheckpoint(
                f"{folder}: a conversion has not finished here; run its command again to go on"
            )


def open_first(path: Path) -> Checkpoint | None:
    """Open the first file of many, to show its names while the others are read.

    None if there are few files, or if it cannot be read: `open_checkpoint` reports why.
    """
    try:
        return hf.open_first(followed(located(path)))
    except (CkptDiffError, OSError):
        return None


def _checkpoints_inside(path: Path) -> list[str]:
    """Return the names of the first folders in a folder that look like checkpoints."""
    found: list[str] = []
    with suppress(OSError):
        for child in sorted(path.iterdir())[:_MAX_CHILDREN]:
            with suppress(OSError, CkptDiffError):
                if child.is_dir() and any(module.sniff(child) for module in FORMATS):
                    found.append(child.name)
    return found[:_MAX_NAMED] + (["and more"] if len(found) > _MAX_NAMED else [])


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return everything in a checkpoint that is not a weight: args, optimizer, random state.

    This reads the headers again and completely: opening skips what a comparison does not need.
    """
    return next(m for m in FORMATS if checkpoint.format == m.NAME).read_entries(checkpoint)
