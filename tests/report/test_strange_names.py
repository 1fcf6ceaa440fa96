"""Names of any characters in every output: what arrives can be seen, and what is shown be used."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ckptdiff.assembly.assemble import assemble, assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.comparison.verdict import summarise
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.diff import diff_document, diff_lines
from ckptdiff.report.html_page import html_page
from ckptdiff.report.ls import listing_document, listing_lines, raw_document, raw_lines
from ckptdiff.report.markdown_page import cell, code, markdown_page, prose
from ckptdiff.results import Finding
from ckptdiff.text import pasted_name, printable, shell_line, shell_word
from tests.support.hostile import entry, safetensors

if TYPE_CHECKING:
    from pathlib import Path

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = "\u00ad\u034f\u115f\u200b\u200d\u2060\u2800\u3164\ufe0f\ufeff\U000e0041\U000e0100"
CONTROL = "\x01\a\b\t\n\r\x1b\x7f\x85\x9b\u2028\u2029"
MARKUP = "`|\\*_~#<>&[]()!{}$'\"-=+:/@ .\u00e4w"
HALVES = "\ud800\udfff\udc80"
strange = st.text(st.sampled_from(BIDI + UNSEEN + CONTROL + MARKUP + HALVES), min_size=1)
# JSON of a safetensors header has no halves: they are refused.
storable = st.text(st.sampled_from(BIDI + UNSEEN + CONTROL + MARKUP), min_size=1, max_size=20)
NASTY = (
    "`", "a`", "``a", "![x](http://x/y.png)", "<img src=x onerror=alert(1)>", "a|b`c",
    "[red]a[/red]", "http://x.y/z", "<http://x.y>", "\x1b]52;c;cm0=\a", "a\u202egnp", "a\nb",
    "**a**",
)  # fmt: skip


def clean(text: str) -> str:
    """Check that a text holds no character that controls or is not seen; return it."""
    for line in text.split("\n"):
        for character in line:
            assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
            assert character not in UNSEEN
    return text


@given(strange)
@example("\u2800")
def test_what_is_printable_is_seen(text: str) -> None:
    assert "\n" not in clean(printable(text))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_gives_back_what_was_quoted() -> None:
    words = [
        "a b",
        "it's",
        "-x",
        "\\n",
        "$HOME",
        "a\\'b\x1b",
        *NASTY,
        *CONTROL,
        *BIDI,
        *UNSEEN,
        *HALVES,
    ]
    line = shell_line(words)
    assert "\n" not in clean(line)
    script = f"printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script.encode()], capture_output=True, check=True)
    told = [word.encode("utf-8", "surrogatepass") for word in words]
    told[words.index("\udc80")] = b"\x80"  # a byte of a path that is no UTF-8
    assert done.stdout.split(b"\0")[:-1] == told


def test_a_name_in_the_clipboard_is_itself_or_quoted() -> None:
    assert pasted_name("model.norm weight") == "model.norm weight"
    assert pasted_name("a\x1b[2J") == shell_word("a\x1b[2J") == "$'a\\033[2J'"


class Page(HTMLParser):
    """Collects the tags and the code of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.code: list[str] = []
        self._is_code = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._is_code = tag == "code"
        if self._is_code:
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_code = self._is_code and tag != "code"

    def handle_data(self, data: str) -> None:
        if self._is_code:
            self.code[-1] += data


def read(markdown: str) -> Page:
    """Return what a reader of GitHub's Markdown makes of a text."""
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


@given(strange)
@example("`")
@example("``a`")
@example(" a ")
@example("!`[x](y)`")
def test_a_name_is_one_span_of_code_and_nothing_else(text: str) -> None:
    text = printable(text)
    seen = text.strip(" ")
    for made in (f"- A: {code(text)}", f"| a |\n| --- |\n| {cell(text)} |"):
        page = read(made)
        assert page.tags - {"ul", "li", "table", "thead", "tbody", "tr", "th", "td"} <= {"code"}
        assert [c.strip(" ") for c in page.code] == ([seen] if seen else [])


@given(strange)
def test_a_name_in_a_sentence_is_no_markup(text: str) -> None:
    page = read(f"A sentence of {prose(printable(text))} that ends.")
    assert page.tags == {"p"}


def folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True)
    header = {name: entry(), "b": entry(offsets=(8, 16))}
    file = root / "model.safetensors"
    # Keys that one side alone has are named, as are those that differ.
    config = {"model_type": name, f"{name}{root.parent.name}": 1, f"x{name}": root.parent.name}
    (root / "config.json").write_text(json.dumps(config))
    file.write_bytes(safetensors(header, (root.parent.name[0] * 16).encode()))
    return root


@settings(max_examples=12, deadline=None)
@given(storable)
@example("`")
@example("a`")
@example("![x](http://x/y.png)")
@example("<img src=x onerror=alert(1)>")
@example("a|b`c\x1b]52;c;cm0=\a")
def test_a_strange_name_leaves_every_output_clean(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    place = re.sub("[/\0]", "_", name).strip(".") or "x"
    root = tmp_path_factory.mktemp("strange")
    a = open_checkpoint(folder(root / "a" / place, name))
    b = open_checkpoint(folder(root / "b" / place, name))
    sides = assemble_pair(a, b)
    results = list(diff(*sides, InlineExecutor()))
    finding = Finding(
        kind="STALE", severity="fault", title=f"{name} is old", confidence=1.0, tensors=(name,),
        layers=(), experts=(), ranks=(), evidence=f"{name} has the bytes of {name}",
        fix=shell_line(["ckptdiff", "convert", str(b.root), name]),
    )  # fmt: skip
    summary = replace(summarise(results, *sides), findings=(finding,))
    every = lambda _: True  # noqa: E731
    shown = printable(name)

    said = clean("\n".join(diff_lines(*sides, results, summary)))
    assert shown in said
    side = assemble(a)
    assert shown in clean("\n".join(listing_lines(side, every)))
    assert shown in clean("\n".join(raw_lines(side, every)))

    for document in (
        diff_document(*sides, results, summary),
        listing_document(side, every),
        raw_document(side, every),
    ):
        text = json.dumps(document, allow_nan=False)
        assert text.isascii()
        assert text.isprintable()
        assert json.loads(text) == json.loads(json.dumps(document))

    page = html_page(*sides, results, summary, None)
    assert html.escape(shown) in clean(page)
    tags = Page(page).tags
    assert not tags & {"img", "red", "iframe"}
    page = markdown_page(*sides, results, summary, None)
    found = read(clean(page))
    assert not found.tags & {"img", "a", "em", "strong", "s", "script", "h3"}
    if shown.strip():
        assert any(shown.strip(" ") == text.strip(" ") for text in found.code)
