"""What is not installed is said in one sentence, with the line that installs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from ckptdiff import extras
from ckptdiff.cli.main import main
from ckptdiff.demo import make_demo
from ckptdiff.errors import NotInstalled
from ckptdiff.logits.tokenizer import token_texts
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
@pytest.mark.parametrize(
    ("code", "does"),
    [
        (
            'raise ImportError("libcudart.so.12: cannot open shared object file\\nand more")',
            "cannot be imported (ImportError: libcudart.so.12: cannot open shared object file)",
        ),
        (
            'raise OSError("\\x1b[2Jno such library")',
            "cannot be imported (OSError: \\x1b[2Jno such library)",
        ),
        ("raise RuntimeError", "cannot be imported (RuntimeError)"),
        ("import os; os.abort()", "ends the process that imports it"),
    ],
    ids=["import", "library", "other", "crash"],
)
def test_a_torch_that_does_not_work_is_one_sentence(tmp_path: Path, code: str, does: str) -> None:
    a, b = make_demo(tmp_path / "demo")
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "ckptdiff", "logits", str(a), str(b), "--ids", "1,2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'broken'}{os.pathsep}{REPOSITORY}"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    words = f"ckptdiff: comparing logits needs torch, which is installed and {does}"
    assert done.stderr.startswith(words)
    assert done.stderr.endswith(": pip uninstall torch, then pip install torch\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("library", ["tokenizers", "sentencepiece"])
def test_a_library_of_tokenizers_that_does_not_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, library, raising=False)
    file = tmp_path / {"tokenizers": "tokenizer.json", "sentencepiece": "tokenizer.model"}[library]
    file.write_bytes(b"{}")
    why = rf"needs {library}, which is .*\(ImportError: built for another Python\)"
    with pytest.raises(NotInstalled, match=why):
        token_texts(file, [1])


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


def test_a_server_whose_library_does_not_work_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "textual_serve.py").write_text("raise OSError('no')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual_serve"]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "ckptdiff: the screen in a browser needs textual-serve, which is installed and cannot be "
        "imported (OSError: no). Install it anew, in a build for this machine: "
        "pip uninstall textual-serve, then pip install textual-serve\n"
    )


def test_an_id_without_the_library_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = (
        "looking up a model by its id needs huggingface-hub, which is not installed: "
        "pip install 'ckptdiff[hub]'"
    )
    assert main(["ls", "org/model"]) == 2
    said = f"ckptdiff: org/model: there is no such file or folder; {words}\n"
    assert capsys.readouterr().err == said
    assert main(["ls", "org/model", "--download"]) == 2
    assert capsys.readouterr().err == f"ckptdiff: {words}\n"
