"""`ckptdiff logits` names the fault behind the first step that differs, and what mends it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.main import main
from ckptdiff.demo import make_demo

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
IDS = ("--ids", "1,2,3")


def printed(command: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(command) == 1
    return capsys.readouterr().out.splitlines()


def test_a_setting_that_moves_the_step_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, make_demo(tmp_path / "demo", fault="rope-base"))
    lines = printed(["logits", a, b, *IDS], capsys)
    at = lines.index("✗  CONFIG: RoPE base: 10000 in A, 20000 in B")
    assert lines[at + 1] == "     fix: --rotary-base 10000"
    assert at < lines.index("")


def test_the_command_for_the_tensors_that_the_step_reads_mends_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, make_demo(tmp_path / "demo", fault="gate-up"))
    lines = printed(["logits", a, b, *IDS], capsys)
    at = next(n for n, line in enumerate(lines) if line.startswith("✗  FC1-SWAP: "))
    command = shlex.split(lines[at + 1].removeprefix("     fix: "))
    diff = printed(["diff", a, b], capsys)
    assert lines[at + 1] in diff
    assert main(command[1:]) == 0
    assert main(["logits", a, command[3], *IDS]) == 0
    assert "✗" not in capsys.readouterr().out


def test_it_is_in_the_document_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, make_demo(tmp_path / "demo", fault="gate-up"))
    file = tmp_path / "found.json"
    assert main(["logits", a, b, *IDS, "--json", str(file)]) == 1
    (finding,) = json.loads(file.read_text())["findings"]
    assert (finding["class"], finding["fix"].split()[:2]) == ("FC1-SWAP", ["ckptdiff", "convert"])
    capsys.readouterr()
    lines = printed(["logits", a, b, *IDS, "--no-diagnose", "--json", str(file)], capsys)
    assert not any("FC1-SWAP" in line for line in lines)
    assert json.loads(file.read_text())["findings"] == []
