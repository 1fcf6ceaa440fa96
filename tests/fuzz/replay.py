"""Read the finds that are kept, and some changed seeds: `python -m tests.fuzz.replay WORK RUNS`.

It prints a line of JSON for each harness. A find that kills the process is the last one named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from ckptdiff.errors import CkptDiffError
from tests.fuzz.guard import Guarded, limit
from tests.fuzz.harnesses import HARNESSES, reader

FINDS = Path(__file__).parent / "finds"


def replay(name: str, work: Path, runs: int) -> dict[str, Any]:
    """Return what went wrong by input, and how many inputs were read, and how many refused."""
    harness = HARNESSES[name]
    read = reader(name, work / "bases", work / "replayed" / name)
    counts = {"read": 0, "refused": 0}

    def counted(data: bytes) -> None:
        try:
            read(data)
        except CkptDiffError:
            counts["refused"] += 1
            raise
        counts["read"] += 1

    guarded = Guarded(counted)
    wrong: dict[str, str] = {}
    finds = sorted(file for file in FINDS.glob(f"{name}/*") if file.is_file())
    for file in finds:
        sys.stderr.write(f"{name}/{file.name}\n")
        if found := guarded.wrong(file.read_bytes()):
            wrong[file.name] = "\n".join(found)
    random = Random(1)
    seeds = [file.read_bytes() for file in sorted((work / "seeds" / name).iterdir())]
    for number in range(runs):
        seed = random.choice(seeds)
        sys.stderr.write(f"{name}, changed seed {number}\n")
        if found := guarded.wrong(harness.mutate(seed, random)[: harness.most]):
            wrong[f"changed seed {number}"] = "\n".join(found)
    return {"harness": name, "finds": len(finds), "wrong": wrong, **counts}


def main() -> None:
    """Replay what is kept for every harness whose library does not die of it."""
    work, runs = Path(sys.argv[1]), int(sys.argv[2])
    limit(sys.stderr)
    for name, harness in HARNESSES.items():
        if not harness.in_worker:
            sys.stdout.write(json.dumps(replay(name, work, runs)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
