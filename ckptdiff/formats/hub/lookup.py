"""Where a path or the id of a model lies: one function for every command and the screen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptdiff.errors import NotACheckpoint, NotInstalled, UnreadableFile
from ckptdiff.extras import load, require, why_not
from ckptdiff.formats.files import MAX_NAME, no_file
from ckptdiff.formats.hub.layout import MAIN, PREFIX, SNAPSHOTS, entries, refs_of, some

_PART = r"[\w-](?:[\w.-]{0,94}[\w-])?"
_ID = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
_REF = re.compile(r"\w[\w.+-]*")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".distcp")  # are no ids


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model by its id, at a revision: `org/name`, `org/name@v1.0`, `gpt2`."""

    id: str
    revision: str | None  # a branch, a tag or a commit; None: `main`

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


def parse(path: Path) -> Wanted | None:
    """Return the model that a path may be the id of; None if it can be none."""
    model, at, revision = str(path).partition("@")
    is_id = _ID.fullmatch(model) and "--" not in model and ".." not in model
    if not is_id or model.endswith(_FILES) or (at and not _is_revision(revision)):
        return None
    return Wanted(model, revision if at else None)


def located(path: Path) -> Path:
    """Return where a path lies: a path that exists is itself, else it may be a model's id.

    It is looked for in the hub's cache, by huggingface_hub's own rules; nothing is fetched. Raises
    NotACheckpoint if it is neither, NotInstalled if the library is there and does not work.
    """
    if path.exists():
        return path
    if path.is_symlink():
        raise NotACheckpoint(f"{path}: {no_file(path)}")
    nothing = f"{path}: there is no such file or folder"
    model = parse(path)
    if model is None:
        raise NotACheckpoint(nothing)
    if missing := why_not("hub"):
        raise NotACheckpoint(f"{nothing}; {missing}" if "/" in model.id else nothing)
    try:
        found = in_cache(model)
    except NotInstalled as error:
        raise NotInstalled(f"{nothing}; {error}") from error
    if found is None:
        raise NotACheckpoint(f"{nothing}, and {_why_not_there(model)}", hint="download")
    return found


def absolute(path: Path) -> Path:
    """Return an absolute path; the id of a model, which is no path, as it is."""
    return path if parse(path) is not None and not path.exists() else path.absolute()


def in_cache(model: Wanted) -> Path | None:
    """Return the snapshot of a model in the hub's cache; None if it is not there.

    Raises NotInstalled if the library does not work, UnreadableFile.
    """
    hub = library()
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # No pattern matches no file: whether all are there is seen when it is opened.
        folder = hub.snapshot_download(
            model.id, revision=model.revision, local_files_only=True, allow_patterns=[]
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    except OSError as error:
        where = error.filename or cache_folder()
        raise UnreadableFile(f"{where}: cannot be read ({error.strerror or error})") from error
    return Path(folder)


def library() -> Any:
    """Return huggingface_hub, which then writes no warnings. Raises NotInstalled."""
    require("hub")
    load("hub", "huggingface_hub")
    import huggingface_hub

    hub: Any = huggingface_hub
    hub.logging.set_verbosity_error()
    return hub


def cache_folder() -> Path:
    """Return the folder of the hub's cache, as the environment says."""
    library()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _why_not_there(model: Wanted) -> str:
    """Return what was looked for in vain, and where."""
    cache = cache_folder()
    home = cache / f"{PREFIX}{model.id.replace('/', '--')}"
    held = sorted(commit.name for commit in entries(home / SNAPSHOTS))
    wanted = model.revision or MAIN
    # What was looked for is not named as what is there: a reference with a line break is none.
    refs = {ref: of for ref, of in refs_of(home).items() if of in held and ref != wanted}
    known = [*refs, *(commit for commit in held if commit not in refs.values())]
    if known:
        return f"the hub's cache in {cache} holds {model.id} not at {wanted}, but at {some(known)}"
    return f"no model of this id is in the hub's cache in {cache}"


def _is_revision(text: str) -> bool:
    """Return whether a text can be a branch, a tag or a commit, and no way out of a folder."""
    parts = text.split("/")
    return len(text) <= MAX_NAME and all(_REF.fullmatch(p) and ".." not in p for p in parts)
