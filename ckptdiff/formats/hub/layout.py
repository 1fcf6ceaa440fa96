"""The folders of the hub's cache: which snapshot is meant, and what it lacks.

CACHE/models--ORG--NAME/refs/main          the commit that `main` was when it was looked up
CACHE/models--ORG--NAME/snapshots/COMMIT/  links, named as the files of the model, to
CACHE/models--ORG--NAME/blobs/ETAG         what they hold, or, since version 1.32, links to
CACHE/blobs/HH/HASH                        what several models hold
CACHE/models--ORG--NAME/trees/COMMIT.json  the files of the commit, fetched or not
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import HubModel
from ckptdiff.errors import CkptDiffError, MissingShard, NotACheckpoint
from ckptdiff.formats.files import is_file_name, read_small
from ckptdiff.formats.hub.wanted import wanted, weights_of
from ckptdiff.formats.json_files import read_object
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PREFIX = "models--"
SNAPSHOTS = "snapshots"
BLOBS = "blobs"
MAIN = "main"
_OTHERS = {"datasets--": "a data set", "spaces--": "a space", "kernels--": "a kernel"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REF = 255  # bytes of a file that names a commit
_MAX_ENTRIES = 10_000  # of a folder that are looked at
_MAX_NAMED = 5  # of what a sentence names


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of the cache that holds a model as it was at a commit."""

    folder: Path

    @property
    def model(self) -> HubModel:
        """What it is a snapshot of."""
        return HubModel(id_of(self._home.name), self.folder.name)

    @property
    def cache(self) -> Path:
        """The folder that holds all models."""
        return self._home.parent

    @property
    def _home(self) -> Path:
        return self.folder.parent.parent

    def names(self) -> set[str]:
        """Return the names of the files, in folders too, and of links to nothing."""
        found: set[str] = set()
        for folder, _, names in islice(os.walk(self.folder), _MAX_ENTRIES):
            inner = Path(folder).relative_to(self.folder)
            found |= {(inner / name).as_posix() for name in names}
        return found

    def promised(self) -> frozenset[str]:
        """Return the files that the commit has; none if that is not known."""
        with suppress(CkptDiffError):
            files = read_object(self._home / "trees" / f"{self.folder.name}.json").get("files")
            if isinstance(files, dict):
                return frozenset(f for f in files if all(map(is_file_name, f.split("/"))))
        return frozenset()

    def lacking(self) -> list[str]:
        """Return the files for a comparison that are not there, as far as that can be known."""
        names, promised = self.names(), self.promised()
        known = promised or names
        # Where weights of one kind were fetched, those of another are not missed.
        kinds = {Path(name).suffix for name in weights_of(names)}
        if kinds:
            known = known - {n for n in weights_of(known) if Path(n).suffix not in kinds}
        # The list of the commit makes it needless to read what may be a large index.
        indexed = () if promised else self._indexed(names)
        return [name for name in wanted(known, indexed) if not (self.folder / name).exists()]

    def is_whole(self) -> bool:
        """Return whether it has weights, and nothing is known to be missing."""
        return bool(self.held_weights()) and not self.lacking()

    def held_weights(self) -> list[str]:
        """Return the files of weights that are there."""
        return [name for name in weights_of(self.names()) if (self.folder / name).exists()]

    def others(self) -> Iterator[Snapshot]:
        """Yield the snapshots of the same model at other commits."""
        for folder in sorted(entries(self.folder.parent))[:_MAX_NAMED]:
            if folder != self.folder:
                yield Snapshot(folder)

    def has_at_top(self, path: Path) -> bool:
        """Return whether a path in it is the snapshot itself or a file of its first level."""
        return Path(os.path.realpath(path if path.is_dir() else path.parent)) == self.folder

    def unfinished(self) -> int:
        """Return the number of downloads that did not finish."""
        return sum(entry.name.endswith(".incomplete") for entry in entries(self._home / BLOBS))

    def _indexed(self, names: Collection[str]) -> set[str]:
        """Return the files that the indices name that are there."""
        found: set[str] = set()
        for name in names:
            if name.endswith(".index.json"):
                with suppress(CkptDiffError):
                    files = read_object(self.folder / name).get("weight_map")
                    if isinstance(files, dict):
                        found |= {f for f in files.values() if isinstance(f, str)}
        return {name for name in found if is_file_name(name)}


def snapshot_of(path: Path) -> Snapshot | None:
    """Return the snapshot that a path is, or is a file of; None if it is in none.

    Links to the snapshot are followed, as people put such into their folders.
    """
    folder = Path(os.path.realpath(path if path.is_dir() else path.parent))
    for inner in (folder, *folder.parents):
        if inner.parent.name == SNAPSHOTS and inner.parent.parent.name.startswith(PREFIX):
            return Snapshot(inner)
    return None


def id_of(name: str) -> str:
    """Return the id of the model that a folder of the cache is named after."""
    return name.removeprefix(PREFIX).replace("--", "/")


