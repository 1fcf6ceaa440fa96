"""Colour: on a terminal, never in a pipe; it repeats what is written, and no name changes it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from ckptdiff.cli.paint import Painter
from ckptdiff.cli.table import table_lines
from ckptdiff.demo import make_demo
from ckptdiff.report.statuses import GLYPH, WORD
from ckptdiff.report.tensor_table import TensorRow, TensorTable
from tests.support.program import PROGRAM, ckptdiff

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.results import Status

ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")


def on_a_terminal(*words: object, columns: int = 100, environ: dict[str, str] | None = None) -> str:
    """Return what a command writes to a terminal; NO_COLOR and FORCE_COLOR as they are given."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE")
    with subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
        env={**{k: v for k, v in os.environ.items() if k not in unset},
             "TERM": "xterm-256color", **(environ or {})},
    ):  # fmt: skip
        os.close(theirs)
        parts = []
        with suppress(OSError):  # how the end of a terminal shows on Linux
            while part := os.read(ours, 65536):
                parts.append(part)
        os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def colours(text: str) -> set[int]:
    """Return the codes of colours in a text; bold and dim are none."""
    codes = {int(code) for found in ESCAPE.findall(text) for code in found.split(";") if code}
    return {code for code in codes if code >= 30}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.mark.slow
def test_a_terminal_gets_colour_and_the_same_words(pair: tuple[Path, Path]) -> None:
    shown = on_a_terminal("diff", *pair)
    plain = ESCAPE.sub("", shown)
    assert colours(shown) == {31, 32, 34, 35, 36}
    assert "\x1b[1;31m!" in shown
    for words in ("\nverdict: differ\n", "✗  QKV-SWAP: K and V exchanged", "37 same, 2 differ in "):
        assert words in plain
    assert "max ulp" in plain  # which 100 columns have room for, and the lines of a pipe have not
    assert "max ulp" not in ckptdiff("diff", *pair).stdout


@pytest.mark.slow
@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colour_is_left_out_where_it_is_not_wanted(
    pair: tuple[Path, Path], environ: dict[str, str]
) -> None:
    shown = on_a_terminal("diff", *pair, environ=environ)
    assert colours(shown) == set()
    assert "verdict: differ\n" in ESCAPE.sub("", shown)


@pytest.mark.slow
def test_force_color_colours_a_pipe_and_changes_no_line(pair: tuple[Path, Path]) -> None:
    done = subprocess.run(
        [*PROGRAM, "diff", *pair], capture_output=True, text=True, check=False,
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": ""},
    )  # fmt: skip
    wanted = ckptdiff("diff", *pair).stdout
    assert colours(done.stdout)
    assert colours(wanted) == set()
    took = re.compile(r" in [\d.]+ s")
    assert took.sub("", ESCAPE.sub("", done.stdout)) == took.sub("", wanted)


@pytest.mark.slow
def test_a_reader_that_leaves_a_coloured_pipe_is_no_difference(pair: tuple[Path, Path]) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1; echo ${PIPESTATUS[0]}', "-", *PROGRAM, "ls", pair[0]],
        capture_output=True, text=True, check=True, env={**os.environ, "FORCE_COLOR": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] in ("0", "141")
    assert done.stderr == ""


@pytest.mark.slow
def test_a_listing_and_a_conversion_are_painted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    listed = on_a_terminal("ls", pair[0])
    assert "\x1b[36m64x64\x1b[0m" in listed
    done = on_a_terminal("convert", pair[0], tmp_path / "o", "--to", "megatron", columns=60)
    assert "\x1b[34mverified\x1b[0m" in done
    (command,) = [line for line in ESCAPE.sub("", done).split("\n") if " --load " in line]
    assert len(command) > 200  # it is to be copied: the terminal breaks it, we do not


# ── one process ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Painter(is_laid_out=True, is_listing=False)


EVIL = "[bold red]x[/] :skull: verdict: same ✗  QKV-SWAP: {} \\[b]"


def test_a_name_is_no_markup_and_has_no_colour_of_its_own(painter: Painter) -> None:
    table = TensorTable((TensorRow("differ", EVIL, notes=(EVIL,)),))
    shown = painter.painted(table)
    assert f"  {EVIL}\n" in ESCAPE.sub("", shown)
    assert colours(shown.split("\n")[1]) == {31}  # the glyph's
    for line in (f"     {EVIL}", f"?  {EVIL}: no rule knows it (in B)"):
        assert EVIL in ESCAPE.sub("", painter.painted(line))
        assert colours(painter.painted(line)) <= {33}


def test_a_name_like_a_glyph_is_not_painted_in_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    painter = Painter(is_laid_out=True, is_listing=True)
    for name in ("x", "A", "to", "!"):
        assert painter.painted(f"{name}  no rule of llama knows it").startswith(f"{name}  ")
        assert painter.painted(f"{name}   BF16   2x3    12 B").startswith(f"{name}   \x1b")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_the_table_fits_and_says_every_name(width: int) -> None:
    statuses: tuple[Status, ...] = ("differ", "only_a", "shape", "error")
    names = ["model.norm.weight", f"model.layers.11.{'very_' * 12}long.weight", "層.weight", "x"]
    rows = tuple(
        TensorRow(status, name, "4096x11008", "1.1e-01", "2.2e+00", "-0.011", "31,400", "99.9%",
                  "BF16", WORD["only_a"] if status == "only_a" else "")
        for name, status in zip(names, statuses, strict=True)
    )  # fmt: skip
    lines = [
        line.plain for line in table_lines(TensorTable(rows, 3), width) if not isinstance(line, str)
    ]
    assert max(map(cell_len, lines)) <= max(width, 36)
    glyphs = {GLYPH[row.status] for row in rows}
    starts = [number for number, line in enumerate(lines) if line[0] in glyphs]
    for name, start, stop in zip(names, starts, [*starts[1:], len(lines)], strict=True):
        cells = [line[3:].partition("  ")[0].strip() for line in lines[start:stop]]
        assert "".join(cells) == name
    heads = lines[0].split()
    assert ("dtype" in heads) == (width >= 200)
    assert "rel" in heads


def test_prose_is_wrapped_below_where_it_begins(painter: Painter) -> None:
    lines = painter.painted("✗  DTYPE: " + "a word and another " * 8).rstrip("\n").split("\n")
    assert len(lines) == 3
    assert all(len(ESCAPE.sub("", line)) <= 80 for line in lines)
    assert all(line.startswith(("   a", "   w")) for line in lines[1:])
    command = f"     fix: ckptdiff convert {'word ' * 40}"
    assert ESCAPE.sub("", painter.painted(command)) == f"{command}\n"
