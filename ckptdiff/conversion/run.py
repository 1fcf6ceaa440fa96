"""Write a planned conversion: spans of tensors in worker processes, then verify and rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff import __version__
from ckptdiff.assembly.compose import PADDING
from ckptdiff.assembly.spans import spans_of
from ckptdiff.comparison.saved_hashes import Hashing
from ckptdiff.conversion.partial.entries import State, create, finish, state_in
from ckptdiff.conversion.partial.folder import PartialFolder
from ckptdiff.conversion.verify import compare_with_source
from ckptdiff.errors import (
    CkptDiffError,
    CorruptFile,
    MixedShards,
    UnreadableFile,
    Unverified,
    WorkerDied,
)
from ckptdiff.executor import JobsUnderWay
from ckptdiff.formats.stamps import Unchanged
from ckptdiff.results import Loss
from ckptdiff.text import format_bytes, plural

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ckptdiff.conversion.output_file import OutputFile
    from ckptdiff.conversion.partial.journal import PlacedLoss
    from ckptdiff.conversion.plan import Conversion
    from ckptdiff.kernels.views import Span
    from ckptdiff.results import TensorDiff

JOB_BYTES = 32 << 20  # that one job writes: cancelling waits for the jobs that run
JOB_SPANS = 256  # of small tensors, in one job
_LAYOUT = 2  # of `OUT.partial`: one that was written otherwise is begun anew


@dataclass(frozen=True, slots=True)
class Written:
    """A job has written a part of a file."""

    file: str  # relative to the output folder
    nbytes: int
    complete: bool = False  # the whole file is synced to disk


@dataclass(frozen=True, slots=True)
class Lost:
    """What the cast of one tensor lost."""

    name: str  # canonical
    loss: Loss


def convert(
    conversion: Conversion, executor: Executor, *, verify: bool = True
) -> Generator[Written | Lost | TensorDiff, None, None]:
    """Write a plan into `OUT.partial`, compare that with the source, and rename it to `OUT`.

    Yields Written as parts are written, then Lost for each cast that lost something, then the
    TensorDiff of each tensor. Complete files of a killed run of the same plan are kept. Closing the
    generator stops and removes everything. Raises BadArgument if another run is writing,
    UnreadableFile if the disk is full or refuses, MixedShards if the source changed meanwhile,
    Unverified if a tensor is not as planned, CorruptFile if the source is not what was saved.
    """
    before = _file_states(conversion)
    Unchanged(conversion.source.checkpoint).check()
    fingerprint = _fingerprint(conversion, before)
    names = [*(file.path for file in conversion.files), *(name for name, _ in conversion.texts)]
    with PartialFolder(
        conversion.out, fingerprint, names, overwrite=conversion.target.overwrite
    ) as target:
        run = _Conversion(conversion, executor, target)
        source = conversion.source
        hashed = source.tensors if verify else ()
        hashing = Hashing(lambda: executor, source, names=hashed)
        try:
            _check_space(conversion, target)
            for event in run.results():
                hashing.go_on()
                yield event
            _check_unchanged(conversion, before, "read")
            for name, content in conversion.texts:
                _write_text(target, name, content)
            losses = run.losses()
            yield from (Lost(name, loss) for name, loss in losses.items())
            if verify:
                yield from _verified(conversion, target, losses, executor, before)
                _check_hashes(hashing)
            target.finish()
        except (UnreadableFile, WorkerDied):
            # Complete files are kept: the disk may have room again, a network mount may come back.
            run.under_way.stop()
            hashing.close()
            if not target.complete:
                target.remove()
            try:
                _check_unchanged(conversion, before, "read")
            except MixedShards:
                target.remove()
                raise
            raise
        except BaseException:
            run.under_way.stop()
            hashing.close()
            target.remove()
            raise


def _check_hashes(hashing: Hashing) -> None:
    """Raise CorruptFile if a file of the source is not what it was when it was saved."""
    for side in hashing.results():
        for bad in side.trouble:
            more = f"; so it is with {plural(len(side.trouble) - 1, 'other file')}"
            raise CorruptFile(
                f"{side.root}: {bad.file}: {bad.why}{more if side.trouble[1:] else ''}. Nothing "
                "was kept",
                hint="no-verify",
            )


def _verified(
    conversion: Conversion,
    target: PartialFolder,
    losses: Mapping[str, Loss],
    executor: Executor,
    before: Mapping[str, State],
) -> Generator[TensorDiff, None, None]:
    """Yield what `compare_with_source` yields. Raises Unverified, MixedShards."""
    try:
        yield from compare_with_source(conversion, target.folder, losses, executor)
    except Unverified as error:
        _check_unchanged(conversion, before, "compared")
        if target.has_become_out:
            root = conversion.source.checkpoint.root
            raise Unverified(
                f"{conversion.out}: was written whole by a run that was killed, but is not what "
                f"{root} holds now; convert again, over it"
            ) from error
        raise


@dataclass(slots=True)
class _FileUnderWay:
    """A file that is being written."""

    file: OutputFile
    open_jobs: int  # not yet done
    # Of each tensor, (CRC-32, number of bytes) of each span; None while it is not written.
    checksums: list[list[tuple[int, int] | None]] = field(default_factory=list)
    losses: list[PlacedLoss] = field(default_factory=list)


# (number of the file, items); an item is (number of the tensor, number of the span in it, span)
_Job = tuple[int, tuple[tuple[int, int, "Span"], ...]]


class _Conversion:
    """The jobs of one conversion, waiting and under way, and the losses found so far."""

    def __init__(self, conversion: Conversion, executor: Executor, target: PartialFolder) -> None:
        self.files = [f for f in conversion.files if f.path not in target.complete]
        self.kept = [f for f in conversion.files if f.path in target.complete]
        self.target = target
        self.under_way: JobsUnderWay[_Job | int] = JobsUnderWay(executor)
        self.jobs: deque[_Job] = deque()
        self.next_file = 0
        self.open_files: dict[int, _FileUnderWay] = {}
        # Losses of casts, by canonical tensor and by (file, offset) in the source.
        self.lost: dict[str, dict[tuple[str, int], Loss]] = defaultdict(dict)

    def results(self) -> Generator[Written, None, None]:
        """Yield what is written, complete files of an earlier run first."""
        for file in self.kept:
            self._lose(self.target.complete[file.path].losses)
            yield Written(file.path, file.layout.nbytes, complete=True)
        yield from self.under_way.results(self._submit, self._receive)

    def losses(self) -> dict[str, Loss]:
        """Return what the cast of each canonical tensor lost."""
        return {name: reduce(Loss.plus, places.values()) for name, places in self.lost.items()}

    def _submit(self) -> Iterable[Written]:
        """Submit jobs while there is room. Yields nothing: results come with `_receive`."""
        while self.under_way.has_room:
            while not self.jobs and self.next_file < len(self.files):
                self._start(self.next_file)
                self.next_file += 1
            if not self.jobs:
                break
            job = self.jobs.popleft()
            file = self.open_files[job[0]].file
            path = str(self.target.folder / file.path)
            spans = tuple(span for _, _, span in job[1])
            self.under_way.submit(job, write_spans, path, spans, file.has_checksums)
        return ()

    def _start(self, number: int) -> None:
        """Create a file with everything but its tensors, and split those into jobs."""
        file = self.files[number]
        path = self.target.folder / file.path
        try:
            create(path, file.layout.fixed, file.layout.nbytes)
        except OSError as error:
            raise _refused(path, error) from error
        under_way = _FileUnderWay(file, 0)
        batch: list[tuple[int, int, Span]] = []
        size = 0
        for slot, tensor in enumerate(file.tensors):
            spans = list(spans_of(tensor, file.layout.slots[slot].offset, JOB_BYTES))
            under_way.checksums.append([None] * len(spans))
            for part, span in enumerate(spans):
                if batch and (size + span.nbytes > JOB_BYTES or len(batch) == JOB_SPANS):
                    self.jobs.append((number, tuple(batch)))
                    under_way.open_jobs += 1
                    batch, size = [], 0
                batch.append((slot, part, span))
                size += span.nbytes
        self.jobs.append((number, tuple(batch)))
        under_way.open_jobs += 1
        self.open_files[number] = under_way

    def _receive(self, job: _Job | int, future: Future[Any]) -> Generator[Written, None, None]:
        """Take the result of a job; a bare number is the job that finishes that file."""
        outcome = future.result()
        if isinstance(job, int):
            done = self.open_files.pop(job)
            self.target.note(done.file.path, outcome, done.losses)
            yield Written(done.file.path, 0, complete=True)
            return
        number, items = job
        under_way = self.open_files[number]
        nbytes = 0
        assert isinstance(outcome, list)
        for (slot, part, span), total in zip(items, outcome, strict=True):
            under_way.checksums[slot][part] = total.checksum, span.nbytes
            nbytes += span.nbytes
            for source, loss in zip(span.sources, total.losses, strict=True):
                if loss.rounded and source.part_of != PADDING:
                    place = source.file, source.offset
                    under_way.losses.append((source.part_of, place, loss))
        under_way.open_jobs -= 1
        if under_way.open_jobs == 0:
            self._lose(under_way.losses)
            path = str(self.target.folder / under_way.file.path)
            self.under_way.submit(number, finish_file, path, tuple(_patches(under_way)))
        yield Written(under_way.file.path, nbytes)

    def _lose(self, losses: Iterable[PlacedLoss]) -> None:
        for name, place, loss in losses:
            # Ranks write a replicated tensor from the same bytes: it counts once.
            self.lost[name][place] = loss


def write_spans(path: str, spans: Sequence[Span], checksums: bool) -> object:  # noqa: FBT001
    """Write the spans of one job, as `kernels.write.write` does. Runs in a worker process."""
    from ckptdiff.kernels.write import write

    try:
        return write(path, spans, checksums=checksums)
    except OSError as error:
        raise _refused(Path(path), error) from error


def finish_file(path: str, patches: Sequence[tuple[int, bytes]]) -> State:
    """Write (offset, checksum) patches into a file and sync it. Runs in a worker process."""
    try:
        return finish(path, patches)
    except OSError as error:
        raise _refused(Path(path), error) from error


def _patches(under_way: _FileUnderWay) -> Iterable[tuple[int, bytes]]:
    """Yield (offset, CRC-32 as little-endian bytes) for each checksum field of a file."""
    from ckptdiff.conversion.crc32 import combined

    slots = under_way.file.layout.slots
    for slot, checksums in zip(slots, under_way.checksums, strict=True):
        if slot.checksum_at:
            checksum = struct.pack("<I", combined(filter(None, checksums)))
            yield from ((at, checksum) for at in slot.checksum_at)


def _check_space(conversion: Conversion, target: PartialFolder) -> None:
    """Raise UnreadableFile if the files that are not complete do not fit on the disk."""
    sizes = {file.path: file.layout.nbytes for file in conversion.files}
    sizes |= {name: len(content) for name, content in conversion.texts}
    missing = {name: size for name, size in sizes.items() if name not in target.complete}
    try:
        free = shutil.disk_usage(target.folder).free
        room = os.statvfs(target.folder)
    except OSError as error:
        raise _refused(target.folder, error) from error
    if (needed := sum(missing.values())) > free:
        words = f"{format_bytes(needed)} are needed, the disk has {format_bytes(free)} free"
        raise UnreadableFile(f"{conversion.out}: {words}")
    if room.f_files and len(missing) > room.f_favail:  # 0: it makes them as they are needed
        words = f"{len(missing)} files are to be written, the disk has inodes for {room.f_favail}"
        raise UnreadableFile(f"{conversion.out}: {words}")


def _write_text(target: PartialFolder, name: str, content: bytes) -> None:
    """Write a small file and sync it, if an earlier run has not."""
    if name in target.complete:
        return
    path = target.folder / name
    try:
        create(path, [(0, content)])
        state = finish(path)
    except OSError as error:
        raise _refused(path, error) from error
    target.note(name, state)


def _refused(path: Path, error: OSError) -> CkptDiffError:
    why = error.strerror
    if error.errno == errno.ENOSPC:
        with suppress(OSError):
            room = os.statvfs(path.parent)
            if room.f_files and not room.f_favail:
                why = "no inodes are left on the disk: it holds too many files"
    return UnreadableFile(f"{path}: cannot be written ({why})")


def _check_unchanged(conversion: Conversion, before: Mapping[str, State], doing: str) -> None:
    """Raise MixedShards if a source file is not in the state that it was in."""
    for path, state in _file_states(conversion).items():
        if before[path] != state:
            raise MixedShards(f"{path}: changed while it was {doing}; convert again")


def _file_states(conversion: Conversion) -> dict[str, State]:
    """Return the state of each source file, of the file that a link leads to."""
    found = {}
    merging = conversion.source.merging
    added = () if merging is None else merging.files
    for file in (*conversion.source.checkpoint.files, *added):
        try:
            status = file.stat()
        except OSError as error:
            raise UnreadableFile(f"{file}: cannot be read ({error.strerror})") from error
        found[str(file)] = state_in(status)
    return found


def _fingerprint(conversion: Conversion, states: Mapping[str, State]) -> str:
    """Return a digest that is equal only if the same bytes would be written."""
    whole = hashlib.sha256(f"{__version__} {_LAYOUT}".encode())

    def add(line: str) -> None:
        whole.update(f"{line}\n".encode("utf-8", "surrogatepass"))  # of paths that are no UTF-8

    for path, state in sorted(states.items()):
        add(f"{path} {state}")
    for file in conversion.files:
        add(f"{file.path} {file.layout.nbytes}")
        for _, content in file.layout.fixed:
            whole.update(content)
        pieces = chain.from_iterable(tensor.pieces for tensor in file.tensors)
        for tensor in file.tensors:
            add(f"{tensor.name} {tensor.dtype} {tensor.shape}")
        for piece in pieces:
            ref = piece.ref
            add(f"{ref.file} {ref.offset} {ref.dtype} {ref.stride} {ref.scale}")
            if ref.added is not None:
                add(str(ref.added))
            add(f"{piece.of} {piece.box}")
    for name, content in conversion.texts:
        add(name)
        whole.update(content)
    return whole.hexdigest()
