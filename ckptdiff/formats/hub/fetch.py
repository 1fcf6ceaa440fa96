"""Fetch a model from the hub into its cache, if that is asked for: weights, config, tokenizer."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError, NotACheckpoint, UnreadableFile
from ckptdiff.formats.hub.layout import (
    BLOBS,
    MAIN,
    PREFIX,
    SNAPSHOTS,
    followed,
    id_of,
    read_ref,
    snapshot_of,
    some,
)
from ckptdiff.formats.hub.links import is_store
from ckptdiff.formats.hub.lookup import Wanted, cache_folder, in_cache, library, parse
from ckptdiff.formats.hub.wanted import wanted, weights_of
from ckptdiff.text import format_bytes, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@dataclass(frozen=True, slots=True)
class Fetching:
    """What is to be fetched of a model."""

    model: Wanted
    cache: Path
    files: tuple[str, ...]  # that are of use; those that are there are not fetched again
    nbytes: int  # of the others


def fetching(path: Path) -> Fetching | None:
    """Return what has to be fetched for a path; None if all of it is there, or it is no model's.

    That is a model's id, or a snapshot or model's folder of the cache. Raises NotInstalled, and
    what `_trouble` makes of the library's errors.
    """
    if path.exists() or path.is_symlink():
        folder = path
    else:
        model = parse(path)
        if model is None:
            return None
        library()
        found = in_cache(model)
        if found is None:
            return _listed(model, cache_folder())
        folder = found
    try:
        folder = followed(folder)
    except CkptDiffError:  # `refs/main` names what is not there
        home = Path(os.path.realpath(path if path.name != SNAPSHOTS else path.parent))
        main = read_ref(home, MAIN)
        return None if main is None else _listed(Wanted(id_of(home.name), main), home.parent)
    snapshot = snapshot_of(folder)
    if snapshot is None:
        return None
    has_none = snapshot.has_at_top(folder) and not snapshot.held_weights()
    if not has_none and not snapshot.lacking():
        return None
    return _listed(Wanted(snapshot.model.id, snapshot.model.commit), snapshot.cache)


def fetch(what: Fetching, progress: Callable[[int], None]) -> None:
    """Fetch it; `progress` is called with the bytes fetched so far, from several threads.

    Raises UnreadableFile, NotACheckpoint or BadArgument.
    """
    free = _free_bytes(what.cache)
    # What other models share is not known before it is fetched.
    if free is not None and free < what.nbytes and not is_store(what.cache / BLOBS):
        raise UnreadableFile(
            f"{what.model}: {format_bytes(what.nbytes)} are to be fetched into {what.cache}, where "
            f"{format_bytes(free)} are free; free some, or set HF_HUB_CACHE to another folder"
        )
    try:
        with _interruptible() as stop:
            library().snapshot_download(
                what.model.id,
                revision=what.model.revision,
                cache_dir=what.cache,
                allow_patterns=[glob.escape(name) for name in what.files],
                tqdm_class=_bar(progress, stop),
            )
    except Exception as error:  # whatever its libraries of the network raise
        raise _trouble(error, what.model, what.cache) from error


def _listed(model: Wanted, cache: Path) -> Fetching:
    """Ask the hub which files a model has. Raises NotACheckpoint if it has no weights."""
    try:
        api = library().HfApi()
        info = api.model_info(model.id, revision=model.revision, files_metadata=True)
    except Exception as error:
        raise _trouble(error, model, cache) from error
    files = {file.rfilename: file for file in info.siblings or ()}
    names = wanted(files)
    if not weights_of(names):
        holds = some(sorted(files)) or "nothing"
        raise NotACheckpoint(f"{model}: has no weights on the hub that can be read: {holds}")
    blobs = cache / f"{PREFIX}{model.id.replace('/', '--')}" / BLOBS
    lacking = [files[name] for name in names if not (blobs / _blob_of(files[name])).exists()]
    return Fetching(model, cache, tuple(names), sum(file.size or 0 for file in lacking))


def _blob_of(file: Any) -> str:
    """Return the name of the blob that the cache has of a file."""
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def _trouble(error: Exception, model: Wanted, cache: Path) -> CkptDiffError:
    """Return in one sentence what kept the library from fetching, and what to do."""
    library()
    from huggingface_hub import constants, errors

    at = constants.ENDPOINT
    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return UnreadableFile(
                f"{model}: is open to those only who have accepted its terms. Accept them at "
                f"{at}/{model.id} and log in: hf auth login"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return NotACheckpoint(f"{model}: the model has no such revision on {at}")
        if isinstance(cause, errors.RepositoryNotFoundError):
            return NotACheckpoint(
                f"{model}: no such model is on {at}, or it is private. Check the id, or log in: "
                "hf auth login"
            )
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return BadArgument(f"{model}: HF_HUB_OFFLINE is set, so nothing is fetched: unset it")
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return UnreadableFile(
                f"{cache}: is full. Free some of it, or set HF_HUB_CACHE to another folder; what "
                "was fetched is kept"
            )
        if isinstance(cause, PermissionError | FileNotFoundError | NotADirectoryError):
            return UnreadableFile(
                f"{cause.filename or cache}: cannot be written ({cause.strerror})"
            )
        if isinstance(cause, json.JSONDecodeError):
            return UnreadableFile(
                f"{model}: {at} answers with something else than a hub does: see if a proxy or "
                "a page to log in stands between, or HF_ENDPOINT is wrong"
            )
    first = next(iter(str(error).splitlines()), "")
    why = shown(f"{type(error).__name__}: {first}", 200)
    return UnreadableFile(f"{model}: cannot be fetched from {at} ({why}); try again later")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was made of, the first one last; each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _free_bytes(folder: Path) -> int | None:
    """Return the bytes free for a folder that may not be there; None if that cannot be known."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


class _StoppedError(Exception):
    """Ends a thread of the library in the middle of a file, which it then fetches anew."""


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield what is set at Ctrl-C: the library's threads would fetch all of their files first."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        yield stop
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(progress: Callable[[int], None], stop: threading.Event) -> Any:
    """Return a class that the library takes for its progress bars, which draw nothing here.

    It has one for what comes from the network and one for what is written: the further one counts.
    Where `stop` is set, each ends its thread.
    """
    base: Any = library().utils.tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if stop.is_set():
                raise _StoppedError
            self.n += n or 0
            if self._counts:
                progress(int(self.n))

    return Bar
