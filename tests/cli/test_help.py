"""The command `help`: Markdown for a pipe, a rendered page in a pager on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ckptdiff.guide.topics import page, topics
from ckptdiff.tui.text.page import WIDEST
from tests.support.program import ckptdiff
from tests.test_import_hygiene import HEAVY, imported

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=5)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(*words: str, columns: int = 80, **environ: str) -> tuple[int, str]:
    """Run a command with a terminal as its output; return its exit code and what it wrote."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ckptdiff", "help", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        env={
            **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
            "TERM": "xterm-256color",
            "COLUMNS": str(columns),
            "LINES": "24",
            **environ,
        },
    ) as done:
        os.close(theirs)
        parts = []
        with suppress(OSError):  # how the end of a terminal shows on Linux
            while part := os.read(ours, 65536):
                parts.append(part)
        os.close(ours)
    return done.returncode, b"".join(parts).decode().replace("\r\n", "\n")


# ── without a terminal ───────────────────────────────────────────────────────────────────────


def test_without_a_topic_every_page_is_listed_with_what_it_is_about() -> None:
    done = ckptdiff("help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, about in topics().items():
        assert re.search(rf"^  {name} +{re.escape(about)}$", done.stdout, re.MULTILINE)
    assert "ckptdiff help TOPIC" in done.stdout


@pytest.mark.parametrize("topic", topics())
def test_a_page_is_printed_as_it_is_where_there_is_no_terminal(topic: str) -> None:
    done = ckptdiff("help", topic)
    assert (done.returncode, done.stdout, done.stderr) == (0, page(topic), "")


def test_a_class_of_faults_is_a_topic() -> None:
    done = ckptdiff("help", "qkv-swap")
    assert (done.returncode, done.stdout) == (0, page("QKV-SWAP"))
    assert done.stdout.startswith("# QKV-SWAP\n")


def test_an_unknown_topic_is_trouble_that_names_the_topics() -> None:
    done = ckptdiff("help", "verdict")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ckptdiff: help: there is no topic 'verdict'")
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in topics())
    assert "Is `ckptdiff help verdicts` meant?" in done.stderr


def test_help_is_listed_and_has_a_help_of_its_own() -> None:
    assert "ckptdiff help [TOPIC]" in ckptdiff("--help").stdout
    done = ckptdiff("help", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ckptdiff help QKV-SWAP" in done.stdout


def test_a_page_for_a_pipe_imports_nothing_slow() -> None:
    for words in (["help"], ["help", "verdicts"]):
        code, names = imported(*words)
        assert code == 0
        assert not names & HEAVY


# ── on a terminal ────────────────────────────────────────────────────────────────────────────


def test_on_a_terminal_a_page_is_rendered_and_given_to_the_pager(tmp_path: Path) -> None:
    file = tmp_path / "page"
    code, shown = on_a_terminal("verdicts", PAGER=f"cat > '{file}'")
    assert (code, shown) == (0, "")
    text = file.read_text()
    assert "\x1b[1m" in text
    plain = ESCAPE.sub("", text)
    assert "Exit codes" in plain
    assert "## Exit codes" not in plain
    assert "faults (ckptdiff help faults)" in " ".join(plain.split())
    assert max(map(len, plain.splitlines())) <= 80


def test_a_wide_terminal_does_not_make_long_lines() -> None:
    _, shown = on_a_terminal("formats", columns=200, PAGER="cat")
    widest = max(map(len, ESCAPE.sub("", shown).splitlines()))
    assert 80 < widest <= WIDEST


def test_no_color_is_kept_and_an_empty_pager_prints() -> None:
    code, shown = on_a_terminal("QKV-SWAP", NO_COLOR="1", PAGER="")
    assert code == 0
    assert "Query, key and value are exchanged" in shown
    colours = {n for m in re.findall(r"\x1b\[([0-9;]*)m", shown) for n in m.split(";")}
    assert not {n for n in colours if n.isdigit() and int(n) >= 30}
    _, coloured = on_a_terminal("QKV-SWAP", PAGER="")
    assert re.search(r"\x1b\[[0-9;]*3[0-7]", coloured)


@pytest.mark.parametrize("pager", ["no-such-pager-anywhere", "false", "'"])
def test_a_pager_that_does_not_run_does_not_hide_the_page(pager: str) -> None:
    code, shown = on_a_terminal("QKV-SWAP", PAGER=pager)
    assert code == 0
    assert "Query, key and value are exchanged" in shown


def test_a_pager_that_is_left_early_is_no_trouble() -> None:
    code, shown = on_a_terminal("faults", PAGER="true")
    assert (code, shown) == (0, "")


def test_a_terminal_without_abilities_gets_no_pager() -> None:
    code, shown = on_a_terminal("keys", TERM="dumb", PAGER="echo by-the-pager")
    assert code == 0
    assert "by-the-pager" not in shown
    assert "next difference" in shown
