"""The README says what the program does: its transcripts are run and compared."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ckptdiff.formats import FORMATS
from ckptdiff.forward.hf_config import FAMILIES as COMPUTED
from tests.support.corpus import REPOSITORY
from tests.support.faults_table import TABLE as FAULTS
from tests.support.faults_table import fault_table
from tests.support.verified import TABLE as FAMILIES
from tests.support.verified import family_table

if TYPE_CHECKING:
    from pathlib import Path

README = REPOSITORY.joinpath("README.md").read_text()
TRANSCRIPTS = [
    (lines[0].removeprefix("$ "), "\n".join(lines[1:]))
    for block in re.findall(r"```console\n(.*?)\n```", README, re.DOTALL)
    for lines in [block.split("\n")]
]


def without_times(text: str) -> str:
    return re.sub(r"in \d+\.\d s", "in … s", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo pair was made."""
    path = tmp_path_factory.mktemp("readme")
    run("ckptdiff demo --no-tui", path)
    return path


def run(command: str, folder: Path) -> str:
    program = f"'{sys.executable}' -m ckptdiff"
    done = subprocess.run(
        re.sub(r"^ckptdiff", program, command),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.rstrip()


def test_there_is_a_transcript_for_scripts_and_one_for_browsing() -> None:
    assert {command.split()[1] for command, _ in TRANSCRIPTS} >= {"ls", "diff"}


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize(("command", "printed"), TRANSCRIPTS, ids=[c for c, _ in TRANSCRIPTS])
def test_a_transcript_is_what_the_command_prints(command: str, printed: str, folder: Path) -> None:
    assert without_times(run(command, folder)) == without_times(printed)


def test_every_picture_that_is_shown_is_there() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert REPOSITORY.joinpath(picture).is_file(), picture


def test_the_table_of_keys_is_that_of_the_bindings() -> None:
    sys.path.insert(0, str(REPOSITORY / "screenshots"))
    try:
        from keys import TABLE, key_table
    finally:
        del sys.path[0]
    (table,) = TABLE.findall(README)
    assert table == key_table(), "run `python screenshots/keys.py`"


def test_the_table_of_families_is_that_of_the_rules_and_their_tests() -> None:
    (table,) = FAMILIES.findall(README)
    assert table == family_table(), "run `python -m tests.support.verified`"


def test_the_table_of_faults_is_that_of_the_planted_ones() -> None:
    (table,) = FAULTS.findall(README)
    assert table == fault_table(), "run `python -m tests.support.faults_table`"


def test_the_example_of_a_family_is_that_familys_file() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert example == REPOSITORY.joinpath("ckptdiff/arch/qwen2.py").read_text()


def test_the_families_whose_logits_are_computed_are_named() -> None:
    (said,) = re.findall(r"It knows these `model_type`s: (.*?);", README, re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(COMPUTED)


def test_every_format_is_named() -> None:
    said = README.partition("## What is supported")[2].partition("\n## ")[0]
    words = {"hf": "Hugging Face", "megatron": "Megatron", "meta": "Meta"}
    for module in FORMATS:
        assert f"\n| {words.get(module.NAME, module.NAME)} | " in said
