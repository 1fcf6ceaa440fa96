"""What reads the program's own files, which are damaged where it was killed or a disk was full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.conversion.partial_folder import PartialFolder
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
    partial = PartialFolder(folder / "out", "plan")
    partial.folder.mkdir()

    def read(data: bytes) -> None:
        (partial.folder / JOURNAL).write_bytes(b"plan\n" + data)
        with PartialFolder(folder / "out", "plan") as opened:
            opened.complete.discard("x")
            sorted(opened.complete)

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
