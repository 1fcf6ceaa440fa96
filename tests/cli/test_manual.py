"""The manual page: of today's options, in the wheel, and read by man without a warning."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from ckptdiff.cli.main import COMMANDS, parser_of
from ckptdiff.cli.manual import manual_page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ckptdiff/cli/ckptdiff.1"


def test_the_page_is_what_the_parsers_make() -> None:
    assert PAGE.read_text() == manual_page(), (
        "python -m ckptdiff.cli.manual > ckptdiff/cli/ckptdiff.1"
    )


def test_the_wheel_puts_the_page_where_man_looks() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    shared = build["targets"]["wheel"]["shared-data"]
    assert shared["ckptdiff/cli/ckptdiff.1"] == "share/man/man1/ckptdiff.1"


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_the_page_renders_without_a_warning_and_has_every_option() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou", PAGE],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    for command in COMMANDS:
        assert f"ckptdiff {command} [OPTION]..." in done.stdout
        for option in parser_of(command).options:
            assert option in done.stdout or option in ("-h", "--help")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc")
def test_mandoc_finds_nothing_but_that_there_is_no_date() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", PAGE], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []
