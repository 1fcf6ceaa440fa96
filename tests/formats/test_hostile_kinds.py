"""Each kind of hostile content in each reader: a sentence or a result, soon, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.hostile_kinds import (
    JSON_PLACES,
    MANY,
    OBJECTS,
    PICKLE_PLACES,
    VALUES,
    YAML,
    YAML_PLACES,
)
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.mostly_slow(one_in=24), pytest.mark.sampled(one_in=4)]

# Reads every file in one process, to be quick. The name of each is printed before it is read, so
# that a crash is known to be its own; the timer of the processor ends one that takes long.
PROBE = """
import contextlib, io, json, os, resource, signal, sys
from pathlib import Path
from ckptdiff.cli.main import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
for path in map(Path, json.loads(sys.stdin.read())):
    print(json.dumps([path.name]), flush=True)
    signal.setitimer(signal.ITIMER_PROF, 20)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(["ls", "--json", str(path)])
    signal.setitimer(signal.ITIMER_PROF, 0)
    told = [path.name, status, len(out.getvalue()), errors.getvalue()[:3000]]
    print(json.dumps(told), flush=True)
"""


def probed(paths: Mapping[str, Path]) -> dict[str, tuple[int, int, str]]:
    """List each of these in one process; return status, size of the listing and errors by name."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([str(path) for path in paths.values()]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.returncode, done.stderr[-2000:])
    return {name: (status, size, text) for name, status, size, text in lines[1::2]}


def check(makers: Mapping[str, object], folder: Path) -> None:
    """Make each of these, list it, and hold what comes of it against what is promised."""
    names, paths = {}, {}
    for number, (kind, make) in enumerate(makers.items()):
        names[str(number)] = kind
        (folder / str(number)).mkdir()
        paths[kind] = make(folder / str(number))  # type: ignore[operator]
    found = probed(paths)
    assert found.keys() == names.keys()
    for name, (status, size, errors) in found.items():
        told = (names[name], status, errors[:500])
        assert status in ((2,) if errors else (0, 1)), told
        assert "bug" not in errors, told
        assert "Traceback" not in errors, told
        assert len(errors.splitlines()) <= 1, told
        assert len(errors) < 2000, told
        assert not errors or str(folder / name) in errors or "is needed" in errors, told
        assert size < 50_000_000, told


@pytest.mark.parametrize("place", PICKLE_PLACES)
def test_no_object_of_a_pickle_harms(place: str, tmp_path: Path) -> None:
    check({kind: PICKLE_PLACES[place](body) for kind, body in OBJECTS.items()}, tmp_path)


def test_no_opcode_of_a_pickle_takes_memory_out_of_proportion(tmp_path: Path) -> None:
    check({kind: PICKLE_PLACES["among the weights"](body) for kind, body in MANY.items()}, tmp_path)


@pytest.mark.parametrize("place", JSON_PLACES)
def test_no_value_of_json_harms(place: str, tmp_path: Path) -> None:
    check({kind: JSON_PLACES[place](text) for kind, text in VALUES.items()}, tmp_path)


@pytest.mark.parametrize("place", YAML_PLACES)
def test_no_yaml_harms(place: str, tmp_path: Path) -> None:
    check({kind: YAML_PLACES[place](text) for kind, text in YAML.items()}, tmp_path)
