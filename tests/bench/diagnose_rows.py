"""What looking for the cause costs, beside the comparison that came before it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from ckptdiff.formats import open_checkpoint

from .data import LARGE, files
from .harness import CKPTDIFF, Result, peak_memory, program, race, warm_cache

if TYPE_CHECKING:
    from pathlib import Path

    from .data import Data

LAYER = 7


def row_diagnose(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time `diff` of a 2.5 GB pair with one fault, with and without looking for its cause."""
    hf = data.hf(LARGE, "base")
    megatron = data.faulty(LARGE, _exchange_gate_and_up)
    warm_cache(files(hf, megatron))
    command = (*CKPTDIFF, "diff", hf, megatron, "--json", "-")
    done = subprocess.run([str(w) for w in command], capture_output=True, check=False)
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["class"] != "CONFIG")
    assert (finding["class"], finding["layers"]) == ("FC1-SWAP", [LAYER])
    times = race(
        {"diff": program(*command, "--no-diagnose"), "diagnosed": program(*command)},
        rounds=rounds,
    )
    more = times.ratio("diagnosed", "diff") - 1
    peak = max(peak_memory(*command).values()) / 2**20
    what = "2.5 GB, one fault: diagnosis over the diff before it"
    return [
        Result("diagnose", what, more, 1.0, "less", times.text()),
        Result("diagnose", "peak RSS of a process, MiB", peak, 128, "less"),
    ]


def _exchange_gate_and_up(folder: Path) -> None:
    """Exchange the halves of one layer's fused matrix, in the file of each rank."""
    name = f"decoder.layers.{LAYER}.mlp.linear_fc1.weight"
    for shard in open_checkpoint(folder).shards:
        ref = shard.tensors[name]
        with ref.file.open("r+b") as file:
            file.seek(ref.offset)
            content = file.read(ref.nbytes)
            file.seek(ref.offset)
            file.write(content[ref.nbytes // 2 :] + content[: ref.nbytes // 2])
