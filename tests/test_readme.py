"""The README says what the program does: its transcripts are run and compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ckptdiff.formats import FORMATS
from ckptdiff.guide.topics import FOR_DEVELOPERS, topics
from tests.support.corpus import REPOSITORY
from tests.support.transcripts import run, transcripts, without_times

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=4)
README = REPOSITORY.joinpath("README.md").read_text()
TRANSCRIPTS = transcripts(README)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo pair was made."""
    path = tmp_path_factory.mktemp("readme")
    run("ckptdiff demo --no-tui", path)
    return path


def test_there_is_a_transcript_of_each_use() -> None:
    assert [command.split()[1] for command, _ in TRANSCRIPTS] == [
        "ls", "diff", "convert", "logits", "convert",
    ]  # fmt: skip


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize(("command", "printed"), TRANSCRIPTS, ids=[c for c, _ in TRANSCRIPTS])
def test_a_transcript_is_what_the_command_prints(command: str, printed: str, folder: Path) -> None:
    assert without_times(run(command, folder)) == without_times(printed)


def test_every_picture_that_is_shown_is_there() -> None:
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert REPOSITORY.joinpath(picture).is_file(), picture


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 220


def test_every_page_for_users_is_named_and_every_link_leads_somewhere() -> None:
    linked = re.findall(r"(?<!!)\[[^]]+\]\((?!http)([^)#]+)", README)
    assert [link for link in linked if not REPOSITORY.joinpath(link).is_file()] == []
    pages = {name for name in topics() if not name.startswith(FOR_DEVELOPERS)}
    assert pages - {link.rpartition("/")[2].removesuffix(".md") for link in linked} == set()


def test_every_format_is_named() -> None:
    said = README.partition("## What is supported")[2].partition("\n## ")[0]
    words = {"hf": "Hugging Face", "megatron": "Megatron", "meta": "Meta", "deepspeed": "DeepSpeed"}
    for module in FORMATS:
        assert f"\n| {words.get(module.NAME, module.NAME)} | " in said
