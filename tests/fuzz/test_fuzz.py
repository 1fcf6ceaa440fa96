"""What fuzzing found stays found, and the harnesses see what they are to see; without atheris."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save

from ckptdiff.errors import CorruptFile
from tests.fuzz import __main__ as driver
from tests.fuzz import guard, mutate_json, mutate_pickle, mutate_zip
from tests.fuzz.guard import Guarded, Slot
from tests.fuzz.harnesses import HARNESSES
from tests.fuzz.seeds import torch_file, write_all
from tests.support.corpus import REPOSITORY
from tests.support.patience import PATIENCE

RUNS = 60  # changed seeds of each harness
SAFE = [name for name, harness in HARNESSES.items() if not harness.in_worker]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with bases and seeds."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def replayed(work: Path) -> dict[str, dict[str, Any]]:
    """Return what `tests.fuzz.replay` says, by harness: in a process that a find may kill."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.replay", str(work), str(RUNS)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {line["harness"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAFE)
def test_what_fuzzing_found_is_read_or_refused(
    name: str, replayed: dict[str, dict[str, Any]]
) -> None:
    found = replayed[name]
    assert not found["wrong"], "\n".join(f"{k}: {v}" for k, v in found["wrong"].items())
    assert found["finds"] + RUNS == found["read"] + found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAFE)
def test_changed_seeds_reach_what_reads_them(
    name: str, replayed: dict[str, dict[str, Any]]
) -> None:
    assert replayed[name]["read"] > 0


def raises(error: BaseException) -> Any:
    def read(data: bytes) -> None:
        raise error

    return read


def caused() -> CorruptFile:
    error = CorruptFile("too little memory")
    error.__cause__ = MemoryError()
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError"),
        (RecursionError(), "RecursionError"),
        (SystemExit(2), "SystemExit"),
        (CorruptFile("x" * 5000), "a long message"),
        (caused(), "MemoryError"),
    ],
)
def test_an_error_that_is_no_sentence_is_a_find(error: BaseException, said: str) -> None:
    found = Guarded(raises(error)).wrong(b"")
    assert found is not None
    assert found[0].startswith(said)


def test_a_sentence_is_no_find() -> None:
    assert Guarded(raises(CorruptFile("x.bin: was cut off"))).wrong(b"") is None
    assert Guarded(lambda data: None).wrong(b"") is None
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0  # nothing that follows is ended


def test_memory_is_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter((1 << 20, 2 << 20, (1 << 30) + (2 << 20)))
    monkeypatch.setattr(guard, "_peak", lambda: next(peaks))
    found = Guarded(lambda data: None).wrong(b"")
    assert found is not None
    assert "memory" in found[0]


HANGS = """
import sys
from tests.fuzz import guard
guard.SECONDS = 0.2
guard.limit(sys.stderr)
parts = ()
for _ in range(60):
    parts = (parts, parts)
slot = guard.Slot(__import__("pathlib").Path(sys.argv[1]))
slot.put(b"input")
guard.Guarded(lambda data: str(parts)).wrong(b"input")  # in C code, that no handler interrupts
"""


def test_a_hang_in_c_code_ends_and_the_input_is_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path / "slot")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGPROF
    assert "most recent call first" in done.stderr
    slot = Slot(tmp_path / "slot")
    assert (slot.count, slot.get()) == (1, b"input")


def test_changed_files_are_most_often_well_formed() -> None:
    """pickle, json and the libraries read what the changes of one value leave."""
    random = Random(1)
    plain = pickle.dumps([{"a": [1, 2.5, "x", None, True]}, (1, 2)], 2)
    tensors = save({"a": torch.ones(2, 3), "b": torch.ones(4)})
    zipped = torch_file({"a": torch.ones(2, 3)})
    read = dict.fromkeys(("pickle", "json", "safetensors", "zip"), 0)
    for _ in range(100):
        read["pickle"] += mutate_pickle.opcodes(mutate_pickle.mutate(plain, random))[-1] == b"."
        read["json"] += _is_read(json.loads, mutate_json.mutate(b'{"a": [1, {"b": "x"}]}', random))
        changed = mutate_json.mutate_safetensors(tensors, random)
        read["safetensors"] += _is_read(load_safetensors, changed)
        read["zip"] += len(mutate_zip.members(mutate_zip.mutate(zipped, random))) > 1
    assert min(read.values()) > 20, read


def _is_read(read: Any, data: bytes) -> bool:
    try:
        read(data)
    except Exception:  # noqa: BLE001 -- whatever a library says of what it does not read
        return False
    return True


class Dead:
    """Stands for a process that hung in the pickle machine."""

    def __init__(self, command: list[str], stderr: Any) -> None:
        stderr.write('  File "/x/ckptdiff/formats/unpickle.py", line 9 in run\n')
        Slot(Path(command[5]) / "pickle.blind").put(b"input")

    def poll(self) -> int:
        return -signal.SIGPROF


def test_what_a_process_dies_of_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Dead)
    run = driver.Run("blind", "pickle", tmp_path, tmp_path / "finds", 100, 0)
    while not run.is_over():
        assert run.deaths < driver.MOST_DEATHS
    assert run.inputs == run.deaths == driver.MOST_DEATHS
    found, text = sorted((tmp_path / "finds/pickle").iterdir())
    assert found.read_bytes() == b"input"
    assert text.read_text().startswith("more than 5 s at formats/unpickle.py:run\n")
    assert capsys.readouterr().out.count("unpickle.py") == 1


@pytest.mark.slow
def test_the_command_fuzzes(work: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "settings", "scores", "--blind", "--runs", "40",
         "--work", str(work), "--finds", str(tmp_path / "finds"), "--log", str(tmp_path / "log")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 inputs, 0 finds" in done.stdout
    assert "sum=80 settings.blind=40 scores.blind=40\n" in (tmp_path / "log").read_text()
