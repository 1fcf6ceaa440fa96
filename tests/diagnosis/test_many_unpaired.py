"""Many tensors without a partner: what is asked of each does not grow with all the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.diagnosis.content_search import ContentSearch
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from tests.support.hostile import entry, safetensors
from tests.support.pace import pace

if TYPE_CHECKING:
    from pathlib import Path


def vectors(folder: Path, front: str, count: int) -> Path:
    folder.mkdir()
    names = [f"{front}{i}" for i in range(count)]
    header = {n: entry((1,), offsets=(4 * i, 4 * i + 4)) for i, n in enumerate(names)}
    content = front.encode() * (4 * count)
    (folder / "model.safetensors").write_bytes(safetensors(header, content))
    return folder


@pytest.mark.slow
def test_a_tensor_is_not_held_against_all_others(tmp_path: Path) -> None:
    sides = [assemble(open_checkpoint(vectors(tmp_path / f, f, 2000))).tensors for f in "ab"]
    search = ContentSearch(sides[0], sides[1], InlineExecutor())
    search.vectors()
    began, quick = time.thread_time(), pace()
    search.run()
    assert not any(search.where("a", name) for name in search.a)
    assert {search.dtype for _ in search.a} == {"F32"}
    assert search.could_be(list(search.a), list(search.b)) == list(search.a)
    assert time.thread_time() - began < 1000 * quick
