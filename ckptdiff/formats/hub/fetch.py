"""Fetch a model from the hub into its cache, if that is asked for: weights, config, tokenizer."""

from __future__ import annotations

import errno
import glob
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError, NotACheckpoint, UnreadableFile
from ckptdiff.formats.hub.layout import followed, snapshot_of, some, why_partial
from ckptdiff.formats.hub.lookup import Wanted, cache_folder, in_cache, library, parse
from ckptdiff.formats.hub.wanted import wanted, weights_of
from ckptdiff.text import format_bytes, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fetching:
    """What is to be fetched of a model."""

    model: Wanted
    cache: Path
    files: Mapping[str, int]  # bytes of each

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())


def fetching(path: Path) -> Fetching | None:
    """Return what has to be fetched for a path; None if all of it is there, or it is no model's.

    That is a model's id, or a snapshot or model's folder of the cache. Raises NotInstalled, and
    what `_trouble` makes of the library's errors.
    """
    model = None if path.exists() or path.is_symlink() else parse(path)
    try:
        folder = path if model is None else in_cache(model) if library() else None
        snapshot = None if folder is None else snapshot_of(followed(folder))
    except CkptDiffError:
        snapshot = None
    if snapshot is not None:
        if not snapshot.lacking() and why_partial(snapshot) is None:
            return None
        return _listed(Wanted(snapshot.model.id, snapshot.model.commit), snapshot.cache)
    return None if model is None else _listed(model, cache_folder())


def fetch(what: Fetching, progress: Callable[[int], None]) -> None:
    """Fetch it; `progress` is called with the bytes fetched so far, from several threads.

    What is there is not fetched again. Raises UnreadableFile, NotACheckpoint or BadArgument.
    """
    free = _free_bytes(what.cache)
    if free is not None and free < what.nbytes:
        raise UnreadableFile(
            f"{what.model}: {format_bytes(what.nbytes)} are to be fetched into {what.cache}, where "
            f"{format_bytes(free)} are free; free some, or set HF_HUB_CACHE to another folder"
        )
    try:
        library().snapshot_download(
            what.model.id,
            revision=what.model.revision,
            cache_dir=what.cache,
            allow_patterns=[glob.escape(name) for name in what.files],
            tqdm_class=_bar(progress),
        )
    except Exception as error:  # whatever its libraries of the network raise
        raise _trouble(error, what.model, what.cache) from error


def _listed(model: Wanted, cache: Path) -> Fetching:
    """Ask the hub which files a model has. Raises NotACheckpoint if it has no weights."""
    try:
        info = library().HfApi().model_info(model.id, revision=model.revision, files_metadata=True)
    except Exception as error:
        raise _trouble(error, model, cache) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = wanted(sizes)
    if not weights_of(names):
        holds = some(sorted(sizes)) or "nothing"
        raise NotACheckpoint(f"{model}: has no weights on the hub that can be read: {holds}")
    return Fetching(model, cache, {name: sizes[name] for name in names})


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


def _bar(progress: Callable[[int], None]) -> Any:
    """Return a class that the library takes for its progress bars, which draw nothing here.

    It has one for what comes from the network and one for what is written: the further one counts.
    """
    base: Any = library().utils.tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts:
                progress(int(self.n))

    return Bar
