"""Whatever the standard streams are, a result is printed, or one sentence says why not."""

from __future__ import annotations

import codecs
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckptdiff.cli import streams
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.demo import make_demo
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, environment, parse, until

pytestmark = pytest.mark.mostly_slow(one_in=5)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    a, b = make_demo(tmp_path_factory.mktemp("demo"))
    return str(a), str(b)


def run(*words: str, **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env=environment(**changes),
    )


LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii that is strict": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": "POSIX"},
}


@pytest.mark.parametrize("name", LOCALES)
def test_an_output_of_few_characters_has_all_of_the_result(
    pair: tuple[str, str], name: str
) -> None:
    changes = LOCALES[name]
    encoding = changes.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    done = run("diff", *pair, "--jobs", "1", **changes)
    assert (done.returncode, done.stderr) == (1, b"")
    said = done.stdout.decode(encoding)
    assert said.endswith("verdict: differ\n")
    mark = "✗" if encoding.startswith("utf") and name != "C" else "x"
    assert f"{mark}  QKV-SWAP" in said
    listed = run("ls", pair[0], "--json", **changes)
    assert len(parse(listed.stdout.decode(encoding))["tensors"]) == 39


def test_what_an_encoding_lacks_is_its_twin_or_escaped() -> None:
    streams.prepare()
    text = "✗ … a²\U0001f600\udc80\u0416"
    assert text.encode("ascii", "ckptdiff") == b"x ... a^2\\U0001f600\\udc80\\u0416"
    with pytest.raises(UnicodeDecodeError):
        codecs.decode(b"\xff", "utf-8", "ckptdiff")


def shell(line: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", f'"$@" {line}', "bash", *PROGRAM, *words],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_streams_that_are_closed_cost_no_result(pair: tuple[str, str], closed: str) -> None:
    done = shell(closed, "ls", pair[0])
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"model.norm.weight" in done.stdout


def test_an_error_is_not_said_in_the_output_instead(tmp_path: Path) -> None:
    done = shell("2>&-", "ls", str(tmp_path / "nothing"))
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_without_an_output_there_is_no_success(pair: tuple[str, str]) -> None:
    done = shell(">&-", "ls", pair[0])
    assert (done.returncode, done.stderr) == (2, b"ckptdiff: the output is closed\n")
    assert shell("<&- >&- 2>&-", "ls", pair[0]).returncode == 2


@pytest.mark.parametrize("words", [("diff", "--json", "-"), ("diff",)], ids=["json", "text"])
def test_a_full_disk_is_one_sentence(pair: tuple[str, str], words: tuple[str, ...]) -> None:
    done = shell(">/dev/full", words[0], *pair, *words[1:], "--jobs", "1")
    assert done.returncode == 2
    said = b"ckptdiff: the output cannot be written (No space left on device)\n"
    assert done.stderr == said


def test_a_full_pipe_that_does_not_wait_gets_all_of_it(pair: tuple[str, str]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    held = os.write(writing, bytes(1 << 20))  # what fits
    process = subprocess.Popen([*PROGRAM, "ls", pair[1], "--json"], stdout=writing)
    os.close(writing)
    # Until it waits for room, or has failed where it should. Where the system does not tell, read.
    where = Path(f"/proc/{process.pid}/wchan")
    until(lambda: process.poll() is not None or "pipe" in where.read_text(), 10.0)
    with os.fdopen(reading, "rb") as pipe:
        seen = pipe.read()
    assert process.wait(PATIENCE) == 0
    assert len(parse(seen[held:].decode())["tensors"]) == 39


def test_a_reader_that_leaves_brings_no_word(pair: tuple[str, str]) -> None:
    done = shell("| true; exit ${PIPESTATUS[0]}", "ls", pair[0], "--raw")
    assert done.stderr == b""
    assert done.returncode in (0, 128 + signal.SIGPIPE)


def test_convert_names_its_source_and_what_it_wrote_escaped(tmp_path: Path) -> None:
    strange = "\x1b[31m\u202e"
    source, _ = make_demo(tmp_path / strange)
    out = tmp_path / f"out{strange}"
    for options in ((), ("--overwrite", "--no-verify"), ()):  # and then it is not empty
        done = run("convert", str(source), str(out), "--to", "hf", "--jobs", "1", *options)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == (0 if done.stdout else 2)
        assert {c for c in said if not c.isprintable()} == {"\n"}
        assert "\\033[31m\\342\\200\\256" in said or "\\x1b[31m\\u202e" in said


def test_a_bar_shows_a_name_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("bytes") as bar:
        bar.begin("compare", 2)
        bar.advance(1, "a[/red]\x1b[2J[red]b")
        bar._progress.refresh()
    assert "a[/red]\\x1b[2J[red]b" in re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
