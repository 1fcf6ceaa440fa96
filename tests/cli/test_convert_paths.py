"""What `convert` prints of paths and side files: escaped, and fit to be pasted into a shell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.conversions import different, hf_tensors
from tests.support.oracle_hf import make_hf
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM

ODD = [b"esc\x1b[31m", b"two\nlines of caf\xe9", "quote'$(x)\a\u202e".encode()]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    arguments = [os.fspath(w) if isinstance(w, Path) else str(w) for w in words]
    return subprocess.run(
        [*PROGRAM, "convert", *arguments],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("raw", ODD)
def test_paths_are_escaped_and_can_be_pasted(tmp_path: Path, raw: bytes) -> None:
    name = os.fsdecode(raw)
    source, out = tmp_path / f"{name}-hf", tmp_path / f"{name}-out"
    make_hf(source, layers=1, hidden=16, ffn=16, vocab=32)
    done = run(source, out, "--to", "hf", "--no-verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    first, second, *_, last = done.stdout.splitlines()
    assert last.startswith("wrote ")
    shown = [first.split("  ")[1], second.split("    ")[1], last.removeprefix("wrote ")]
    words = [text.rpartition(" (")[0] or text.removesuffix(", not verified") for text in shown]
    for word, path in zip(words, (source, out, out), strict=True):
        pasted = subprocess.run(
            ["bash", "-c", f"printf %s {word}"], capture_output=True, check=True
        )
        assert pasted.stdout == os.fsencode(path)
    for path in (source, out):  # the library of safetensors opens no path that is not UTF-8
        (tmp_path / path.name.rpartition("-")[2]).symlink_to(path)
    assert different(hf_tensors(tmp_path / "out"), hf_tensors(tmp_path / "hf")) == []
    refused = run(source, out, "--to", "hf")
    assert refused.returncode == 2
    assert "is not empty; --overwrite replaces it" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stderr.rstrip("\n").isprintable()
    written = run(source, out, "--to", "hf", "--overwrite", "--json", "-")
    assert (written.returncode, written.stderr) == (0, "")
    document = json.loads(written.stdout)
    assert document["out"] == str(out)
    assert document["verified"]


def test_the_hub_s_cache_lends_its_tokenizer_and_other_links_do_not(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--X--Y"
    blobs, source = cache / "blobs", cache / "snapshots" / "0123"
    make_hf(tmp_path / "made", layers=1, hidden=16, ffn=16, vocab=32)
    (tmp_path / "made/tokenizer.json").write_text('{"a": 1}')
    blobs.mkdir(parents=True)
    source.mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(blobs / f"{number:040x}")
        (source / file.name).symlink_to(f"../../blobs/{number:040x}")
    (tmp_path / "secret").write_text("secret")
    (source / "vocab.json").symlink_to(tmp_path / "secret")
    (source / "merges.txt").symlink_to("../../../../secret")
    out = tmp_path / "out"
    done = run(source, out, "--to", "hf")
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "tokenizer.json").read_text() == '{"a": 1}'
    assert not (out / "tokenizer.json").is_symlink()
    assert "links out of" in done.stdout
    assert "merges.txt, vocab.json" in done.stdout
    assert b"secret" not in b"".join(path.read_bytes() for path in out.iterdir())
