"""Keep results of comparisons on disk, so that a pair that is reopened shows them at once."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self, get_args

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.files import open_regular
from ckptdiff.formats.fingerprint import fingerprint
from ckptdiff.formats.json_files import read_json
from ckptdiff.results import Numbers, Status, TensorDiff
from ckptdiff.system.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

    from ckptdiff.checkpoint import Checkpoint

VERSION = 1  # of the file format
RESULT_FIELDS = tuple(field.name for field in fields(TensorDiff))
NUMBER_FIELDS = tuple(field.name for field in fields(Numbers))
PAIRS = 50  # kept, one file each; the least recently used are deleted
MAX_LINE = 1_000_000  # bytes; a result has some hundred, and its grid up to some thousand
MAX_GRID = 100_000  # bytes
FLUSH_SECONDS = 1.0  # of results that are lost if the program is killed


def history_folder() -> Path | None:
    """Return `ckptdiff/results` in the user's cache folder; None if the user has no home."""
    folder = cache_folder()
    return None if folder is None else folder / "results"


class ResultCache:
    """The results of one pair under one tolerance, in one file of JSON lines.

    A context manager for adding results; `load` works without it.
    """

    def __init__(self, folder: Path, a: Checkpoint, b: Checkpoint, tolerance: str) -> None:
        """Find the file of this pair. Raises OSError if a file of a checkpoint is gone."""
        roots = f"{a.root.absolute()}\0{b.root.absolute()}\0{tolerance}"
        name = hashlib.sha256(roots.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self.file = folder / f"{name}.jsonl"
        self._fingerprint = fingerprint(a, b, f"{VERSION} {tolerance}")
        self._out: BinaryIO | None = None
        self._flushed = 0.0

    def load(self) -> Iterator[tuple[TensorDiff, float]]:
        """Yield (result, Unix time of its comparison); nothing if a checkpoint has changed."""
        try:
            with open_regular(self.file):  # not a pipe, which would wait
                lines = self.file.open("rb")
        except (OSError, CkptDiffError):
            return
        with lines:
            if not self._has_fingerprint(lines.readline(MAX_LINE)):
                return
            # What a longer line has left over is no JSON, and no result.
            while line := lines.readline(MAX_LINE):
                if (entry := _entry(line)) is not None:
                    yield entry

    def forget(self) -> None:
        """Delete the file, so that everything is compared again."""
        self.close()
        with suppress(OSError):
            self.file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Open the file for adding results. If that fails, results are not kept."""
        with suppress(OSError):
            self._open()
        return self

    def _open(self) -> None:
        """Open the file for appending; empty it if a checkpoint has changed. Raises OSError."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _prune(self.file.parent, keep=self.file)
        if not self._is_current():
            # Not truncated: another run may still add results of the older checkpoints to it.
            self.file.unlink(missing_ok=True)
        out = self.file.open("a+b")
        if out.tell() == 0:
            header = {"version": VERSION, "fingerprint": self._fingerprint}
            out.write(json.dumps(header).encode() + b"\n")
        else:
            out.seek(-1, 2)
            if out.read(1) != b"\n":  # the last line is incomplete: the program was killed
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
        """Close the file; further results are not kept."""
        if self._out is not None:
            with suppress(OSError):
                self._out.close()
            self._out = None

    def add(self, result: TensorDiff, at: float) -> None:
        """Keep one result, compared at the Unix time `at`. Errors are not kept but retried."""
        if self._out is None or result.status == "error":
            return
        try:
            self._out.write(json.dumps({"at": at, **_values(result)}).encode() + b"\n")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._out.flush()
                self._flushed = time.monotonic()
        except OSError:  # on a full disk results are not kept, but the comparison goes on
            self.close()

    def _is_current(self) -> bool:
        """Return whether the file exists and is of the checkpoints as they are now."""
        try:
            with open_regular(self.file), self.file.open("rb") as lines:
                return self._has_fingerprint(lines.readline(MAX_LINE))
        except (OSError, CkptDiffError):
            return False

    def _has_fingerprint(self, line: bytes) -> bool:
        """Return whether a header line has the fingerprint of this pair."""
        try:
            header = read_json(line)
        except (ValueError, RecursionError, CkptDiffError):
            return False
        return isinstance(header, dict) and header.get("fingerprint") == self._fingerprint


def _values(result: TensorDiff) -> dict[str, Any]:
    """Return the JSON of a result."""
    # Not dataclasses.asdict: its deep copy takes longer than comparing a small tensor.
    values = {name: getattr(result, name) for name in RESULT_FIELDS}
    if result.numbers is not None:
        numbers = {name: getattr(result.numbers, name) for name in NUMBER_FIELDS}
        values["numbers"] = {**numbers, "grid": _packed(result.numbers.grid)}
    return values


def _entry(line: bytes) -> tuple[TensorDiff, float] | None:
    """Return the (result, Unix time) of a line; None for an incomplete or a wrong one."""
    try:
        values = read_json(line)
        at = values.pop("at")
        numbers = values.pop("numbers")
        if numbers is not None:
            grid = _unpacked(numbers.pop("grid"))
            numbers = Numbers(**{k: _frozen(v) for k, v in numbers.items()}, grid=grid)
        result = TensorDiff(**{k: _frozen(v) for k, v in values.items()}, numbers=numbers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error):
        return None
    except CkptDiffError:
        return None
    return (result, float(at)) if _is_number(at) and _fits(result) else None


def _fits(result: TensorDiff) -> bool:
    """Return whether a result has values that a comparison can have."""
    texts = (result.error, result.note, result.dtype_a, result.dtype_b)
    shapes = (result.shape_a, result.shape_b)
    return (
        isinstance(result.name, str)
        and result.status in get_args(Status)
        and result.why in (None, "cast", "bits", "sums", "tolerance")
        and all(text is None or isinstance(text, str) for text in texts)
        and all(shape is None or _are_counts(shape) for shape in shapes)
        and _are_counts((result.padding_rows, result.nbytes))
        and (result.numbers is None or _fit(result.numbers))
    )


def _fit(n: Numbers) -> bool:
    """Return whether numbers are what can have been measured."""
    counts = (n.numel, n.differing, n.max_ulp, n.nan_a, n.nan_b, n.inf_a, n.inf_b)
    values = (n.max_abs, n.mean_abs, n.rms, n.rel_l2, n.cosine, n.norm_a or 0, n.norm_b or 0)
    return (
        _are_counts(counts)
        and all(map(_is_number, values))
        and (n.max_at is None or _are_counts(n.max_at))
        and _are_counts(n.histogram)
        and _are_counts(n.grid_shape)
        and len(n.grid_shape) == 2
        and n.grid_shape[0] * n.grid_shape[1] == len(n.grid)
    )


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and all(type(n) is int and 0 <= n < 1 << 64 for n in values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and (isinstance(value, float) or abs(value) < 1 << 64)


def _packed(grid: bytes) -> str | int:
    """Return a heat map as base64 of zlib, or as its length if all cells are zero, as most are."""
    if grid.count(0) == len(grid):
        return len(grid)
    return base64.b64encode(zlib.compress(grid, 1)).decode()


def _unpacked(grid: str | int) -> bytes:
    """Return the grid that `_packed` was given. Raises ValueError for one that it did not make."""
    if isinstance(grid, int):
        if not 0 <= grid <= MAX_GRID:
            raise ValueError("no size of a grid")
        return bytes(grid)
    unpacking = zlib.decompressobj()
    found = unpacking.decompress(base64.b64decode(grid), MAX_GRID)
    if not unpacking.eof:
        raise ValueError("a larger grid than any")
    return found


def _frozen(value: Any) -> Any:
    """Return a JSON list as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _prune(folder: Path, *, keep: Path) -> None:
    """Delete the least recently written files beyond `PAIRS`, but not `keep`."""
    files = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[PAIRS:]:
        if file != keep:
            file.unlink(missing_ok=True)
