"""The guide says what the program does: tables, transcripts, links, a part for each class."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, get_args

import pytest

from ckptdiff.errors import BadArgument
from ckptdiff.fault_classes import FAULT_CLASSES, FaultClass
from ckptdiff.formats import FORMATS
from ckptdiff.forward.hf_config import FAMILIES as COMPUTED
from ckptdiff.forward.hf_config import WITH_PICTURES
from ckptdiff.guide.topics import SECTIONS, fault_parts, page, topics
from ckptdiff.results import LogitVerdict, Status, Verdict
from ckptdiff.scores.paired import items_needed
from ckptdiff.scores.results import ScoreVerdict
from tests.support.corpus import REPOSITORY
from tests.support.faults_table import TABLE as FAULTS
from tests.support.faults_table import fault_table
from tests.support.transcripts import run, transcripts, without_times
from tests.support.verified import TABLE as FAMILIES
from tests.support.verified import family_table

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=4)
GUIDE = REPOSITORY / "ckptdiff/guide"
TRANSCRIPTS = [shown for name in topics() for shown in transcripts(page(name))]


def source(name: str) -> str:
    """Return a page with the marks of its tables."""
    return (GUIDE / f"{name}.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo pair was made."""
    path = tmp_path_factory.mktemp("guide")
    run("ckptdiff demo --no-tui", path)
    return path


# ── tables and transcripts ───────────────────────────────────────────────────────────────────


def test_the_table_of_keys_is_that_of_the_bindings() -> None:
    sys.path.insert(0, str(REPOSITORY / "screenshots"))
    try:
        from keys import TABLE, key_table
    finally:
        del sys.path[0]
    (table,) = TABLE.findall(source("keys"))
    assert table == key_table(), "run `python screenshots/keys.py`"


def test_the_table_of_families_is_that_of_the_rules_and_their_tests() -> None:
    (table,) = FAMILIES.findall(source("families"))
    assert table == family_table(), "run `python -m tests.support.verified`"


def test_the_table_of_faults_is_that_of_the_planted_ones() -> None:
    (table,) = FAULTS.findall(source("faults"))
    assert table == fault_table(), "run `python -m tests.support.faults_table`"


