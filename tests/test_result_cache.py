"""Kept results that no comparison wrote are left out: the cache is a file like any other."""

from __future__ import annotations

import base64
import json
import os
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.result_cache import ResultCache
from tests.support.tui.fakes import checkpoint, layer, names, result

if TYPE_CHECKING:
    from pathlib import Path

Q0 = layer(0, "self_attn.q_proj.weight")
BOMB = base64.b64encode(zlib.compress(bytes(1 << 28))).decode()


def kept(folder: Path) -> tuple[ResultCache, dict[str, Any]]:
    """Keep one result; return the cache and what its line holds."""
    sides = []
    for letter in "ab":
        file = folder / letter / "model.safetensors"
        file.parent.mkdir()
        file.write_bytes(b"x")
        sides.append(replace(checkpoint(file.parent, names()), files=(file,)))
    cache = ResultCache(folder / "kept", sides[0], sides[1], "cast")
    with cache:
        cache.add(result(Q0, "differ"), 7.0)
    assert [found.name for found, _ in cache.load()] == [Q0]
    return cache, json.loads(cache.file.read_bytes().splitlines()[1])


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("name", ["a"]), ("status", "odd"), ("status", []), ("why", 7), ("error", 5), ("note", {}),
        ("shape_a", [1.5]), ("shape_b", [-1]), ("shape_a", 3), ("nbytes", "1"), ("at", "now"),
        ("at", 10**400), ("padding_rows", None), ("dtype_a", [[]]), ("spare", 1),
        ("numbers", 5), ("numbers", []), ("numbers", {}),
        ("numbers.grid", 1 << 60), ("numbers.grid", -1), ("numbers.grid", BOMB),
        ("numbers.grid", "x"), ("numbers.grid_shape", [1 << 40, 1]), ("numbers.max_abs", "1"),
        ("numbers.histogram", [[]]), ("numbers.numel", 10**30), ("numbers.max_at", {}),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_line_with_another_value_is_left_out(tmp_path: Path, where: str, wrong: Any) -> None:
    cache, line = kept(tmp_path)
    header = cache.file.read_bytes().splitlines()[0]
    inner, _, name = where.rpartition(".")
    good = json.dumps(line).encode()
    (line[inner] if inner else line)[name] = wrong
    cache.file.write_bytes(b"\n".join([header, json.dumps(line).encode(), good, b""]))
    assert [found.name for found, _ in cache.load()] == [Q0]


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b"{" * 100_000, b"\xff", b"9" * 5000, b"x" * 3_000_000, b"null", b"0"],
    ids=["lists", "objects", "no text", "digits", "long", "null", "zero"],
)
def test_a_line_that_is_no_result_is_left_out(tmp_path: Path, line: bytes) -> None:
    cache, _ = kept(tmp_path)
    cache.file.write_bytes(cache.file.read_bytes() + line + b"\n")
    assert [found.name for found, _ in cache.load()] == [Q0]
    cache.file.write_bytes(line + b"\n" + line)
    assert not list(cache.load())
    with cache:  # begins again
        cache.add(result(Q0), 8.0)
    assert [at for _, at in cache.load()] == [8.0]


def test_a_pipe_in_the_place_of_the_cache_is_not_waited_for(tmp_path: Path) -> None:
    cache, _ = kept(tmp_path)
    cache.file.unlink()
    os.mkfifo(cache.file)
    assert not list(cache.load())