def followed(path: Path) -> Path:
    """Return the snapshot that a model's folder of the cache stands for; any other path as it is.

    It is what `refs/main` names, else the only one. Raises NotACheckpoint if several are there,
    MissingShard if none is, or not the one that `refs/main` names.
    """
    folder = path
    if path.name == SNAPSHOTS:
        folder = path.parent
    home = Path(os.path.realpath(folder))
    if not home.name.startswith(PREFIX) or not (home / SNAPSHOTS).is_dir():
        return path
    held = sorted(e.name for e in entries(home / SNAPSHOTS) if e.is_dir())
    main = read_ref(home, MAIN)
    if main is not None:
        if main in held:
            return folder / SNAPSHOTS / main
        others = f"; here are {_listed(home, held)}" if held else ""
        raise MissingShard(
            f"{path}: refs/main names {main}, of which no file was fetched{others}",
            hint="fetch-rest",
        )
    if len(held) == 1:
        return folder / SNAPSHOTS / held[0]
    if not held:
        raise MissingShard(f"{path}: holds no snapshot: no file of {id_of(home.name)} was fetched")
    raise NotACheckpoint(
        f"{path}: holds {len(held)} snapshots and no refs/main: {_listed(home, held)}. Give one of "
        "the folders in snapshots"
    )


def read_ref(home: Path, name: str) -> str | None:
    """Return the commit that a branch or tag was when it was looked up; None if it is not known."""
    with suppress(CkptDiffError, UnicodeDecodeError):
        commit = read_small(home / "refs" / name, _MAX_REF).decode().strip()
        if _COMMIT.fullmatch(commit):
            return commit
    return None


def refs_of(home: Path) -> dict[str, str]:
    """Return the commits that branches and tags were, by their names."""
    found: dict[str, str] = {}
    refs = home / "refs"
    for folder, _, names in islice(os.walk(refs), _MAX_ENTRIES):
        for name in sorted(names):
            ref = str((Path(folder) / name).relative_to(refs))
            commit = read_ref(home, ref)
            if commit is not None:
                found[ref] = commit
    return found


def _listed(home: Path, held: Collection[str]) -> str:
    """Return the names of snapshots, each with the branches and tags that it was."""
    refs = refs_of(home)
    words = []
    for commit in held:
        known = ", ".join(name for name, of in refs.items() if of == commit)
        words.append(f"{commit} ({known})" if known else commit)
    return some(words)


def why_nothing(path: Path) -> str | None:
    """Return a sentence if a folder is the hub's cache, or of it and no model; None for others."""
    home = Path(os.path.realpath(path))
    for prefix, what in _OTHERS.items():
        if home.name.startswith(prefix) and (home / SNAPSHOTS).is_dir():
            return f"{path}: is {what} in the hub's cache, and no model"
    if home.name.startswith(PREFIX) and (home / BLOBS).is_dir():
        return f"{path}: holds no snapshot: no file of {id_of(home.name)} was fetched whole"
    for folder in (path, path / "hub"):
        held = models_in(folder)
        if held:
            return (
                f"{folder}: is the hub's cache, which holds {plural(len(held), 'model')}: "
                f"{some(held)}. Give the id of one, or its folder {PREFIX}…"
            )
    return None


def models_in(cache: Path) -> list[str]:
    """Return the ids of the models of which a cache holds anything."""
    found = [e.name for e in entries(cache) if e.name.startswith(PREFIX)]
    return sorted(id_of(name) for name in found if (cache / name / SNAPSHOTS).is_dir())


def why_partial(snapshot: Snapshot) -> str | None:
    """Return a sentence if weights or the config of a snapshot were not fetched; None if all were.

    Where no more is known than that there are no weights, it says that.
    """
    lacking = snapshot.lacking()
    model = snapshot.model
    head = f"{snapshot.folder}: {model.id} at this commit was not fetched whole"
    waiting = snapshot.unfinished()
    tail = f"; {plural(waiting, 'download')} of it did not finish" if waiting else ""
    if whole := [other.folder.name for other in snapshot.others() if other.is_whole()]:
        tail += f"; {some(whole)} beside it {'is' if len(whole) == 1 else 'are'} whole"
    if lacking:
        are = "is" if len(lacking) == 1 else "are"
        return f"{head}: {plural(len(lacking), 'file')} {are} missing: {some(lacking)}{tail}"
    if not snapshot.held_weights():
        names = sorted(snapshot.names())
        holds = f"{some(names)} and no weights" if names else "nothing"
        return f"{head}: it holds {holds}{tail}"
    return None


def some(names: Collection[str]) -> str:
    """Return the first of many names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(list(names)[:_MAX_NAMED])}{more}"


def entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, up to a bound; nothing if it cannot be read."""
    with suppress(OSError):
        yield from islice(folder.iterdir(), _MAX_ENTRIES)
