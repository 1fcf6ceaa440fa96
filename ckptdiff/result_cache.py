"""Keep results on disk, so that reopening a pair shows at once what was compared before."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ckptdiff import __version__
from ckptdiff.results import Numbers, TensorDiff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO

    from ckptdiff.checkpoint import Checkpoint

VERSION = 1
RESULT_FIELDS = tuple(field.name for field in fields(TensorDiff))
NUMBER_FIELDS = tuple(field.name for field in fields(Numbers))
PAIRS = 50  # files kept; the longest unused go first
FLUSH_SECONDS = 1.0  # at most this much work is lost with the connection


def history_folder() -> Path:
    """Return where results are kept: in the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("ckptdiff", appauthor=False)) / "results"


def fingerprint(a: Checkpoint, b: Checkpoint, tolerance: str) -> str:
    """Return a digest that changes whenever a file, a config or the tolerance does. Raises OSError.

    Files are told apart by size and modification time; their content is not read.
    """
    digest = hashlib.sha256(f"{VERSION} {__version__} {tolerance}\n".encode())
    for checkpoint in (a, b):
        digest.update(f"{checkpoint.root.absolute()}\n".encode("utf-8", "surrogateescape"))
        config = json.dumps(checkpoint.config, sort_keys=True, default=repr)
        digest.update(f"{config}\n".encode())
        for file in sorted(checkpoint.files):
            stat = file.stat()
            digest.update(
                f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()


class ResultCache:
    """The results of one pair under one tolerance, in one file of JSON lines."""

    def __init__(self, folder: Path, a: Checkpoint, b: Checkpoint, tolerance: str) -> None:
        """Find the file of this pair; raises OSError where a checkpoint's file is gone."""
        roots = f"{a.root.absolute()}\0{b.root.absolute()}\0{tolerance}"
        name = hashlib.sha256(roots.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self.file = folder / f"{name}.jsonl"
        self._fingerprint = fingerprint(a, b, tolerance)
        self._out: BinaryIO | None = None
        self._flushed = 0.0

    def load(self) -> Iterator[tuple[TensorDiff, float]]:
        """Yield earlier results and when they were compared; none if anything has changed since."""
        try:
            lines = self.file.open("rb")
        except OSError:
            return
        with lines:
            if not self._is_ours(next(lines, b"")):
                return
            for line in lines:
                if (entry := _entry(line)) is not None:
                    yield entry

    def forget(self) -> None:
        """Drop what was kept, so that everything is compared again."""
        self.close()
        with suppress(OSError):
            self.file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Open the file for adding results; where that cannot be done, nothing is kept."""
        with suppress(OSError):
            self._open()
        return self

    def _open(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _prune(self.file.parent, keep=self.file)
        if not self._is_current():
            # Not truncated: another run may still be adding what it read of the older files.
            self.file.unlink(missing_ok=True)
        out = self.file.open("a+b")
        if out.tell() == 0:
            header = {"version": VERSION, "fingerprint": self._fingerprint}
            out.write(json.dumps(header).encode() + b"\n")
        else:
            out.seek(-1, 2)
            if out.read(1) != b"\n":  # a line torn off when the program was killed
                out.write(b"\n")
        self._out = out

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._out is not None:
            with suppress(OSError):
                self._out.close()
            self._out = None

    def add(self, result: TensorDiff, at: float) -> None:
        """Keep one result. An error is not kept: the next run tries again."""
        if self._out is None or result.status == "error":
            return
        try:
            self._out.write(json.dumps({"at": at, **_values(result)}).encode() + b"\n")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._out.flush()
                self._flushed = time.monotonic()
        except OSError:  # a full disk costs the history, not the comparison
            self.close()

    def _is_current(self) -> bool:
        try:
            with self.file.open("rb") as lines:
                return self._is_ours(lines.readline())
        except OSError:
            return False

    def _is_ours(self, line: bytes) -> bool:
        try:
            header = json.loads(line)
        except ValueError:
            return False
        return isinstance(header, dict) and header.get("fingerprint") == self._fingerprint


def _values(result: TensorDiff) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, which takes longer than comparing a small tensor.
    values = {name: getattr(result, name) for name in RESULT_FIELDS}
    if result.numbers is not None:
        numbers = {name: getattr(result.numbers, name) for name in NUMBER_FIELDS}
        values["numbers"] = {**numbers, "grid": _packed(result.numbers.grid)}
    return values


def _entry(line: bytes) -> tuple[TensorDiff, float] | None:
    """Return a line's result and time; None for a line that was torn off."""
    try:
        values = json.loads(line)
        at = float(values.pop("at"))
        numbers = values.pop("numbers")
        if numbers is not None:
            grid = _unpacked(numbers.pop("grid"))
            numbers = Numbers(**{k: _frozen(v) for k, v in numbers.items()}, grid=grid)
        return TensorDiff(**{k: _frozen(v) for k, v in values.items()}, numbers=numbers), at
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def _packed(grid: bytes) -> str | int:
    """Return the grid as text, or where it is all zeros, as most are, as its length."""
    if grid.count(0) == len(grid):
        return len(grid)
    return base64.b64encode(zlib.compress(grid, 1)).decode()


def _unpacked(grid: str | int) -> bytes:
    return bytes(grid) if isinstance(grid, int) else zlib.decompress(base64.b64decode(grid))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _prune(folder: Path, *, keep: Path) -> None:
    """Delete the files of the pairs that were not compared for longest."""
    files = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[PAIRS:]:
        if file != keep:
            file.unlink(missing_ok=True)
