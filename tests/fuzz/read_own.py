"""What reads the program's own files, which are damaged where it was killed or a disk was full."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptdiff.conversion.partial.folder import PartialFolder, has_become, notes_on
from ckptdiff.formats import JOURNAL, hf
from ckptdiff.report.page_facts import rows_of
from ckptdiff.result_cache import ResultCache
from ckptdiff.scores.journal import Journal
from ckptdiff.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.harnesses import Read


def settings(bases: Path, folder: Path) -> Read:
    file = folder / "settings.json"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        load_settings(file)

    return read


def results(bases: Path, folder: Path) -> Read:
    """Lines are read behind the right header, unless they have one of their own."""
    checkpoint = hf.open(bases / "llama")
    cache = ResultCache(folder, checkpoint, checkpoint, "0")
    with cache:
        pass
    header = cache.file.read_bytes()

    def read(data: bytes) -> None:
        cache.file.write_bytes(data if data.startswith(b'{"version') else header + data)
        rows_of([result for result, _ in cache.load()])

    return read


def journal(bases: Path, folder: Path) -> Read:
    """Lines are read behind the right plan, beside a file of the inode that seeds spell 424242."""
    out, root = folder / "out", folder / "out.partial"
    file = root / "new/config.json"

    def read(data: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}")
        os.utime(file, ns=(1, 1))
        inode = str(file.stat().st_ino).encode()
        (root / JOURNAL).write_bytes(b"plan\n" + data.replace(b"424242", inode))
        notes_on(out)
        has_become(out)
        with PartialFolder(out, "plan", ["config.json", "a/b.pt"]) as opened:
            assert set(opened.complete) <= {"config.json", "a/b.pt"}

    return read


def scores(bases: Path, folder: Path) -> Read:
    journal = Journal(folder, "f")
    assert journal.file is not None
    file = journal.file

    def read(data: bytes) -> None:
        header = b'{"version": 1, "fingerprint": "f"}\n'
        file.write_bytes(data if data.startswith(b'{"version') else header + data)
        journal.load()

    return read
