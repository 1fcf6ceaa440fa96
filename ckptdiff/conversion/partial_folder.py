"""The folder that a conversion writes into, renamed when it is complete."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO

from ckptdiff.errors import BadArgument, UnreadableFile
from ckptdiff.formats import JOURNAL


class PartialFolder:
    """`OUT.partial`, with a journal of the plan and of the files that are complete.

    A killed run leaves it behind. The next run of the same plan keeps its complete files; any other
    plan empties it. A context manager: it holds a lock on the journal.
    """

    def __init__(self, out: Path, plan: str) -> None:
        """`plan` is a fingerprint: equal only if every byte to be written is."""
        self.out = Path(os.path.realpath(out))
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        self.complete: set[str] = set()
        self._plan = plan
        self._journal: IO[str] | None = None

    def __enter__(self) -> PartialFolder:
        """Create the folder, or reopen the one of a killed run.

        Raises BadArgument if another run is writing, UnreadableFile if nothing can be written.
        """
        try:
            self._open()
        except OSError as error:
            self.__exit__()
            raise UnreadableFile(f"{self.folder}: cannot be written ({error.strerror})") from error
        except BadArgument:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    def note(self, file: str) -> None:
        """Record in the journal that a file is complete and synced to disk."""
        assert self._journal is not None
        self._journal.write(f"{json.dumps(file)}\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self.complete.add(file)

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        """Rename the folder to `OUT` and delete what `OUT` was before. Raises UnreadableFile."""
        try:
            (self.folder / JOURNAL).unlink()
            for folder in (self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())):
                _sync(folder)
            old = None
            if self.out.exists():
                old = self.out.with_name(f"{self.out.name}.replaced-{os.getpid()}")
                self.out.rename(old)
            try:
                self.folder.rename(self.out)
            except OSError:
                if old is not None:
                    old.rename(self.out)
                raise
            _sync(self.out.parent)
            if old is not None:
                shutil.rmtree(old)
        except OSError as error:
            raise UnreadableFile(
                f"{self.folder}: is complete, but cannot become {self.out} ({error.strerror})"
            ) from error

    def _open(self) -> None:
        """Lock the journal; read it if it is of this plan, else empty the folder."""
        journal = self.folder / JOURNAL
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()) and not journal.exists():
            raise BadArgument(
                f"{self.folder}: is in the way, and no unfinished conversion; rename or remove it"
            )
        self._journal = journal.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadArgument(f"{self.folder}: another conversion is writing here") from error
        self._journal.seek(0)
        plan, *files = self._journal.read().split("\n")
        if plan == self._plan:
            # The last line may be incomplete: the run was killed while it wrote.
            self.complete = {json.loads(line) for line in files[:-1]}
            return
        for child in self.folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            elif child != journal:
                child.unlink()
        self._journal.truncate(0)
        self._journal.write(f"{self._plan}\n")
        self._journal.flush()


def _sync(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
