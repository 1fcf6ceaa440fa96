"""Kill the whole program at each call of the system that changes the disk, and run it again.

By hand, with strace: `python -m tests.bench.kills KILLS FOLDER`. `ckptdiff convert` converts a tiny
folder with two workers, in three ways: into a new folder, over an old one with `--overwrite`, and
the same where two folders cannot change their names in one step. The first call of a kind kills a
run as it is entered, then the second, and so on to the last of all kinds; then all begin anew,
until there were KILLS. After each, the same conversion is run again, in this process, which is
quicker: it has to end with the whole new folder and nothing beside it, or, where the first run had
given the new folder its name, may say that it is there. Prints what the kills left, counted, and
ends with exit code 1 if anything was wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats import JOURNAL, open_checkpoint
from tests.support.conversions import converted, different, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, group, until

if TYPE_CHECKING:
    from torch import Tensor

CALLS = (
    "ftruncate", "fsync", "mkdir", "pwrite64", "rename", "renameat2", "rmdir", "unlink", "unlinkat",
)  # fmt: skip
WAYS = ("new", "over", "over in two steps")
OPTIONS = ("--to", "hf", "--max-shard-size", "2kB", "--jobs", "2")


def main(kills: int, root: Path) -> int:
    """Print what so many kills left; return how many were wrong."""
    weights = make_hf(root / "hf", layers=1, hidden=16, ffn=16, vocab=32)
    before = make_hf(root / "old", layers=1, hidden=16, ffn=16, vocab=32, seed=5)
    left: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    wrong = done = 0
    while done < kills:
        for way, call in product(WAYS, CALLS):
            for number in count(1):
                if done == kills:
                    break
                work = root / "work"
                work.mkdir()
                if way.startswith("over"):
                    shutil.copytree(root / "old", work / "out")
                survived = killed(work, way, call, number)
                what = state(work, weights, before)
                again = said_by_next_run(work, way)
                was_there = "is not empty" in again and what in ("new", "new, partial, empty")
                right = not again or was_there
                found = state(work, weights, before)
                if not right or "new" not in found or "half" in what:
                    wrong += 1
                    print(f"{way}, {call} {number}: {what}; then {found}, {again!r}", flush=True)
                shutil.rmtree(work)
                if survived and what == "new":  # it came to its end
                    break
                done += 1
                left[way][what] += 1
                if done % 20 == 0:
                    print(done, {way: dict(found) for way, found in left.items()}, flush=True)
    for way, counts in left.items():
        print(f"{way}: {sum(counts.values())} kills; left {dict(counts)}")
    print(f"{done} kills, {wrong} wrong")
    return wrong


def command(way: str) -> list[str]:
    return [
        *PROGRAM, "convert", "../hf", "out", *OPTIONS,
        *(["--overwrite"] if way.startswith("over") else []),
    ]  # fmt: skip


def killed(work: Path, way: str, call: str, number: int) -> bool:
    """Run the program, and kill it at the n-th of a call; return whether it ended by itself."""
    inject = []
    if way == "over in two steps" and call != "renameat2":
        inject = ["-e", "inject=renameat2:error=EINVAL"]
    inject += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
    strace = ["strace", "-qq", "-e", f"trace={','.join(CALLS)}", *inject]
    with subprocess.Popen(
        [*strace, "-o", "/dev/null", *command(way)], cwd=work, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        code = process.wait(timeout=PATIENCE)
        until(lambda: group(process.pid) == [])  # its workers
    return code >= 0


def said_by_next_run(work: Path, way: str) -> str:
    """Convert again; return the error, or nothing."""
    os.chdir(work)  # paths of the source are a part of the plan
    try:
        source, out = Path("../hf"), Path("out")
        converted(source, out, "hf", max_shard_size=2000, overwrite=way.startswith("over"))
    except CkptDiffError as error:
        return str(error)
    finally:
        os.chdir(work.parent)
    return ""


def state(work: Path, new: dict[str, Tensor], old: dict[str, Tensor]) -> str:
    """Return what a folder holds: OUT as it was, or new, or none; what lies beside, or is half."""
    out, partial = work / "out", work / "out.partial"
    words = ["none"]
    if out.exists():
        held = hf_tensors(out)
        found = "new" if not different(held, new) else "old" if not different(held, old) else "half"
        words = [found]
        try:
            open_checkpoint(out)
        except CkptDiffError as error:
            words = [f"half: {error}"]
    for folder in (partial, *partial.glob("*")):
        if folder.is_dir():
            with suppress(CkptDiffError):
                open_checkpoint(folder)
                words.append(f"half: {folder.name} opens")
    if partial.exists():
        words.append("partial with a journal" if (partial / JOURNAL).exists() else "partial, empty")
    return ", ".join(words)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])) > 0)
