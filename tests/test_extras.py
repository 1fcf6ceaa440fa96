"""What is not installed is said in one sentence, with the line that installs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from ckptdiff import extras
from ckptdiff.cli.main import main
from ckptdiff.demo import make_demo
from tests.support.corpus import REPOSITORY
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# As where nothing of the extra `logits` is installed: an import fails, wherever it is tried.
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("torch", "tokenizers", "sentencepiece")))
from ckptdiff.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""
NO_LOGITS = (
    "comparing logits needs torch, tokenizers and sentencepiece, which are not installed: "
    "pip install 'ckptdiff[logits]'"
)


def modules(extra: str) -> set[str]:
    """Return what the distributions of an extra are imported as."""
    found: set[str] = set()
    for line in EXTRAS[extra]:
        name, inner = re.fullmatch(r"([\w-]+)(?:\[([\w-]+)\])?.*", line).groups()  # type: ignore[union-attr]
        found |= modules(inner) if name == "ckptdiff" else {name.replace("-", "_")}
    return found


def test_the_extras_are_those_of_the_installation() -> None:
    for extra, libraries in extras.LIBRARIES.items():
        assert modules(extra) == set(libraries)
    assert EXTRAS["all"] == [f"ckptdiff[{','.join(extras.LIBRARIES)}]"]
    assert "ckptdiff[all]" in EXTRAS["dev"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [("--ids", "1,2"), ("--prompt", "Paris")], ids=" ".join)
def test_logits_without_torch_are_one_sentence(tmp_path: Path, prompt: tuple[str, str]) -> None:
    a, b = make_demo(tmp_path / "demo")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "logits", str(a), str(b), *prompt],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ckptdiff: {NO_LOGITS}\n"


def test_a_server_without_its_library_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "ckptdiff: the screen in a browser needs textual-serve, which is not installed: "
        "pip install 'ckptdiff[serve]'\n"
    )
