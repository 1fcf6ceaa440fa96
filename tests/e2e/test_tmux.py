"""The real program in a real terminal, from its start to the shell's prompt."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.demo import make_demo
from tests.support.patience import PATIENCE
from tests.support.program import maps
from tests.support.tmux import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
    pytest.mark.mostly_slow(one_in=6),
]

LARGE = 960  # tensors


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of 500 GB, many minutes of work, and no room on the disk: all holes."""
    folder = tmp_path_factory.mktemp("large")
    return _holes(folder / "a", LARGE, 65536), _holes(folder / "b", LARGE, 65536)


def _holes(folder: Path, count: int, rows: int = 2048) -> Path:
    folder.mkdir()
    columns = 4096
    size = rows * columns * 2
    header: dict[str, Any] = {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + count * size)
    return folder


def test_from_the_start_over_a_difference_to_the_prompt(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(*pair)
    terminal.wait_for("2 of 39 tensors differ")
    terminal.keys("Enter")  # the cursor is on the first difference
    screen = terminal.wait_for("Where it lives")
    assert "model.layers.2.self_attn.k_proj.weight" in screen
    terminal.keys("n")
    terminal.wait_for("model.layers.2.self_attn.v_proj.weight")
    terminal.keys("q")
    terminal.wait_for("sort: model order")
    terminal.keys("?")
    terminal.wait_for("On this screen")
    terminal.keys("q")  # not Escape: with a key right behind it that is another key
    terminal.keys("Q")
    screen = terminal.wait_for("exit code 0")
    assert "Tensors" not in screen  # the shell's own screen is back
    assert terminal.children() == []


def test_one_checkpoint_is_listed(terminal: Terminal, pair: tuple[Path, Path]) -> None:
    terminal.start(pair[1])
    screen = terminal.wait_for("Headers only.")
    assert "model.embed_tokens.weight" in screen
    assert "BF16" in screen
    terminal.keys("q")
    terminal.wait_for("exit code 0")


def test_without_arguments_it_asks_and_completes_folders(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start()
    terminal.wait_for("Compare two checkpoints")
    terminal.keys(f"{pair[0].parent}/h")
    time.sleep(0.5)
    terminal.keys("Tab")
    terminal.wait_for("llama  4 layers  39 tensors")
    terminal.keys("Tab", str(pair[1]))
    terminal.wait_for("Megatron  TP 2")
    terminal.keys("Enter")
    terminal.wait_for("2 of 39 tensors differ")
    terminal.keys("q")
    terminal.wait_for("Compare two checkpoints")
    terminal.keys("C-q")
    terminal.wait_for("exit code 0")


def test_what_cannot_be_opened_is_said_and_is_trouble(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(pair[0], terminal.home / "nowhere")
    terminal.wait_for("there is no such file or folder")
    terminal.keys("q")
    terminal.wait_for("exit code 2")


def test_resizing_brings_the_detail_pane_and_takes_it_away(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(*pair)
    terminal.wait_for("2 of 39 tensors differ")
    terminal.tmux("resize-window", "-x", "120", "-y", "40")
    terminal.wait_for("enter full screen")
    terminal.tmux("resize-window", "-x", "39", "-y", "12")
    terminal.wait_for("ckptdiff needs 40x10, this is 39x12")
    terminal.tmux("resize-window", "-x", "80", "-y", "24")
    assert "enter full screen" not in terminal.wait_for("row 6 of 15")


def test_both_sides_stand_side_by_side_each_under_its_own_names(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(*pair, size=(120, 40))
    terminal.tmux("set-option", "-s", "set-clipboard", "on")
    screen = terminal.wait_for("K and V exchanged")
    (line,) = [line for line in screen.splitlines() if "self_attn.q_proj.weight" in line]
    assert "┌ self_attention.linear_qkv.weight" in line
    terminal.keys("Tab", "y")
    terminal.wait_for("Sent 49 characters")
    stored = "decoder.layers.2.self_attention.linear_qkv.weight"
    assert terminal.tmux("show-buffer") == stored
    terminal.keys("|")
    screen = terminal.wait_for("St Tensor")
    assert "-  model.layers.2" in screen
    assert "decoder.layers.2 " not in screen
    terminal.keys("|")
    screen = terminal.wait_for("q k v of layer 2")
    assert "Stored tensor" in screen
    assert "rank 0" in screen
    terminal.keys("|")
    terminal.wait_for("┌ self_attention.linear_qkv.weight")


def test_a_small_terminal_shows_the_list_alone(terminal: Terminal, pair: tuple[Path, Path]) -> None:
    terminal.start(*pair, size=(40, 10))
    lines = terminal.wait_for("!1").splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["St", "Tensor", "max|d|"]
    names = [line.split()[1] for line in lines if line.lstrip().startswith("!1")]
    assert names == ["self_attn.k_proj", "self_attn.v_proj"]
    assert "enter Open" in lines[-1]
    terminal.keys("Enter")
    terminal.wait_for("Where it lives")


def test_x_stops_and_r_goes_on_where_it_was(terminal: Terminal, large: tuple[Path, Path]) -> None:
    terminal.start("--jobs", 1, *large)
    terminal.wait_for("ETA")
    terminal.keys("x")
    screen = terminal.wait_for("r goes on.")
    (count,) = re.findall(rf"Stopped\. (\d+) of {LARGE} compared", screen)
    terminal.keys("r")
    terminal.wait_for("ETA")
    (again,) = re.findall(rf"(\d+) of {LARGE} compared", terminal.screen())
    assert int(again) >= int(count)
    terminal.keys("C-c")
    terminal.wait_for("r goes on.")
    terminal.keys("C-c")
    terminal.wait_for("Press Q to quit.")
    terminal.keys("Q")
    terminal.wait_for("exit code 0")
    assert terminal.children() == []


def test_leaving_does_not_wait_for_the_comparison(
    terminal: Terminal, large: tuple[Path, Path]
) -> None:
    terminal.start(*large)
    terminal.wait_for("ETA")
    terminal.keys("Q")
    terminal.wait_for("exit code 0", 120)  # and not the many minutes that the work takes


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(terminal: Terminal, tmp_path: Path) -> None:
    # A pair of its own: results of another test's comparison would be remembered.
    pair = _holes(tmp_path / "a", 64), _holes(tmp_path / "b", 64)
    terminal.start(*pair)
    # Looked for from the start: a quick machine is done soon after the first figures.
    deadline = time.monotonic() + PATIENCE
    while not (workers := [pid for pid in terminal.children() if _is_worker(pid)]):
        assert time.monotonic() < deadline, "no worker has been started"
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    terminal.wait_for("No differences in 64 tensors")


@pytest.mark.slow
def test_a_tensor_whose_workers_die_again_is_a_row_that_says_so(
    terminal: Terminal, tmp_path: Path
) -> None:
    pair = _holes(tmp_path / "a", 1, 65536), _holes(tmp_path / "b", 1, 65536)
    terminal.start("--jobs", 1, *pair, size=(120, 40))
    deadline = time.monotonic() + PATIENCE
    while "x 1 error" not in (screen := terminal.screen()):
        assert time.monotonic() < deadline, screen
        for pid in filter(_is_worker, terminal.children()):
            if maps(pid, pair[0] / "model.safetensors"):
                os.kill(pid, signal.SIGBUS)
    terminal.keys("n", "Enter")
    terminal.wait_for("killed by SIGBUS")
    assert terminal.modes() == (True, True, True)
    terminal.keys("Q")
    terminal.wait_for("exit code")
    assert terminal.children() == []


def _is_worker(pid: int) -> bool:
    # -ww: pytest's workers have COLUMNS set, at which ps would cut a long path off.
    command = ["ps", "-ww", "-p", str(pid), "-o", "args="]
    return "spawn_main" in subprocess.run(command, capture_output=True, text=True).stdout


def test_no_color_leaves_the_colours_of_the_terminal(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(*pair, NO_COLOR="1")
    terminal.wait_for("2 of 39 tensors differ")
    terminal.keys("n")
    terminal.wait_for("row 7 of 15")
    assert _colours(terminal.screen("-e")) <= {"39", "49"}


def test_sixteen_colours_are_enough(terminal: Terminal, pair: tuple[Path, Path]) -> None:
    terminal.start(*pair, TERM="screen", COLORTERM="")
    terminal.wait_for("2 of 39 tensors differ")
    colours = _colours(terminal.screen("-e"))
    assert colours <= {str(n) for n in (*range(30, 38), 39, *range(40, 48), 49, *range(90, 108))}
    assert len(colours) > 2


def _colours(captured: str) -> set[str]:
    """Return the colour codes of a capture, those of many parts as one."""
    codes = set()
    for sequence in re.findall(r"\x1b\[([\d;]*)m", captured):
        for code in re.findall(r"[34]8;(?:5;\d+|2;\d+;\d+;\d+)|\d+", sequence):
            if ";" in code or int(code) >= 30:
                codes.add(code)
    return codes


def test_a_copied_name_lands_in_the_terminals_clipboard(
    terminal: Terminal, pair: tuple[Path, Path]
) -> None:
    terminal.start(*pair)
    terminal.tmux("set-option", "-s", "set-clipboard", "on")
    terminal.wait_for("2 of 39 tensors differ")
    terminal.keys("y")
    terminal.wait_for("Sent 38 characters")
    assert terminal.tmux("show-buffer") == "model.layers.2.self_attn.k_proj.weight"


def test_the_linux_console_gets_ascii(terminal: Terminal, pair: tuple[Path, Path]) -> None:
    terminal.start(*pair, TERM="linux", size=(120, 40))
    terminal.wait_for("2 of 39 tensors differ")
    terminal.keys("n")
    time.sleep(0.5)
    assert terminal.screen().isascii()
