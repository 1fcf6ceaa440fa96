"""The pages for a ticket: whole or not at all, and nothing from a file is markup in them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from markdown_it import MarkdownIt

from ckptdiff import __version__
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff, pair_names
from ckptdiff.comparison.verdict import summarise
from ckptdiff.conversion.remap import Remap, by_template
from ckptdiff.demo import make_demo
from ckptdiff.errors import UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.drawings import heat_map
from ckptdiff.report.html_page import html_page
from ckptdiff.report.markdown_page import markdown_page
from ckptdiff.report.pages import write_report
from ckptdiff.results import Displaced, Finding, TensorDiff
from ckptdiff.text import printable
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.results import Numbers

    Compared = tuple[Assembled, Assembled, list[TensorDiff], DiffSummary]

LAYER_2 = "model.layers.2.self_attn"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    a, b = assemble_pair(*map(open_checkpoint, make_demo(tmp_path_factory.mktemp("demo"))))
    order = pair_names(a, b)
    results = sorted(diff(a, b, InlineExecutor()), key=lambda result: order.index(result.name))
    return a, b, results, summarise(results, a, b)


class Cells(HTMLParser):
    """Collects a page's text, and that of its table's cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.said: list[str] = []
        self.is_in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.is_in_cell = False

    def handle_data(self, data: str) -> None:
        self.said.append(data)
        if self.is_in_cell:
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
    page = html_page(*compared, None)
    assert not re.search(r"https?:|src=|<link|@import|url\(", page)
    assert page.count("<script") == 1
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\son\w+=| style=", page)  # which the policy would not let


def test_a_page_says_who_made_it_when_and_of_what(compared: Compared) -> None:
    a, b, _, _ = compared
    page = html_page(*compared, None, at=datetime(2026, 5, 4, 3, 2, tzinfo=UTC))
    assert f"ckptdiff {__version__} · 2026-05-04 03:02 UTC" in page
    for side in (a, b):
        assert f'<p class="path">{side.checkpoint.root}</p>' in page
    for label, text in (
        ("format", "hf"), ("format", "megatron"), ("family", "llama"),
        ("parallel", "TP 2, PP 1"), ("tensors", "39"), ("size", "473 kB"),
    ):  # fmt: skip
        assert f"<dt>{label}</dt><dd>{text}</dd>" in page


def test_a_page_is_dark_where_the_reader_wants_it(compared: Compared) -> None:
    assert "@media (prefers-color-scheme: dark)" in html_page(*compared, None)


def test_a_long_page_has_a_table_of_contents_that_leads_to_its_headings(
    compared: Compared,
) -> None:
    a, b, results, summary = compared
    assert "<nav>" not in html_page(*compared, None)
    long = replace(summary, findings=(FINDING, FINDING, FINDING))
    page = html_page(a, b, results, long, None)
    targets = re.findall(r'<a href="#(\w+)">', page)
    assert len(targets) == 6  # one command for all, three findings, tensors and by layer
    assert targets == re.findall(r'<section id="(\w+)">', page)


def test_the_pictures_are_inline_and_of_the_tensors_that_differ(compared: Compared) -> None:
    a, b, results, summary = compared
    wrong = replace(FINDING, tensors=(f"{LAYER_2}.k_proj.weight",))
    page = html_page(a, b, results, replace(summary, findings=(wrong,)), None)
    assert page.count('aria-label="heat map"') == 1
    assert f"largest |a-b| in {LAYER_2}.k_proj.weight" in page
    assert page.count('aria-label="dot plot"') == 1
    (plot,) = re.findall(r'<svg class="dots".*?</svg>', page)
    assert re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', plot) == [
        ("0.0", "53.3"), ("53.3", "0.0"),
    ]  # fmt: skip
    cells = re.findall(r'<rect class="(h\w)"[^>]*><title>([^:]*): (\w+)', page)
    assert len(cells) == 8  # two kinds of tensors, four layers
    assert {name for shade, name, _ in cells if shade != "h0"} == {
        f"{LAYER_2}.{x}_proj.weight" for x in "kv"
    }
    assert "10 more kinds of tensors are the same everywhere" in page