def test_the_table_of_items_is_what_the_formulas_give() -> None:
    (table,) = re.findall(r"<!-- items -->\n(.*?)<!-- /items -->", source("scores"), re.DOTALL)
    rows = [line.strip("| \n").split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0.25", "0.5", "0.75"]
    for accuracy, *told in rows:
        found = [items_needed(float(accuracy), share) for share in (0.0, 0.001, 0.01, 0.05)]
        assert told == [f"{n:,}" for n in (*(paired for paired, _ in found), found[0][1])]
        # "76 to 687 times" what all five benchmarks have
        assert 30_459 * 76 < found[0][1] < 30_459 * 687


@pytest.mark.parametrize(("command", "printed"), TRANSCRIPTS, ids=[c for c, _ in TRANSCRIPTS])
def test_a_transcript_is_what_the_command_prints(command: str, printed: str, folder: Path) -> None:
    assert without_times(run(command, folder)) == without_times(printed)


def test_the_example_of_a_family_is_that_familys_file() -> None:
    example, _ = re.findall(r"```python\n(.*?)```", source("adding-a-family"), re.DOTALL)
    assert example == REPOSITORY.joinpath("ckptdiff/arch/qwen2.py").read_text()


def test_folders_that_are_spoken_of_are_there() -> None:
    named = set(re.findall(r"`(\w+)/`", source("how-it-works")))
    assert len(named) > 8
    assert [name for name in named if not REPOSITORY.joinpath("ckptdiff", name).is_dir()] == []


def test_the_families_whose_logits_are_computed_are_named() -> None:
    (said,) = re.findall(r"These `model_type`s: (.*?);", source("logits"), re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(COMPUTED)
    (said,) = re.findall(r"Of ([^.]*?), which see pictures", source("logits"), re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(WITH_PICTURES)


def test_every_format_is_named() -> None:
    words = {"hf": "Hugging Face", "megatron": "Megatron", "meta": "Meta", "deepspeed": "DeepSpeed"}
    for module in FORMATS:
        assert f"\n| {words.get(module.NAME, module.NAME)} | " in source("formats")


def test_every_status_and_verdict_is_explained() -> None:
    for status in get_args(Status):
        assert f"| `{status}` | " in source("verdicts")
    for verdict in get_args(Verdict):
        assert f"\n- `{verdict}`: " in source("verdicts")
    for logit_verdict in get_args(LogitVerdict):
        assert f"\n- `{logit_verdict}`: " in source("logits")
    for score_verdict in get_args(ScoreVerdict):
        assert f"\n- `{score_verdict}`: " in source("scores")
        assert "[scores](scores.md)" in page(score_verdict)
    for word in {*get_args(Status), *get_args(Verdict), *get_args(LogitVerdict)} - {"shape"}:
        assert page(word).startswith(f"# {word}\n\nOf ")


@pytest.mark.parametrize("word", SECTIONS)
def test_a_word_that_is_printed_has_the_section_about_it(word: str) -> None:
    name, heading = SECTIONS[word]
    assert f"\n## {heading}\n" in source(name)
    first = page(word).split("\n")[2]
    assert first
    assert first in source(name)


# ── classes of faults ────────────────────────────────────────────────────────────────────────


def test_every_class_of_faults_has_a_part_and_there_is_no_other() -> None:
    assert list(fault_parts()) == [*FAULT_CLASSES]


@pytest.mark.parametrize("kind", [kind for kind in FAULT_CLASSES if kind != "CONFIG"])
def test_the_effect_in_the_guide_is_the_one_that_a_finding_has(kind: FaultClass) -> None:
    (said,) = re.findall(r"\*\*Effect:\*\* (.*?)\.\n- ", page(kind), re.DOTALL)
    assert " ".join(said.split()) == FAULT_CLASSES[kind].effect


def test_a_part_begins_with_its_class_and_ends_before_the_next() -> None:
    text = page("qkv-swap")
    assert text.startswith("# QKV-SWAP\n\nQuery, key and value are exchanged")
    assert "QKV-HEADMAP" not in text
    assert page("SCALE").rstrip().endswith("All classes: [faults](faults.md)")


# ── pages ────────────────────────────────────────────────────────────────────────────────────


def test_every_page_is_a_topic_and_says_what_it_is_about() -> None:
    assert set(topics()) == {file.stem for file in GUIDE.glob("*.md")}
    assert set(topics()) >= {"faults", "verdicts", "logits", "keys", "formats", "families"}
    assert topics()["scores"] == "what a table of benchmark scores shows, and what it cannot"
    assert all(about and "\n" not in about for about in topics().values())
    assert topics()["keys"] == "what each key does on each screen"


@pytest.mark.parametrize("name", topics())
def test_a_page_has_no_marks_and_its_links_are_pages(name: str) -> None:
    text = page(name)
    assert text.startswith("# ")
    assert "<!--" not in text
    links = re.findall(r"\]\(((?!http)[^)#]+)", text)
    assert [link for link in links if not (GUIDE / link).is_file()] == []


@pytest.mark.parametrize("topic", ["faults", "FAULTS", "faults.md"])
def test_a_topic_is_found_however_it_is_written(topic: str) -> None:
    assert page(topic).startswith("# Classes of faults")


@pytest.mark.parametrize(
    ("topic", "near"), [("fault", "faults"), ("qkv-swop", "QKV-SWAP"), ("verdict", "verdicts")]
)
def test_a_topic_that_is_nearly_one_is_asked_about(topic: str, near: str) -> None:
    with pytest.raises(BadArgument, match=rf"no topic '{topic}'.*`ckptdiff help {near}` meant"):
        page(topic)


@pytest.mark.parametrize("topic", ["", "xyzzy", "../README", "__init__", "/etc/passwd"])
def test_what_is_no_topic_is_refused_with_the_topics(topic: str) -> None:
    with pytest.raises(BadArgument, match="there are families, faults, ") as caught:
        page(topic)
    assert "meant" not in str(caught.value)
