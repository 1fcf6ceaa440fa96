"""Rows 11 to 13 and 15: conversions, beside cp and a converter that loads everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import rivals
from .data import LARGE, SMALL, files
from .harness import CKPTDIFF, Result, peak_memory, program, python, race, warm_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .data import Data, Size

SIZES: tuple[tuple[Size, str], ...] = ((SMALL, "0.5"), (LARGE, "2.5"))
RAM = Path("/dev/shm")  # where fsync costs nothing
TO = {"megatron": ("--to", "megatron", "--tp", "2", "--names", "te"), "hf": ("--to", "hf"),
      "torch_dist": ("--to", "torch_dist")}  # fmt: skip
# What the program has in memory before it has converted anything.
IMPORTED = "import ckptdiff.conversion.run, ckptdiff.kernels.write, rich, safetensors"


def rows_11_12_13(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Time both directions, and torch_dist; on the disk, fsync and all, and in memory."""
    results: list[Result] = []
    for size, label in SIZES:
        hf, megatron = data.hf(size, "base"), data.megatron(size)
        warm_cache(files(hf, megatron))
        with tempfile.TemporaryDirectory(dir=data.folder) as disk:
            on_disk = f"{label} GB, fsync included"
            results += _rows(hf, megatron, Path(disk), on_disk, rounds, wanted, synced=True)
        if RAM.is_dir() and shutil.disk_usage(RAM).free > 12e9:
            with tempfile.TemporaryDirectory(dir=RAM) as ram:
                in_memory = f"{label} GB, without fsync"
                results += _rows(hf, megatron, Path(ram), in_memory, rounds, wanted, synced=False)
    return results


def _rows(
    hf: Path,
    megatron: Path,
    folder: Path,
    label: str,
    rounds: int,
    wanted: set[str],
    *,
    synced: bool,
) -> Iterator[Result]:
    contenders: dict[str, Callable[[], object]] = {
        "cp": _copying(hf, folder, synced=synced),
        "hf-megatron": _converting(hf, folder, "megatron"),
        "hf-torch_dist": _converting(hf, folder, "torch_dist"),
        "cp-megatron": _copying(megatron, folder, synced=synced),
        "megatron-hf": _converting(megatron, folder, "hf"),
        "verified": _converting(hf, folder, "megatron", verify=True),
    }
    if "13" in wanted:
        contenders["naive"] = _cleared(
            folder, python(rivals.CONVERT, hf / "model.safetensors", folder / "out")
        )
    times = race(contenders, rounds=rounds)
    note = times.text()
    for row, what, one, other, bar in (
        ("11", "HF to Megatron, speed over cp", "cp", "hf-megatron", 0.8),
        ("11", "HF to torch_dist, speed over cp", "cp", "hf-torch_dist", 0.8),
        ("12", "Megatron to HF, speed over cp", "cp-megatron", "megatron-hf", 1.1),
        ("13", "HF to Megatron, speed over loading all", "naive", "hf-megatron", 4.5),
        ("11", "the same, verified, speed over cp", "cp", "verified", 0.0),
    ):
        if row in wanted and one in contenders:
            yield Result(row, f"{what} ({label})", times.ratio(one, other), bar, "more", note)
            note = ""


def _converting(source: Path, folder: Path, to: str, *, verify: bool = False) -> Callable[[], None]:
    out = folder / "out"
    options = () if verify else ("--no-verify",)
    return _cleared(folder, program(*CKPTDIFF, "convert", source, out, *TO[to], *options))


def _copying(source: Path, folder: Path, *, synced: bool) -> Callable[[], None]:
    target = folder / "out"
    if not synced:
        return _cleared(folder, program("cp", "-r", source, target))
    script = 'cp -r "$0" "$1" && find "$1" -type f -exec sync {} +'
    return _cleared(folder, program("bash", "-c", script, source, target, codes=(0,)))


def _cleared(folder: Path, run: Callable[[], None]) -> Callable[[], None]:
    """Remove what the one before has written, and let the disk come to rest."""

    def cleared() -> None:
        run()

    def before() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        os.sync()

    cleared.before = before  # type: ignore[attr-defined]
    return cleared


def row_15(data: Data, wanted: set[str], rounds: int) -> list[Result]:
    """Watch the memory of the program and its workers, beyond what importing takes."""
    command = [
        sys.executable,
        "-c",
        f"{IMPORTED}; import sys; print(open('/proc/self/status').read())",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
    imported = int(line.split()[1]) * 1024
    results = []
    peaks: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory(dir=data.folder) as folder:
        for size, label in SIZES:
            hf, megatron = data.hf(size, "base"), data.megatron(size)
            for source, to in ((hf, "megatron"), (hf, "torch_dist"), (megatron, "hf")):
                out = Path(folder) / f"{label}-{to}"
                found = peak_memory(
                    *CKPTDIFF, "convert", source, out, *TO[to], "--no-verify"
                ).values()
                shutil.rmtree(out)
                peaks[label, to] = max(found)
    for to in TO:
        extra = max(peaks[label, to] for _, label in SIZES) - imported
        note = f"imports {imported / 2**20:.0f} MiB"
        results.append(
            Result("15", f"to {to}: peak RSS beyond imports, MiB", extra / 2**20, 64, "less", note)
        )
        growth = peaks["2.5", to] / peaks["0.5", to]
        results.append(Result("15", f"to {to}: peak RSS, 2.5 GB over 0.5 GB", growth, 1.1, "less"))
    return results
