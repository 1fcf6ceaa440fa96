"""One command takes out all faults that a conversion can, and says which it leaves."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.main import main
from ckptdiff.conversion.remap import Remap
from ckptdiff.diagnosis.run import joint_fix
from tests.support.fault_cases_two import TWO
from tests.support.fault_check import Maker
from tests.support.pairs import compare, compare_and_diagnose, load_rank, with_args, with_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fault_cases import Case

MENDED = [case for case in TWO if case.mends]


def printed(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["diff", str(a), str(b)]) == 1
    return capsys.readouterr().out.splitlines()


def start_of(lines: list[str]) -> int:
    return next(n for n, line in enumerate(lines) if "mended by one command" in line)


@pytest.mark.parametrize("case", MENDED, ids=[case.name for case in MENDED])
def test_the_one_command_leaves_nothing_that_differs(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = Maker(tmp_path).plant(case)
    lines = printed(a, b, capsys)
    first = start_of(lines)
    kinds = [line.split()[1].rstrip(":") for line in lines if line.startswith("✗")]
    assert lines[first] == (
        f"i  the {len(kinds)} faults below are mended by one command ({', '.join(kinds)})"
    )
    assert sorted(kinds) == sorted(kind for kind, _ in case.plants if kind)
    assert not any(line.startswith("✗") for line in lines[:first])
    program, *command = shlex.split(lines[first + 1].removeprefix("     fix: "))
    assert program == "ckptdiff"
    assert command.count("--undo") == len(kinds)
    assert main(command) == 0
    mended = compare(a, type(b)(command[2]))
    assert (mended.summary.verdict, mended.statuses) == ("same", {})


def test_what_one_command_does_not_mend_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = Maker(tmp_path).plant(MENDED[0])
    with_args(b, norm_epsilon=0.5)
    lines = printed(a, b, capsys)
    assert lines[start_of(lines)].startswith("i  2 of the 3 faults below are mended by one command")
    assert lines[start_of(lines)].endswith("; it does not mend CONFIG")


def test_the_command_writes_the_rope_of_the_reference_and_starts_megatron_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = Maker(tmp_path).plant(MENDED[0])
    with_config(a, rope_theta=70000.0)
    lines = printed(a, b, capsys)
    first = start_of(lines)
    kinds = "FC1-SWAP, TP-ORDER, CONFIG"
    assert sorted(lines[first].partition("(")[2].removesuffix(")").split(", ")) == sorted(
        kinds.split(", ")
    )
    command = shlex.split(lines[first + 1].removeprefix("     fix: "))[1:]
    assert main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert any("RoPE base: rope_theta 70000 is written" in line for line in told)
    start = shlex.split(told[-1])
    assert start[start.index("--rotary-base") + 1] == "70000"
    saved = next(type(b)(command[2]).rglob("model_optim_rng.pt"))
    assert load_rank(saved)["args"].rotary_base == 70000
    assert compare(a, type(b)(command[2])).summary.verdict == "same"
    # Without a fault to take out, the folder may be of another model: the source's own is kept.
    plain = ["convert", str(b), str(tmp_path / "plain"), *command[3 : command.index("--undo")]]
    assert main(plain) == 0
    assert "--rotary-base" not in capsys.readouterr().out
    saved = next((tmp_path / "plain").rglob("model_optim_rng.pt"))
    assert load_rank(saved)["args"].rotary_base != 70000


def test_documents_and_pages_have_the_command_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = Maker(tmp_path).plant(MENDED[0])
    files = {end: tmp_path / f"page.{end}" for end in ("json", "md", "html")}
    asked = ["--json", files["json"], "--report", files["md"], "--report", files["html"]]
    assert main(["diff", str(a), str(b), *map(str, asked)]) == 1
    lines = capsys.readouterr().out.splitlines()
    command = lines[start_of(lines) + 1].removeprefix("     fix: ")
    document = json.loads(files["json"].read_text())
    assert document["fix_all"] == command
    assert command not in [finding["fix"] for finding in document["findings"]]
    text = files["md"].read_text()
    assert text.index(f"\n{command}\n") < text.index("## FC1-SWAP")
    page = files["html"].read_text()
    assert page.index('<pre id="all">') < page.index('<pre id="f0">')


def test_one_fault_and_faults_that_exclude_each_other_have_none(tmp_path: Path) -> None:
    a, b, _ = Maker(tmp_path).plant(MENDED[0])
    found, findings = compare_and_diagnose(a, b)
    assert joint_fix(found.a, found.b, findings) is not None
    assert joint_fix(found.a, found.b, findings[:1]) is None
    note = replace(findings[1], severity="info")
    assert joint_fix(found.a, found.b, [findings[0], note]) is None
    other = Remap(findings[1].undo.kind, (("decoder.layers.#.none.weight", ((0,),)),))  # type: ignore[union-attr]
    assert joint_fix(found.a, found.b, [findings[0], replace(findings[1], undo=other)]) is None
