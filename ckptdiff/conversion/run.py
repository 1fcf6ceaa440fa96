"""Write a planned conversion: block by block, in file order, verified before it is there."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff import __version__
from ckptdiff.assembly.compose import PADDING
from ckptdiff.assembly.spans import spans_of
from ckptdiff.conversion.partial_folder import PartialFolder
from ckptdiff.conversion.verify import compare_with_source
from ckptdiff.errors import CkptDiffError, MixedShards, UnreadableFile, WorkerDied
from ckptdiff.executor import JobsUnderWay
from ckptdiff.results import Loss
from ckptdiff.text import format_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from concurrent.futures import Executor, Future

    from ckptdiff.conversion.output_file import OutputFile
    from ckptdiff.conversion.plan import Conversion
    from ckptdiff.kernels.views import Span
    from ckptdiff.results import TensorDiff

BATCH_BYTES = 32 << 20  # that one job writes: what cancelling has to wait for
BATCH_STRETCHES = 256


@dataclass(frozen=True, slots=True)
class Written:
    """What one job has written."""

    file: str  # relative to the output
    nbytes: int
    complete: bool = False  # the whole file is on the disk


@dataclass(frozen=True, slots=True)
class Lost:
    """What casting one tensor lost."""

    name: str
    loss: Loss


def convert(
    conversion: Conversion, executor: Executor, *, verify: bool = True
) -> Generator[Written | Lost | TensorDiff, None, None]:
    """Write what is planned into `OUT.partial`, compare it with its source, and give it its name.

    Yields what is written as it is, what casts lost, and the result of each comparison. Files that
    a killed run of the same plan has completed are kept. Closing the generator stops, and removes
    everything. Raises BadArgument if another run is writing, UnreadableFile if the disk is full or
    refuses, MixedShards if a source file changed meanwhile, Unverified if the comparison finds
    anything.
    """
    before = _states(conversion)
    with PartialFolder(conversion.out, _fingerprint(conversion, before)) as target:
        run = _Conversion(conversion, executor, target)
        try:
            _check_space(conversion, target)
            yield from run.results()
            changed = [path for path, state in _states(conversion).items() if before[path] != state]
            if changed:
                raise MixedShards(f"{changed[0]}: changed while it was read; convert again")
            for name, content in conversion.texts:
                _write_text(target.folder / name, content)
            losses = run.losses()
            yield from (Lost(name, loss) for name, loss in losses.items())
            if verify:
                yield from compare_with_source(conversion, target.folder, losses, executor)
            target.finish()
        except (UnreadableFile, WorkerDied):
            # What is complete is kept: the disk may have room again, a share may come back.
            run.under_way.stop()
            if not target.complete:
                target.remove()
            raise
        except BaseException:
            run.under_way.stop()
            target.remove()
            raise


@dataclass(slots=True)
class _FileUnderWay:
    """One file under way."""

    file: OutputFile
    open: int  # jobs without an outcome
    sums: list[list[tuple[int, int] | None]] = field(default_factory=list)  # (checksum, bytes)


_Job = tuple[int, tuple[tuple[int, int, "Span"], ...]]  # file, (slot, part, span)


class _Conversion:
    """One conversion: what is to do, and what is under way."""

    def __init__(self, conversion: Conversion, executor: Executor, target: PartialFolder) -> None:
        self.files = [f for f in conversion.files if f.path not in target.complete]
        self.kept = [f for f in conversion.files if f.path in target.complete]
        self.target = target
        self.under_way: JobsUnderWay[_Job | int] = JobsUnderWay(executor)
        self.jobs: deque[_Job] = deque()
        self.next = 0
        self.tasks: dict[int, _FileUnderWay] = {}
        # What casting loses, by canonical tensor and by the place it was read from.
        self.lost: dict[str, dict[tuple[str, int], Loss]] = defaultdict(dict)

    def results(self) -> Generator[Written, None, None]:
        for file in self.kept:
            yield Written(file.path, file.layout.nbytes, complete=True)
        yield from self.under_way.results(self._submit, self._receive)

    def losses(self) -> dict[str, Loss]:
        """Return what casting lost of each canonical tensor."""
        return {name: reduce(Loss.plus, places.values()) for name, places in self.lost.items()}

    def _submit(self) -> Iterable[Written]:
        """Keep the workers busy; nothing is written by that alone."""
        while self.under_way.has_room:
            while not self.jobs and self.next < len(self.files):
                self._start(self.next)
                self.next += 1
            if not self.jobs:
                break
            job = self.jobs.popleft()
            file = self.tasks[job[0]].file
            path = str(self.target.folder / file.path)
            spans = tuple(span for _, _, span in job[1])
            self.under_way.submit(job, write_spans, path, spans, file.has_checksums)
        return ()

    def _start(self, number: int) -> None:
        """Make a file with everything in it but the tensors, and cut those into jobs."""
        file = self.files[number]
        path = self.target.folder / file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for offset, content in file.layout.fixed:
                    out.seek(offset)
                    out.write(content)
                out.truncate(file.layout.nbytes)
        except OSError as error:
            raise _refused(path, error) from error
        task = _FileUnderWay(file, 0)
        batch: list[tuple[int, int, Span]] = []
        size = 0
        for slot, tensor in enumerate(file.tensors):
            spans = list(spans_of(tensor, file.layout.slots[slot].offset, BATCH_BYTES))
            task.sums.append([None] * len(spans))
            for part, span in enumerate(spans):
                if batch and (size + span.nbytes > BATCH_BYTES or len(batch) == BATCH_STRETCHES):
                    self.jobs.append((number, tuple(batch)))
                    task.open += 1
                    batch, size = [], 0
                batch.append((slot, part, span))
                size += span.nbytes
        self.jobs.append((number, tuple(batch)))
        task.open += 1
        self.tasks[number] = task

    def _receive(self, job: _Job | int, future: Future[Any]) -> Generator[Written, None, None]:
        outcome = future.result()
        if isinstance(job, int):
            file = self.tasks.pop(job).file
            self.target.note(file.path)
            yield Written(file.path, 0, complete=True)
            return
        number, items = job
        task = self.tasks[number]
        nbytes = 0
        assert isinstance(outcome, list)
        for (slot, part, span), total in zip(items, outcome, strict=True):
            task.sums[slot][part] = total.checksum, span.nbytes
            nbytes += span.nbytes
            for source, loss in zip(span.sources, total.losses, strict=True):
                if loss.rounded and source.part_of != PADDING:
                    # A replica is the same place again, and counts once.
                    self.lost[source.part_of][source.file, source.offset] = loss
        task.open -= 1
        if task.open == 0:
            path = str(self.target.folder / task.file.path)
            self.under_way.submit(number, finish_file, path, tuple(_patches(task)))
        yield Written(task.file.path, nbytes)


def write_spans(path: str, spans: Sequence[Span], checksums: bool) -> object:  # noqa: FBT001
    """Do one job. Runs in a worker process: the only place that touches data."""
    from ckptdiff.kernels.write import write

    try:
        return write(path, spans, checksums=checksums)
    except OSError as error:
        raise _refused(Path(path), error) from error


def finish_file(path: str, patches: Sequence[tuple[int, bytes]]) -> None:
    """Put the checksums into a file, and see it onto the disk. Runs in a worker process."""
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            for offset, content in patches:
                os.pwrite(fd, content, offset)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _refused(Path(path), error) from error


def _patches(task: _FileUnderWay) -> Iterable[tuple[int, bytes]]:
    from ckptdiff.conversion.crc32 import combined

    for slot, sums in zip(task.file.layout.slots, task.sums, strict=True):
        if slot.checksum_at:
            checksum = struct.pack("<I", combined(filter(None, sums)))
            yield from ((at, checksum) for at in slot.checksum_at)


def _check_space(conversion: Conversion, target: PartialFolder) -> None:
    """Raise UnreadableFile if the disk has no room for what is still to be written."""
    needed = sum(f.layout.nbytes for f in conversion.files if f.path not in target.complete)
    free = shutil.disk_usage(target.folder).free
    if needed > free:
        sizes = f"{format_bytes(needed)} are needed, the disk has {format_bytes(free)} free"
        raise UnreadableFile(f"{conversion.out}: {sizes}")


def _write_text(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> CkptDiffError:
    return UnreadableFile(f"{path}: cannot be written ({error.strerror})")


def _states(conversion: Conversion) -> dict[str, tuple[int, int, int]]:
    """Return what tells whether a source file is still the same."""
    found = {}
    for file in conversion.source.checkpoint.files:
        try:
            status = file.stat()
        except OSError as error:
            raise UnreadableFile(f"{file}: cannot be read ({error.strerror})") from error
        found[str(file)] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


def _fingerprint(conversion: Conversion, states: dict[str, tuple[int, int, int]]) -> str:
    """Return a text that is the same only where the same bytes would be written."""
    whole = hashlib.sha256(__version__.encode())
    for path, state in sorted(states.items()):
        whole.update(f"{path} {state}\n".encode())
    for file in conversion.files:
        whole.update(f"{file.path} {file.layout.nbytes}\n".encode())
        for _, content in file.layout.fixed:
            whole.update(content)
        pieces = chain.from_iterable(tensor.pieces for tensor in file.tensors)
        for tensor in file.tensors:
            whole.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        for piece in pieces:
            whole.update(f"{piece.ref.file} {piece.ref.offset} {piece.of} {piece.box}\n".encode())
    for name, content in conversion.texts:
        whole.update(f"{name}\n".encode() + content)
    return whole.hexdigest()
