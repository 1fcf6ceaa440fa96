"""Files are held against the hashes that megatron-core 0.19.2 saved with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.comparison.pipeline import compare_checkpoints
from ckptdiff.comparison.verdict import DiffSummary
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from tests.support.program import ckptdiff, document
from tests.support.saved_by_newest import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WHY = "its bytes are not those that were saved: copy it again"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return unpack(tmp_path)[0]


@pytest.fixture
def saved(source: Path) -> Path:
    return source.parent / "megatron/iter_0000001"


def summary_of(a: Path, b: Path) -> DiffSummary:
    *_, summary = compare_checkpoints(a, b, InlineExecutor)
    assert isinstance(summary, DiffSummary)
    return summary


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def between_tensors(file: Path) -> int:
    """Return the offset of a byte that no reader of tensors looks at: padding of the first zip."""
    return file.read_bytes().index(b"FB") + 4


def test_all_files_that_were_saved_are_hashed(source: Path, saved: Path) -> None:
    found = summary_of(source, saved)
    (side,) = found.hashes
    assert (side.letter, side.hashed, side.stated, side.trouble) == ("B", 3, 3, ())
    assert (found.verdict, found.files_status) == ("same", "known")


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_byte_beside_the_tensors_makes_equal_weights_not_the_same(
    letter: str, source: Path, saved: Path
) -> None:
    data = saved / "__0_0.distcp"
    flip(data, between_tensors(data))
    a, b = (saved, source) if letter == "A" else (source, saved)

    done = ckptdiff("diff", a, b, "--json", "-", "--no-diagnose")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["verdict"], found["weights"]) == ("differ", "same")
    assert found["files_status"] == "damaged"
    trouble = found["hashes"][letter.lower()]["trouble"]
    assert trouble == [{"file": "__0_0.distcp", "why": WHY}]
    (finding,) = found["findings"]
    assert (finding["class"], finding["severity"]) == ("DAMAGED", "fault")
    assert finding["title"] == f"__0_0.distcp: {WHY}"

    if letter == "A":
        return
    told = ckptdiff("diff", a, b).stdout
    assert told.count(WHY) == 1
    assert f"{letter}: 2 of 3 files have the SHA-256 that they were saved with" in told
    assert "verdict: differ (weights: same, files are not what was saved)" in told


def test_a_file_that_is_gone_is_told_though_nothing_is_read_of_it(
    source: Path, saved: Path
) -> None:
    stated = json.loads((saved / "integrity.json").read_text())
    stated["files"] |= {f"__{n}_1.distcp": "0" * 64 for n in range(12)}
    (saved / "integrity.json").write_text(json.dumps(stated))
    found = summary_of(source, saved)
    (side,) = found.hashes
    assert (side.hashed, side.stated, len(side.trouble)) == (3, 15, 12)
    assert side.trouble[0].why.startswith("is not there")
    assert len(found.findings) == 9
    assert "4 more files" in found.findings[-1].title


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--no-verify",)])
def test_a_conversion_of_other_bytes_keeps_nothing_unless_told(
    extra: tuple[str, ...], saved: Path, tmp_path: Path
) -> None:
    data = saved / "__0_0.distcp"
    flip(data, between_tensors(data))
    out = tmp_path / "out"
    done = ckptdiff("convert", saved, out, "--to", "hf", *extra)
    assert done.returncode == (0 if extra else 2)
    assert out.exists() is bool(extra)
    assert [path.name for path in tmp_path.glob("out*")] == ["out"] * bool(extra)
    if not extra:
        assert f"__0_0.distcp: {WHY}. Nothing was kept; --no-verify" in done.stderr


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no JSON": (lambda _: "{", "is not JSON"),
    "algorithm": (lambda d: {**d, "algorithm": "blake3"}, "has hashes by 'blake3', not sha256"),
    "no files": (lambda _: {"algorithm": "sha256"}, "is not what Megatron writes"),
    "path": (lambda _: {"files": {"../x": "0" * 64}}, "is not what Megatron writes"),
    "digest": (lambda _: {"files": {"x": "0"}}, "is not what Megatron writes"),
    "list": (lambda _: {"files": ["x"]}, "is not what Megatron writes"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_hashes_that_cannot_be_read_are_a_note(kind: str, source: Path, saved: Path) -> None:
    change, words = BROKEN[kind]
    file = saved / "integrity.json"
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    (note,) = open_checkpoint(saved).notes
    assert words in note
    assert note.endswith("no file is held against what was saved")
    found = summary_of(source, saved)
    assert (found.verdict, found.hashes) == ("same", ())


def test_listing_hashes_nothing(saved: Path) -> None:
    data = saved / "__0_0.distcp"
    flip(data, between_tensors(data))
    assert document(ckptdiff("ls", saved, "--json"))["notes"] == []
