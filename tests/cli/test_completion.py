"""The command `completion`: what the shells themselves offer once they have read the script."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.completion import completion_script
from ckptdiff.cli.main import COMMANDS
from tests.support.program import ckptdiff

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=3)

ASKED = {
    "ckptdiff di": {"diff"},
    "ckptdiff llama": {"llama-hf"},
    "ckptdiff llama-hf ru": {"run7"},
    "ckptdiff diff llama": {"llama-hf"},
    "ckptdiff diff llama-hf no": {"notes.md"},
    "ckptdiff ls org/mod": {"org/model"},
    "ckptdiff diff llama-hf org/": {"org/model"},
    "ckptdiff llama-hf org": {"org/model"},
    "ckptdiff gpt": {"gpt2"},
    "ckptdiff diff a b --tol": {"--tolerance"},
    "ckptdiff diff a b --tolerance ex": {"exact"},
    "ckptdiff diff a b --report no": {"notes.md"},
    "ckptdiff convert a b --to me": {"megatron"},
    "ckptdiff convert a b --like ": {"llama-hf", "run7"},
    "ckptdiff logits a b --dtype fp": {"fp16", "fp32", "fp64"},
    "ckptdiff demo --fault ro": {"rope", "rope-base"},
    "ckptdiff help verd": {"verdicts"},
    "ckptdiff completion z": {"zsh"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two folders and a file in it, and a script for each shell."""
    root = tmp_path_factory.mktemp("shells")
    work = root / "work"
    for name in ("llama-hf", "run7"):
        (work / name).mkdir(parents=True)
    (work / "notes.md").touch()
    for name in ("models--org--model", "models--gpt2", "datasets--org--data"):
        (root / "cache" / name).mkdir(parents=True)
    for shell in ("bash", "zsh", "fish"):
        (root / f"ckptdiff.{shell}").write_text(completion_script(shell))
    return work


def with_cache(folder: Path) -> dict[str, str]:
    """Return an environment in which the hub's cache is that beside a folder."""
    return {**os.environ, "HF_HUB_CACHE": str(folder.parent / "cache")}


def answer(*command: str, cwd: Path) -> str:
    """Return what a program prints; it must not complain."""
    done = subprocess.run(
        command, cwd=cwd, env=with_cache(cwd), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("line", ASKED)
def test_bash_completes(folder: Path, line: str) -> None:
    script = (
        f"source {folder.parent}/ckptdiff.bash; "
        'COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); '
        "$(complete -p ckptdiff | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    out = answer("bash", "--norc", "-c", script, "bash", *line.split(" "), cwd=folder)
    assert set(out.split()) == ASKED[line]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
@pytest.mark.parametrize("line", ASKED)
def test_fish_completes(folder: Path, line: str) -> None:
    script = f"source {folder.parent}/ckptdiff.fish; complete -C '{line}'"
    out = answer("fish", "--no-config", "-c", script, cwd=folder)
    assert {found.partition("\t")[0].rstrip("/") for found in out.splitlines()} == ASKED[line]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes(folder: Path) -> None:
    with Zsh(folder) as zsh:
        for line, found in ASKED.items():
            if len(found) == 1:
                assert zsh.completed(line).rstrip(" /") == f"{line.rpartition(' ')[0]} {min(found)}"


class Zsh:
    """A zsh on a terminal that has read the script."""

    def __init__(self, folder: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.program = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
            env={**with_cache(folder), "TERM": "dumb", "PS1": "", "HOME": str(folder.parent)},
        )  # fmt: skip
        os.close(theirs)
        # ctrl+x p completes, prints what is in the line then, and empties it.
        self.send(
            "PS1=; unsetopt prompt_cr prompt_sp zle_bracketed_paste 2>/dev/null; "
            "autoload -Uz compinit; compinit -u -D; "
            f'eval "$(<{folder.parent}/ckptdiff.zsh)"; '
            'say() { zle complete-word; print -r -- "<$BUFFER>"; BUFFER= }; '
            "zle -N say; bindkey '^Xp' say; "
            "print -r -- rea''dy\n"
        )
        self.until("ready")

    def __enter__(self) -> Zsh:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.ours)
        self.program.kill()
        self.program.wait()

    def send(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """Return what is written until this text is."""
        written = ""
        deadline = time.monotonic() + seconds
        while text not in written and time.monotonic() < deadline:
            if select.select([self.ours], [], [], 0.1)[0]:
                with suppress(OSError):
                    written += os.read(self.ours, 65536).decode(errors="replace")
        assert text in written, written
        return written

    def completed(self, line: str) -> str:
        """Return what a line becomes by the tabulator."""
        self.send(f"{line}\x18p")
        return self.until(">").rpartition("<")[2].partition(">")[0]


def test_every_command_is_completed() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = ckptdiff("completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        for command in COMMANDS:
            assert command in done.stdout


def test_another_shell_is_refused_in_one_line() -> None:
    done = ckptdiff("completion", "fsh")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "bash, zsh, fish). Is fish meant?" in done.stderr
