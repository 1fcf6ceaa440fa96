"""Hold files against the hashes that were saved with them, in workers, beside a comparison."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import available_cpus
from ckptdiff.formats.common_state import COMMON
from ckptdiff.formats.dcp import BACKEND
from ckptdiff.formats.integrity import INTEGRITY, hash_of
from ckptdiff.formats.stamps import Unchanged
from ckptdiff.formats.unfinished import METADATA
from ckptdiff.results import FileCheck, Finding, SavedHashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.comparison.verdict import DiffSummary

_HEADERS = (METADATA, BACKEND, COMMON)  # read whole before any weight is
OTHER_BYTES = "its bytes are not those that were saved: copy it again"
MAX_FINDINGS = 8  # of a side
GONE = "is not there, though it was saved with the others: copy it again"


class Hashing:
    """Hashes the files of which something is read, if it is known what their hashes were.

    Each file is one job. No more of them are under way than half of the workers while something is
    beside them.
    """

    def __init__(
        self,
        executor: Callable[[], Executor],
        a: Assembled,
        b: Assembled | None = None,
        *,
        names: Iterable[str],
    ) -> None:
        """Take one side or two, and the names of the tensors that are read."""
        names = list(names)
        sides: tuple[tuple[Literal["A", "B"], Assembled | None], ...] = (("A", a), ("B", b))
        self._executor = executor
        self._sides = [
            (letter, side.checkpoint, _read_of(side, names))
            for letter, side in sides
            if side is not None and side.checkpoint.hashes
        ]
        files = (file for _, _, read in self._sides for file in read)
        self._todo = list(dict.fromkeys(files))
        self._found: dict[Path, str | CkptDiffError] = {}
        self._under_way: dict[Future[str], Path] = {}
        self._is_alone = False
        self.go_on()

    def go_on(self) -> None:
        """Take what is done, and submit what there is room for. Does not wait."""
        for future in [future for future in self._under_way if future.done()]:
            self._take(future)
        while self._todo:
            executor = self._executor()
            workers = getattr(executor, "jobs", available_cpus())
            if len(self._under_way) >= (workers if self._is_alone else max(1, workers // 2)):
                return
            file = self._todo.pop(0)
            try:
                self._under_way[executor.submit(hash_of, file)] = file
            except RuntimeError:  # the pool was shut down: the program is ending
                self._todo.clear()

    def results(self) -> tuple[SavedHashes, ...]:
        """Wait for all files; return what was found of each side that has hashes."""
        self._is_alone = True
        self.go_on()
        while self._under_way:
            wait(self._under_way, return_when=FIRST_COMPLETED)
            self.go_on()
        return tuple(self._of_side(*side) for side in self._sides)

    def close(self) -> None:
        """Cancel jobs that have not started. Those that have only read: nothing waits for them."""
        self._todo.clear()
        for future in self._under_way:
            future.cancel()

    def _take(self, future: Future[str]) -> None:
        file = self._under_way.pop(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, CkptDiffError):
            raise error
        self._found[file] = future.result() if error is None else error

    def _of_side(
        self, letter: Literal["A", "B"], checkpoint: Checkpoint, read: list[Path]
    ) -> SavedHashes:
        changed = Unchanged(checkpoint).trouble(map(str, read))
        trouble = []
        for file in read:
            found = self._found.get(file)
            if found is not None and found != checkpoint.hashes[file]:
                why = OTHER_BYTES if isinstance(found, str) else str(found)
                trouble.append(FileCheck(checkpoint.relative(file), changed.get(str(file), why)))
        unread = checkpoint.hashes.keys() - set(read)
        gone = sorted(file for file in unread if not file.exists())
        trouble += [FileCheck(checkpoint.relative(file), GONE) for file in gone]
        hashed = sum(file in self._found for file in read)
        root = str(checkpoint.root)
        return SavedHashes(letter, root, hashed, len(checkpoint.hashes), tuple(trouble))


def with_hashes(summary: DiffSummary, hashes: tuple[SavedHashes, ...]) -> DiffSummary:
    """Return a summary with what is known of the files, which may make its verdict `differ`."""
    if not any(side.trouble for side in hashes):
        return replace(summary, hashes=hashes)
    return replace(
        summary,
        verdict="trouble" if summary.verdict == "trouble" else "differ",
        files_status="damaged",
        hashes=hashes,
        findings=(*damage(hashes), *summary.findings),
    )


def damage(hashes: Iterable[SavedHashes]) -> tuple[Finding, ...]:
    """Return a finding for each file that is not what was saved; many of a side share the last."""
    found = []
    for side in hashes:
        named = side.trouble[:MAX_FINDINGS]
        found += [_finding(side, f"{one.file}: {one.why}") for one in named]
        if others := side.trouble[MAX_FINDINGS:]:
            names = ", ".join(one.file for one in others[:MAX_FINDINGS])
            found.append(
                _finding(side, f"{len(others)} more files are not what was saved: {names}")
            )
    return tuple(found)


def _finding(side: SavedHashes, title: str) -> Finding:
    evidence = f"{side.letter}'s {INTEGRITY} has the SHA-256 that the file had when it was saved"
    letter = side.letter  # the title says what to do
    return Finding("DAMAGED", "fault", title, evidence=evidence, letter=letter, is_lost=False)


def _read_of(side: Assembled, names: Iterable[str]) -> list[Path]:
    """Return the files that have a hash and of which something is read, in the order of reading."""
    hashes = side.checkpoint.hashes
    if not hashes:
        return []
    found = dict.fromkeys(side.checkpoint.root / name for name in _HEADERS)
    for name in names:
        if (tensor := side.tensors.get(name)) is not None:
            found |= {piece.ref.file: None for piece in (*tensor.pieces, *tensor.padding)}
    return [file for file in found if file in hashes and file.exists()]
