"""One process that fuzzes one harness with atheris; `tests.fuzz` starts it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from random import Random

import atheris

from tests.fuzz.guard import BROKEN, Guarded, Slot, keep, limit
from tests.fuzz.harnesses import HARNESSES, reader


def main() -> None:
    """Fuzz: the arguments are a harness, the folder that the parent made, seconds, runs, finds."""
    name, work, seconds, runs, finds = sys.argv[1:]
    harness, folder = HARNESSES[name], Path(work)
    report = os.fdopen(os.dup(2), "w", buffering=1)
    if harness.in_worker:  # libraries write there for each input
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    scratch = folder / "scratch" / name / str(os.getpid())
    with atheris.instrument_imports(include=["ckptdiff"]):
        guarded = Guarded(reader(name, folder / "bases", scratch))
    slot = Slot(folder / f"{name}.slot")
    known = set(filter(None, (folder / f"{name}.known").read_text().split("\n")))

    def read(data: bytes) -> None:
        slot.put(data)
        found = guarded.wrong(data)
        if found is None or found[0] in known:
            return
        what, text = found
        known.add(what)
        with (folder / f"{name}.known").open("a") as out:
            out.write(f"{what}\n")
        file = keep(Path(finds) / name, data, what, text)
        report.write(f"{name}: {what}: {file}\n")
        if what.startswith("more memory"):
            os._exit(0)  # its peak stays as high

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        try:
            if random.random() < 0.1:
                return bytes(atheris.Mutate(data, most))
            return harness.mutate(data, random)[:most]
        except BaseException:  # atheris would wait for ever
            traceback.print_exc(file=report)
            os._exit(BROKEN)

    limit(report)
    places = [str(folder / kind / name) for kind in ("corpus", "seeds")]
    limits = [f"-max_len={harness.most}", "-len_control=0", "-rss_limit_mb=0", "-timeout=100000"]
    if int(runs):
        limits.append(f"-runs={runs}")
    quiet = ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={folder}/"]
    atheris.Setup(
        ["fuzz", *places, f"-max_total_time={seconds}", *limits, *quiet],
        read,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
