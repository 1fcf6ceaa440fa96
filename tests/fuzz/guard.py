"""What must not come of an input: another error than the program's own, a hang, much memory."""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import resource
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

SECONDS = 5  # of processor time for one input
MEMORY = 1 << 30  # bytes that one input may take
BROKEN = 3  # exit status of a process in which the harness itself failed
MESSAGE = 3000  # characters of an error; it is to be a sentence
_SLOT = 1 << 20  # bytes of an input that is under way, and of how many there were before
_HERE = str(Path(__file__).parent)


def limit(out: TextIO) -> None:
    """Have this process die when an input hangs, and fail when it takes too much memory.

    Where it hangs is written to `out` first, even inside C code.
    """
    faulthandler.register(signal.SIGPROF, file=out, chain=True)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Guarded:
    """Reads inputs under the limits; `wrong` says what was wrong with one."""

    def __init__(self, read: Callable[[bytes], object]) -> None:
        self.read = read
        self.memory = _peak()

    def wrong(self, data: bytes) -> tuple[str, str] | None:
        """Return what must not come and where, and all about it; None: the input is read well."""
        before = _peak()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.read(data)
        except CkptDiffError as error:
            if (found := _odd(error)) is not None:
                return f"{found} at {_place(error)}", _text(error)
        except BaseException as error:  # noqa: BLE001 -- what must not come is what is looked for
            return f"{type(error).__name__} at {_place(error)}", _text(error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if (peak := _peak()) > before and peak - self.memory > MEMORY:
            return "more memory than 1 GB", ""
        return None


def _odd(error: CkptDiffError) -> str | None:
    """Return what is wrong with an error of the program's own."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, MemoryError):
            return "MemoryError"
        below = below.__cause__ or below.__context__
    return "a long message" if len(str(error)) > MESSAGE else None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _place(error: BaseException) -> str:
    """Return the innermost place that is none of the harness."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/ckptdiff/" in f.filename]
    frame = frames[-1] if frames else None
    return "the harness" if frame is None else f"{Path(frame.filename).name}:{frame.name}"


def _text(error: BaseException) -> str:
    lines = traceback.format_exception(error, limit=-12)
    return "".join(line if len(line) < 1000 else line[:1000] + " ...\n" for line in lines)


class Slot:
    """The input that is under way, in a file: it is there whatever the process dies of."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(_SLOT))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _SLOT)

    def put(self, data: bytes) -> None:
        """Count an input, and keep it."""
        self._map[:8] = (self.count + 1).to_bytes(8, "little")
        self._map[8:12] = len(data).to_bytes(4, "little")
        self._map[12 : 12 + len(data)] = data

    @property
    def count(self) -> int:
        """The number of inputs so far."""
        return int.from_bytes(self._map[:8], "little")

    def get(self) -> bytes:
        """Return the input that was put last."""
        return self._map[12 : 12 + int.from_bytes(self._map[8:12], "little")]


def keep(folder: Path, data: bytes, what: str, text: str) -> Path:
    """Write an input that was not read well, and beside it what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:12]
    file.write_bytes(data)
    file.with_name(f"{file.name}.txt").write_text(f"{what}\n{text}", "utf-8", "backslashreplace")
    return file
