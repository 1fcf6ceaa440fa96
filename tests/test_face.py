"""The public names: lazy, complete, and used as the guide says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ckptdiff
from ckptdiff.guide.topics import page
from tests.support.transcripts import run

pytestmark = pytest.mark.mostly_slow(one_in=4)
# Each program of the page, and what it is said to print.
PROGRAMS = re.findall(r"```python\n(import .*?|from pathlib .*?)```.*?```text\n(.*?)```",
                      page("python"), re.DOTALL)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo pair was made."""
    path = tmp_path_factory.mktemp("face")
    run("ckptdiff demo --no-tui", path)
    return path


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=["compare", "convert"])
def test_a_program_of_the_guide_prints_what_it_says(
    program: str, printed: str, folder: Path
) -> None:
    file = folder / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=folder,
        env={"PYTHONPATH": str(Path(ckptdiff.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (printed, "")
    assert done.returncode == int("sys.exit" in program)


def test_every_public_name_is_what_its_type_says() -> None:
    """What a type checker is told and what is imported are one object."""
    tree = ast.parse(Path(ckptdiff.__file__).read_text())
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(told) == ckptdiff.__all__
    for name, module in told.items():
        assert getattr(ckptdiff, name).__module__ == module
        assert name in dir(ckptdiff)
        assert name in page("python")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ckptdiff.nonsense  # noqa: B018


def test_importing_the_package_imports_no_engine() -> None:
    script = "import sys, ckptdiff; print(*(n for n in sys.modules if n.startswith('ckptdiff.')))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
