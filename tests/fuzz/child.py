"""One process that fuzzes one harness; `tests.fuzz` starts it."""

from __future__ import annotations

import os
import sys
import time
import traceback
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TextIO

from tests.fuzz.guard import BROKEN, Guarded, Slot, keep, limit
from tests.fuzz.harnesses import HARNESSES, Harness, reader
from tests.fuzz.mutate_bytes import damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LARGE = 20_000  # bytes of an input that is not changed further without need
POOL = 2000  # inputs that are changed further, beside those that were found before


def main() -> None:
    """Fuzz: the arguments are those of `Run.begin`."""
    kind, name, work, seconds, runs, finds = sys.argv[1:]
    folder = Path(work)
    report = os.fdopen(os.dup(2), "w", buffering=1)
    harness = HARNESSES[name]
    if harness.in_worker:  # libraries write there for each input
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    scratch = folder / "scratch" / f"{name}-{os.getpid()}"
    if kind == "blind":
        guarded = Guarded(reader(name, folder / "bases", scratch))
    else:
        import atheris

        with atheris.instrument_imports(include=["ckptdiff"]):
            guarded = Guarded(reader(name, folder / "bases", scratch))
    read = _keeping(guarded, name, folder, Path(finds), Slot(folder / f"{name}.{kind}"), report)
    places = [folder / "corpus" / name, folder / "seeds" / name]
    limit(report)
    if kind == "blind":
        inputs = [file.read_bytes() for place in places for file in sorted(place.iterdir())]
        blind(inputs, harness, read, int(seconds), int(runs))
    else:
        _guided(places, harness, read, [f"-max_total_time={seconds}", f"-runs={runs}"])


def _keeping(
    guarded: Guarded, name: str, folder: Path, finds: Path, slot: Slot, report: TextIO
) -> Callable[[bytes], None]:
    """Return what reads an input and keeps it, if it is the first with what came of it."""
    file = folder / f"{name}.known"
    known = set(file.read_text().split("\n"))

    def read(data: bytes) -> None:
        slot.put(data)
        found = guarded.wrong(data)
        if found is None or found[0] in known:
            return
        what, text = found
        known.add(what)
        with file.open("a") as out:
            out.write(f"{what}\n")
        report.write(f"{name}: {what}: {keep(finds / name, data, what, text)}\n")
        if what.startswith("more memory"):
            os._exit(0)  # its peak stays as high

    return read


def blind(
    inputs: Sequence[bytes],
    harness: Harness,
    read: Callable[[bytes], None],
    seconds: float,
    runs: int,
) -> None:
    """Change inputs whatever they reach: some ten times as many as with atheris, which watches."""
    pool = list(inputs)
    random = Random(time.time_ns())
    end = time.monotonic() + seconds
    for number in count(1):
        data = random.choice(pool)
        for _ in range(random.choice((1, 1, 2, 5))):
            data = _changed(data, harness, random)
        read(data)
        if len(data) < LARGE and random.random() < 0.05:
            at = len(inputs) + random.randrange(POOL)
            pool[at : at + 1] = [data]
        if number == runs or time.monotonic() > end:
            return


def _changed(data: bytes, harness: Harness, random: Random) -> bytes:
    try:
        changed = harness.mutate(data, random)[: harness.most]
        return damage(data, random) if changed == data else changed
    except BaseException:  # noqa: BLE001 -- atheris would wait for ever
        sys.stderr.write(traceback.format_exc())
        os._exit(BROKEN)


def _guided(
    places: Sequence[Path],
    harness: Harness,
    read: Callable[[bytes], None],
    limits: Sequence[str],
) -> None:
    """Fuzz with atheris, which changes what reached something new further. It ends the process."""
    import atheris

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.1:
            return bytes(atheris.Mutate(data, most))
        return _changed(data, harness, random)

    # The limits on time and memory are our own.
    own = [f"-max_len={harness.most}", "-len_control=0", "-rss_limit_mb=0", "-timeout=100000"]
    quiet = ["-verbosity=0", f"-artifact_prefix={places[0].parent.parent}/"]
    atheris.Setup(["fuzz", *map(str, places), *limits, *own, *quiet], read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
