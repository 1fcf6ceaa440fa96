"""The pages for a ticket: whole or not at all, and nothing from a file is markup in them."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff, pair_names
from ckptdiff.comparison.verdict import summarise
from ckptdiff.conversion.remap import Remap, by_template
from ckptdiff.demo import make_demo
from ckptdiff.errors import UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.pages import html_page, markdown_page, write_report
from ckptdiff.results import Displaced, Finding, TensorDiff

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary

    Compared = tuple[Assembled, Assembled, list[TensorDiff], DiffSummary]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    a, b = assemble_pair(*map(open_checkpoint, make_demo(tmp_path_factory.mktemp("demo"))))
    order = pair_names(a, b)
    results = sorted(diff(a, b, InlineExecutor()), key=lambda result: order.index(result.name))
    return a, b, results, summarise(results, a, b)


class Cells(HTMLParser):
    """Collects the text of a page's table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "td" and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_both_kinds_of_page_list_the_differing_tensors_and_no_other(compared: Compared) -> None:
    names = [f"model.layers.2.self_attn.{x}_proj.weight" for x in "kv"]
    page = Cells()
    page.feed(html_page(*compared, None))
    assert [row[1] for row in page.rows if row] == names
    lines = markdown_page(*compared, None).split("\n")
    assert [line.split("|")[2].strip(" `") for line in lines if line.startswith("| `")] == names
    assert lines[0] == "# ckptdiff: differ"


def test_both_kinds_of_page_tell_of_padding(compared: Compared) -> None:
    for page in (html_page, markdown_page):
        assert "12 padding rows in B: copies of the last row" in page(*compared, None)


def test_a_page_needs_nothing_beside_itself(compared: Compared) -> None:
    assert not re.search(r"https?:|src=|<script|<link", html_page(*compared, None))


def test_a_name_from_a_file_is_no_markup(compared: Compared) -> None:
    a, b, _, summary = compared
    evil = TensorDiff("<script>x</script>|`a`", "only_a", note="a|b\x1b[2J")
    page = Cells()
    page.feed(html_page(a, b, [evil], summary, None))
    assert "script" not in page.tags
    (row,) = [row for row in page.rows if row]
    assert row[1] == "<script>x</script>|`a`"
    line = markdown_page(a, b, [evil], summary, None).split("\n")[-1]
    assert len(re.split(r"(?<!\\)\|", line)) == 10  # eight cells between nine bars
    assert "\x1b" not in line


def test_the_ending_names_the_kind(compared: Compared, tmp_path: Path) -> None:
    for name in ("r.md", "r.html", "r.json", "r.txt"):
        write_report(tmp_path / name, *compared)
    assert (tmp_path / "r.md").read_text().startswith("# ckptdiff")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == "ckptdiff.diff/1"
    assert (tmp_path / "r.txt").read_text().endswith("verdict: differ\n")


def test_a_link_is_written_through_and_a_device_stays_one(
    compared: Compared, tmp_path: Path
) -> None:
    target = tmp_path / "target.txt"
    target.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    write_report(link, *compared)
    assert link.is_symlink()
    assert target.read_text().endswith("verdict: differ\n")
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_report(pipe, *compared)
    assert os.read(reader, 1 << 20).endswith(b"verdict: differ\n")
    os.close(reader)
    assert not pipe.is_file()


def test_a_page_that_cannot_be_written_leaves_nothing(compared: Compared, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="cannot be written"):
        write_report(tmp_path / "missing" / "r.md", *compared)
    assert list(tmp_path.iterdir()) == []


FINDING = Finding(
    "QKV-SWAP",
    "fault",
    "K and V <script>exchanged</script> | here",
    tensors=("k", "v"),
    layers=(2,),
    evidence="two\x1b[2Jshards ``` of three",
    undo=Remap("QKV-SWAP", by_template(["output_layer.weight"])),
    fix="ckptdiff convert in out --undo '```QKV-SWAP:<b>'",
    cause="the order was guessed",
    rejected=("ROPE-PERM",),
    displaced=Displaced("layer", 0, 3, ((0, 2), (2, 0))),
)
CONFLICT = Finding("CONFIG", "fault", "RoPE base", fix="--rotary-base 10000")


def test_both_kinds_of_page_tell_findings_with_fix_and_picture(compared: Compared) -> None:
    a, b, results, summary = compared
    summary = replace(summary, findings=(FINDING, CONFLICT))
    page = html_page(a, b, results, summary, None)
    text = markdown_page(a, b, results, summary, None)
    for words in ("2 tensors, layer 2", "the order was guessed", "ROPE-PERM"):
        assert words in page
        assert words in text
    for made in (page, text):
        assert "layer  0 2\nholds  2 0" in made
        assert "--rotary-base" not in made  # the lines of the config say that
        assert "\x1b" not in made
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert "````sh\nckptdiff convert in out --undo '```QKV-SWAP:<b>'\n````" in text
    head = next(line for line in text.split("\n") if line.startswith("## "))
    assert head.startswith("## `QKV-SWAP` fault: `K and V <script>")
