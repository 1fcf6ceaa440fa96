"""Pipes that close, users who interrupt, terminals that watch: no traceback, no process left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.pace import pace
from tests.support.pairs import noise, sparse, write_plain
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, environment, group, maps, parse, processor_seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]


# Pipes


pytestmark = pytest.mark.mostly_slow(one_in=3)


@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize(
    "words",
    ["ls {m}", "ls {m} --json", "ls {m} --raw", "diff {h} {m}", "diff {h} {m} --json -", "{m}"],
)
def test_a_closed_pipe_brings_no_traceback(tiny_hf: Make, tiny_megatron: Make, words: str) -> None:
    arguments = words.format(h=tiny_hf(), m=tiny_megatron(tp=2)).split()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    # As a shell says of programs that a closed pipe ends; nothing about the checkpoints.
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert said == ""
    assert until(lambda: group(process.pid) == [])


def test_the_first_line_can_be_taken_alone(tiny_megatron: Make) -> None:
    pipeline = f"{' '.join(PROGRAM)} ls {tiny_megatron()} --raw | head -1"
    done = subprocess.run(
        ["bash", "-c", pipeline], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert (done.stdout, done.stderr) == ("mp_rank_00/model_optim_rng.pt\n", "")


def test_output_on_a_full_disk_is_trouble_and_not_a_difference(tiny_hf: Make) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*PROGRAM, "ls", tiny_hf()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "bug in ckptdiff" not in done.stderr


# Signals


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Path, Path]:
    """Return a pair that takes half a minute: zeros of two dtypes, most of them in no disk."""
    shapes = {f"w{n}": (4096, 4096) for n in range(32)}
    return sparse(tmp_path / "a", shapes, "F64"), sparse(tmp_path / "b", shapes, "F32")


def heed_interrupts() -> None:
    """Undo what a shell does to a job in the background, which these tests may be part of."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(slow: tuple[Path, Path]) -> subprocess.Popen[str]:
    """Return a comparison whose workers are at work."""
    process = subprocess.Popen(
        [*PROGRAM, "diff", *map(str, slow), "--jobs", "2"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    file = slow[0] / "model.safetensors"
    busy = until(lambda: sum(maps(pid, file) for pid in group(process.pid)) == 2)
    assert busy, "the workers never started"
    assert len(group(process.pid)) == 3
    return process


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the program alone: its workers may hold on to its pipes."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # or it would be in the way of other tests
        process.communicate()
        raise
    until(lambda: group(process.pid) == [])
    left = group(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    output = process.communicate()
    assert left == []
    return output


@pytest.mark.slow
def test_an_interrupt_ends_the_program_and_its_workers(slow: tuple[Path, Path]) -> None:
    before = processor_seconds()
    process = start(slow)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = end(process)
    assert process.returncode == 130
    assert (out, err) == ("", "ckptdiff: stopped\n")
    # What is under way is finished, what waits is not: by the processor's clock, which does not
    # care what else runs on the machine, a small part of the half minute.
    assert processor_seconds() - before < 4700 * pace()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed_leaves_no_workers(
    slow: tuple[Path, Path], how: signal.Signals
) -> None:
    process = start(slow)
    process.send_signal(how)
    end(process)
    assert process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL])
def test_tensors_whose_workers_die_again_are_rows_that_say_so(
    tmp_path: Path, how: signal.Signals
) -> None:
    shapes = {f"w{n}": (2048, 2048) for n in range(2)}
    pair = sparse(tmp_path / "a", shapes, "F64"), sparse(tmp_path / "b", shapes, "F32")
    process = subprocess.Popen(
        [*PROGRAM, "diff", *map(str, pair), "--jobs", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    file = pair[0] / "model.safetensors"

    def has_ended() -> bool:
        for pid in group(process.pid):
            if pid != process.pid and maps(pid, file):
                os.kill(pid, how)
        return process.poll() is not None

    assert until(has_ended)
    out, err = end(process)
    assert (process.returncode, err) == (2, "")
    assert "2 tensors: 2 error" in out
    assert out.count("the worker that read it was killed") == 1  # and so the row below


# Terminals


def on_terminal(arguments: list[str], **changes: str) -> tuple[int, str, str]:
    """Run with stderr on a terminal; return exit code, output, and what the terminal saw."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment(TERM="xterm-256color", COLUMNS="100", **changes),
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=PATIENCE)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.returncode, out, seen.decode()


@pytest.fixture
def long(tmp_path: Path) -> tuple[Path, Path]:
    """Return a pair that is under way long enough for a bar to be drawn."""
    sides = []
    for side in "ab":
        tensors = {f"w{n:03d}": noise(64, 64, seed=n + (side == "b")) for n in range(300)}
        sides.append(write_plain(tmp_path / side, tensors))
    return sides[0], sides[1]


@pytest.mark.slow
def test_progress_is_drawn_on_stderr_and_never_in_the_output(long: tuple[Path, Path]) -> None:
    code, out, seen = on_terminal(["diff", *map(str, long), "--json", "-"])
    assert code == 1
    assert len(parse(out)["tensors"]) == 300
    assert "━" in seen
    assert "MB" in seen
    assert "\x1b" not in out


@pytest.mark.slow
def test_what_was_drawn_is_wiped_away(long: tuple[Path, Path]) -> None:
    _, out, seen = on_terminal(["diff", *map(str, long)])
    assert out.splitlines()[-1].startswith("verdict: differ")
    assert out.endswith("\n")
    assert seen.rstrip().endswith(("\x1b[2K", "\x1b[K", "\x1b[?25h"))


@pytest.mark.slow
def test_without_colour_the_bar_has_none(long: tuple[Path, Path]) -> None:
    _, _, seen = on_terminal(["diff", *map(str, long)], NO_COLOR="1")
    assert "━" in seen
    assert "\x1b[3" not in seen  # foreground colours: 30 to 37, 38;5;…
    assert "\x1b[9" not in seen


def test_the_files_of_a_side_are_counted_while_headers_are_read(tiny_megatron: Make) -> None:
    code, out, seen = on_terminal(["ls", str(tiny_megatron(tp=2, pp=2)), "--json"])
    assert code == 0
    assert len(parse(out)["tensors"]) == 21
    assert "reading headers 1 of 4 files" in seen
    assert seen.endswith("\r\x1b[K")