def test_the_heat_map_has_each_block_once_and_none_for_one_side_alone() -> None:
    numbers = SimpleNamespace(grid=bytes([0, 10, 250, 255, 60, 60]), grid_shape=(2, 3))
    drawn = heat_map(cast("Numbers", numbers))
    blocks = {
        shade: set(re.findall(r"M(\d) (\d)", path))
        for shade, path in re.findall(r'<path class="(\w+)" d="([^"]*)"', drawn)
    }
    assert blocks == {
        "h0": {("0", "0")}, "h1": {("1", "0")},
        "h2": {("1", "1"), ("2", "1")}, "h5": {("2", "0")}, "hx": {("0", "1")},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_lets_the_script_run_under_the_policy(compared: Compared, tmp_path: Path) -> None:
    a, b, results, summary = compared
    write_report(tmp_path / "r.html", a, b, results, replace(summary, findings=(FINDING,)))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c",
         "--dump-dom", (tmp_path / "r.html").as_uri()],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert '<button data-of="f0">Copy</button>' in done.stdout
    assert "<button hidden" in (tmp_path / "r.html").read_text()


EVIL = (
    "<script>x</script>|`a`",
    "a|b\x1b[2J",
    "``two`` `one",
    "`",
    "*bold* _it_ [l](http://x) ![i](j) <b> &amp; # ~~s~~",
    "back\\|slash\\",
    "line\nbreak\r\n| x |",
    " blanks ",
    "$math$ | :---",
)


@pytest.mark.parametrize("name", EVIL)
def test_a_name_from_a_file_is_no_markup(compared: Compared, name: str) -> None:
    a, b, _, summary = compared
    evil = TensorDiff(name, "only_a", note=name)
    page = Cells()
    page.feed(html_page(a, b, [evil], summary, None))
    assert page.tags.count("script") == 1
    (row,) = [row for row in page.rows if row]
    assert (row[1], row[7]) == (printable(name), printable(name))

    finding = replace(FINDING, title=name, evidence=name, fix=name, cause=name)
    summary = replace(summary, findings=(finding,), diagnosis_error=name)
    b = replace(b, unmapped=(name,))
    reader = rendered(markdown_page(a, b, [evil], summary, name))
    assert [row[1] for row in reader.rows if row] == [printable(name)]
    assert [row[7] for row in reader.rows if row] == [printable(name)]
    assert not {"script", "a", "img", "em", "strong", "b", "s"} & set(reader.tags)
    said = " ".join("".join(reader.said).split())
    wanted = " ".join(printable(name).split())
    assert (
        said.count(wanted) >= 7
    )  # row, note, title, evidence, fix, cause, error, unmapped, filter
    assert "\x1b" not in said


def rendered(text: str) -> Cells:
    """Return what a reader of GitHub's Markdown makes of a page."""
    page = Cells()
    page.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))
    return page


def test_a_reader_of_markdown_finds_the_table_the_command_and_the_picture(
    compared: Compared,
) -> None:
    a, b, results, summary = compared
    conflicting = replace(summary, findings=(FINDING,))
    page = rendered(markdown_page(a, b, results, conflicting, None))
    names = [f"{LAYER_2}.{x}_proj.weight" for x in "kv"]
    assert [row[1] for row in page.rows if row] == names
    assert page.tags.count("pre") == 2
    assert page.tags.count("table") == 1
    assert "This command mends it:" in "".join(page.said)


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
    assert page.count("<script>") == 1
    assert "&lt;b&gt;" in page
    assert "````sh\nckptdiff convert in out --undo '```QKV-SWAP:<b>'\n````" in text
    assert "## QKV-SWAP fault: K and V \\<script\\>exchanged" in text
    assert '<pre id="f0">ckptdiff convert' in page
    assert '<p>This command mends it<button hidden data-of="f0">Copy</button></p>' in page
