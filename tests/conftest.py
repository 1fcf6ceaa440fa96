"""Checkpoints that many tests read: the real ones where they are, tiny ones made on demand."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.corpus import CORPUS, NO_CORPUS, NO_FAULTS, REPOSITORY
from tests.support.oracle_client import Oracle
from tests.support.skips import NO_BRIDGE, NO_NEWEST

for _name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # what a test reads from a pipe is not coloured
    os.environ.pop(_name, None)
# Workers share the processors: threads of torch's that wait for each other only heat them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor


NO_ORACLE = "needs megatron-core and transformers"
# What a test may want, and how to come by it.
WAYS_OUT = {
    NO_CORPUS: "set CKPTDIFF_CORPUS to its folder",
    NO_FAULTS: "it lies in `faults`, beside the folder that CKPTDIFF_CORPUS names",
    NO_ORACLE: "set up .venv-oracle as .github/CONTRIBUTING.md says, or name one: --oracle=PYTHON",
    NO_NEWEST: "download the wheel as .github/CONTRIBUTING.md says, and set CKPTDIFF_MEGATRON",
    NO_BRIDGE: "install it as .github/CONTRIBUTING.md says, and set CKPTDIFF_BRIDGE",
    "needs tmux": "install it, as in `apt install tmux`",
    "needs chromium": "install it, as in `apt install chromium`",
}


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the folder of checkpoints that NVIDIA's code wrote."""
    if not CORPUS.is_dir():
        pytest.skip(NO_CORPUS)
    return CORPUS


class TinyFactory:
    """Makes each checkpoint once a session. Its folders are shared: copy before changing one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, tuple[Path, dict[str, Tensor]]] = {}

    def hf(self, arguments: Mapping[str, Any]) -> tuple[Path, dict[str, Tensor]]:
        # Torch comes with it: neither the controller of workers nor all tests need that.
        from tests.support.oracle_hf import make_hf

        key = repr(sorted(arguments.items()))
        if key not in self.made:
            folder = self.root / f"hf-{len(self.made)}"
            self.made[key] = (folder, make_hf(folder, **arguments))
        return self.made[key]

    def megatron(self, arguments: Mapping[str, Any], model: Mapping[str, Any]) -> Path:
        from tests.support.oracle import make_megatron

        key = f"{sorted(arguments.items())!r} of {sorted(model.items())!r}"
        if key not in self.made:
            source, weights = self.hf(model)
            config = json.loads((source / "config.json").read_text())
            folder = self.root / f"megatron-{len(self.made)}"
            self.made[key] = (make_megatron(folder, weights, config, **arguments), weights)
        return self.made[key][0]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFactory:
    return TinyFactory(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_hf(tiny: TinyFactory) -> Callable[..., Path]:
    """Return `tiny_hf(**arguments of make_hf)`: a Hugging Face folder of a two-layer model."""
    return lambda **arguments: tiny.hf(arguments)[0]


@pytest.fixture(scope="session")
def tiny_weights(tiny: TinyFactory) -> Callable[..., dict[str, Tensor]]:
    """Return `tiny_weights(**arguments of make_hf)`: what the same `tiny_hf` holds."""
    return lambda **arguments: dict(tiny.hf(arguments)[1])


@pytest.fixture(scope="session")
def tiny_megatron(tiny: TinyFactory) -> Callable[..., Path]:
    """Return `tiny_megatron(model={arguments of make_hf}, **arguments of make_megatron)`."""
    return lambda model=None, **arguments: tiny.megatron(
        {"divisible_by": 8, **arguments}, model or {}
    )


@pytest.fixture(scope="session")
def oracle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Oracle]:
    """Return what runs models in the real megatron-core."""
    python = request.config.getoption("--oracle") or sys.executable
    running = Oracle(python, tmp_path_factory.mktemp("oracle") / "stderr")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def ask_oracle(oracle: Oracle) -> Callable[..., dict[str, Any]]:
    """Return `ask_oracle(module, question)`: what a module of `support` says.

    It runs in the oracle's Python, is asked on its standard input and answers in its last line, in
    JSON both.
    """
    return lambda module, question=None: oracle.compare(
        "oracle_program", ranks=1, program=module, question=question
    )


class Described(dict[str, Any]):
    """The config and the shapes of tiny models; one that could not be made fails its own tests."""

    def __getitem__(self, model: str) -> Any:
        found = super().__getitem__(model)
        assert "error" not in found, found["error"]
        return found


@pytest.fixture(scope="session")
def described(ask_oracle: Callable[..., dict[str, Any]]) -> Described:
    """Return the config and the shapes of every family's tiny model, as transformers says."""
    return Described(ask_oracle("families"))


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that copies a checkpoint's folder to where a test may change it."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / folder.name))


def pytest_addoption(parser: pytest.Parser) -> None:
    usual = REPOSITORY / ".venv-oracle/bin/python"
    parser.addoption(
        "--oracle",
        default=str(usual) if usual.exists() else None,
        help="a Python that has megatron-core and transformers; default: that of .venv-oracle",
    )
    parser.addoption(
        "--every-case", action="store_true", help="run what the mark `sampled` leaves out, too"
    )


class First:
    """Tells the first case of each so many, of those that share a mark with `one_in`.

    One mark is shared by all the cases of its test, or by all the tests of its file.
    """

    def __init__(self) -> None:
        self.cases: Counter[int] = Counter()

    def __call__(self, mark: pytest.Mark) -> bool:
        before = self.cases[id(mark)]
        self.cases[id(mark)] += 1
        return before % int(mark.kwargs["one_in"]) == 0


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_oracle = config.getoption("--oracle") or all(map(find_spec, ("megatron", "transformers")))
    is_first = First()
    left_out: list[pytest.Item] = []
    for item in items:
        if item.get_closest_marker("oracle"):
            item.add_marker(pytest.mark.slow)
            if not has_oracle:
                item.add_marker(pytest.mark.skip(reason=NO_ORACLE))
        mostly = item.get_closest_marker("mostly_slow")
        if mostly and not item.get_closest_marker("slow") and not is_first(mostly):
            item.add_marker(pytest.mark.slow)
        sampled = item.get_closest_marker("sampled")
        if sampled and not is_first(sampled) and not config.getoption("--every-case"):
            left_out.append(item)
    if without := set(left_out):
        items[:] = [item for item in items if item not in without]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run for want of something, under xdist too: there the controller reports."""
    reports = terminalreporter.stats.get("skipped", [])
    said = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports]
    for reason, way_out in WAYS_OUT.items():
        # A test of which every case is found on disk counts once where none is found.
        if count := said.count(reason):
            line = f"Not run, {count} of the tests: {reason}; {way_out}."
            terminalreporter.write_line(line, yellow=True)
