"""The folder that a conversion writes into, and the steps in which it takes the target's name."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.conversion.partial.entries import (
    delete,
    exchanged,
    prune,
    state_of,
    sync_folder,
    sync_folders,
)
from ckptdiff.conversion.partial.journal import CompleteFile, PartialJournal
from ckptdiff.errors import BadArgument, CkptDiffError, UnreadableFile
from ckptdiff.formats import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.conversion.partial.entries import State
    from ckptdiff.conversion.partial.journal import PlacedLoss

_NEW, _OLD = "new", "old"  # folders beside the journal


def partial_of(out: Path) -> Path:
    """Return `OUT.partial`; where OUT is a link, beside the folder that it leads to."""
    real = Path(os.path.realpath(out))
    return real.with_name(f"{real.name}.partial")


def has_become(out: Path) -> bool:
    """Return whether OUT is what a run made of it that was killed before it had tidied up."""
    journal = PartialJournal(partial_of(out) / JOURNAL)
    try:
        journal.read()
    except OSError:
        return False
    return journal.is_whole and _holds(Path(os.path.realpath(out)), journal.files)


def notes_on(out: Path) -> list[str]:
    """Return what to tell of OUT before a conversion begins: links, and what a killed run left."""
    partial = partial_of(out)
    notes = []
    if out.is_symlink():
        notes.append(f"{out} is a link: {os.path.realpath(out)} is what is written")
    if os.path.lexists(partial / _OLD) and not os.path.lexists(os.path.realpath(out)):
        notes.append(
            f"a run was killed while it replaced {out}: what that was lies in {partial / _OLD}, "
            "and gets its name again"
        )
    elif os.path.lexists(partial / JOURNAL):
        notes.append(f"{partial}: files of the same conversion that are complete in it are kept")
    return notes


class PartialFolder:
    """`OUT.partial`: the journal, and in `new` the files, until `new` itself becomes OUT.

    `new` is never there without the journal, by which `open_checkpoint` refuses both. It takes the
    name OUT in one step, or changes names with what OUT was; only where the file system cannot do
    that, OUT lies in `old` for a moment. So whenever a run is killed, OUT is what it was, or the
    whole new folder, or is put back by the next run. A run of the same plan keeps complete files;
    any other plan deletes them. A context manager: it holds a lock on the journal.
    """

    def __init__(
        self, out: Path, plan: str, files: Iterable[str], *, overwrite: bool = False
    ) -> None:
        """`plan` is a fingerprint: equal only if every byte of `files` is.

        `overwrite`: OUT may hold something, which is deleted when the new folder is whole.
        """
        self.out = Path(os.path.realpath(out))
        self.folder = self._new = partial_of(out) / _NEW
        self.complete: Mapping[str, CompleteFile] = {}
        self.has_become_out = False  # an earlier run was killed behind that step
        self._root = partial_of(out)
        self._old = self._root / _OLD
        self._plan = plan
        self._files = frozenset(files)
        self._overwrite = overwrite
        self._journal = PartialJournal(self._root / JOURNAL)

    def __enter__(self) -> PartialFolder:
        """Create the folder, or reopen the one of a killed run.

        Raises BadArgument if another run is writing, something is in the way, or OUT is not empty
        and not to be overwritten; UnreadableFile if nothing can be written.
        """
        try:
            self._open()
        except OSError as error:
            self.__exit__()
            raise UnreadableFile(f"{self._root}: cannot be written ({error.strerror})") from error
        except CkptDiffError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def note(self, file: str, state: State, losses: Iterable[PlacedLoss] = ()) -> None:
        """Record in the journal that a file is complete and synced. Raises UnreadableFile."""
        try:
            self._journal.add(CompleteFile(file, state, tuple(losses)))
        except OSError as error:
            raise UnreadableFile(
                f"{self._journal.file}: cannot be written ({error.strerror})"
            ) from error
        self.complete = self._journal.files

    def remove(self) -> None:
        """Delete the folder with everything in it, as far as that can be done, but never OUT."""
        if self.has_become_out:
            return
        with suppress(OSError):
            if os.path.lexists(self._old) and not os.path.lexists(self.out):
                self._old.rename(self.out)
            for entry in self._entries():
                with suppress(OSError):
                    delete(entry)
            if not self._entries():
                self._clear()

    def finish(self) -> None:
        """Let the new folder become OUT, and delete what OUT was before. Raises UnreadableFile."""
        if not self.has_become_out:
            try:
                sync_folders(self._new)
                self._journal.end()
                self._become_out()
            except OSError as error:
                taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
                why = "it is not empty any more" if taken else error.strerror
                raise UnreadableFile(
                    f"{self._new}: is complete, but cannot become {self.out} ({why})",
                    hint="overwrite" if taken else None,
                ) from error
        try:
            sync_folder(self.out.parent)
        except OSError as error:
            raise UnreadableFile(
                f"{self.out}: is complete and has its name, but that is not safe on the disk yet "
                f"({error.strerror})"
            ) from error
        had_old = self._entries() != []
        try:
            self._clear()
        except OSError as error:
            what = f"what it was before cannot be deleted from {self._root}"
            if not had_old:
                what = f"{self._root}, which is of no use now, cannot be deleted"
            raise UnreadableFile(
                f"{self.out}: is complete and has its name, but {what} ({error.strerror}); "
                "delete it yourself"
            ) from error

    def _open(self) -> None:
        """Lock the journal, put back what a killed run was replacing, find complete files."""
        if self._root.is_symlink():
            raise BadArgument(f"{self._root}: is a link, which is not followed; remove it")
        self._root.mkdir(parents=True, exist_ok=True)
        found = {entry.name for entry in self._root.iterdir()}
        if found and JOURNAL not in found:
            raise BadArgument(
                f"{self._root}: is in the way, and no unfinished conversion; rename or remove it"
            )
        self._journal.open()
        same = self._journal.plan == self._plan
        whole = self._journal.is_whole and self._files <= self._journal.files.keys()
        if whole and _holds(self.out, self._journal.files):
            self.has_become_out = same
        else:
            self._restore()
        if self.has_become_out:
            self.folder, self.complete = self.out, self._journal.files
            return
        if not self._overwrite and _is_filled(self.out):
            if not found:
                self._clear()
            raise BadArgument(f"{self.out}: is not empty", hint="overwrite")
        self._keep_complete() if same else self._begin()

    def _begin(self) -> None:
        """Empty the folder, and begin its journal."""
        for entry in self._entries():
            delete(entry)
        try:
            self._journal.begin(self._plan)
            self._new.mkdir()
        except BaseException:  # ctrl+c, or no room
            self.remove()
            raise

    def _keep_complete(self) -> None:
        """Delete all that is not complete: other files, links, files that are not as noted."""
        for entry in self._entries():
            if entry != self._new or entry.is_symlink() or not entry.is_dir():
                delete(entry)
        self._new.mkdir(exist_ok=True)
        noted = self._journal.files
        kept = prune(self._new, {p: f.state for p, f in noted.items() if p in self._files})
        if self._journal.is_whole or len(kept) < len(noted):
            self._journal.begin(self._plan, [noted[path] for path in kept])
        self.complete = self._journal.files

    def _restore(self) -> None:
        """Give OUT its name again, if a run was killed between two renames. Raises BadArgument."""
        if not os.path.lexists(self._old):
            return
        if os.path.lexists(self.out):
            raise BadArgument(
                f"{self._old}: is what {self.out} was before a run was killed that replaced it, "
                f"and {self.out} is there again; move one of them away"
            )
        self._old.rename(self.out)
        sync_folder(self.out.parent)

    def _become_out(self) -> None:
        """Rename the new folder; raises OSError, and OUT is what it was."""
        try:
            self._new.rename(self.out)  # and an empty folder that has this name is gone
        except OSError as error:
            taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not taken or not self._overwrite:
                raise
        else:
            return
        if exchanged(self._new, self.out):
            return
        self.out.rename(self._old)
        try:
            self._new.rename(self.out)
        except BaseException:
            self._old.rename(self.out)
            raise

    def _entries(self) -> list[Path]:
        """Return what lies beside the journal."""
        return [entry for entry in self._root.iterdir() if entry != self._journal.file]

    def _clear(self) -> None:
        """Delete the folder, the journal last: it says what all the rest is. Raises OSError."""
        for entry in self._entries():
            delete(entry)
        self._journal.file.unlink()
        self._root.rmdir()


def _holds(folder: Path, files: Mapping[str, CompleteFile]) -> bool:
    """Return whether a folder holds these files, as they were noted."""
    return all(state_of(folder / path) == file.state for path, file in files.items())


def _is_filled(out: Path) -> bool:
    return out.is_dir() and any(out.iterdir())
