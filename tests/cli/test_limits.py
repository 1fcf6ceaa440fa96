"""What the system does not give: the right result without it, or one sentence."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.main import main
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Make = Callable[..., Path]
    Done = subprocess.CompletedProcess[str]

pytestmark = pytest.mark.slow
MANY = {"layers": 16, "hidden": 8, "heads": 2, "groups": 2, "head_dim": 4, "ffn": 8, "vocab": 16}
NOBODY = 54321  # a user that has no processes
FEW_FILES = 30


def limited(
    command: Sequence[object],
    limits: Mapping[int, int] | None = None,
    *,
    shell: str = "",
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a command under limits, the hard ones too; `shell` is what a shell does before."""
    words = [*map(str, command)]
    if shell:
        words = ["bash", "-c", f'{shell}; exec "$@"', "bash", *words]

    def limit() -> None:
        for which, most in (limits or {}).items():
            resource.setrlimit(which, (most, most))

    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        preexec_fn=limit,
        env=dict(env or environment()),
    )


def is_a_sentence(done: Done, *words: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("ckptdiff: ")
    assert done.stderr.count("\n") == 1
    assert "bug in ckptdiff" not in done.stderr
    for word in words:
        assert word in done.stderr


@cache
def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    asked = ["unshare", "--mount", "true"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def in_namespace(mounts: str, command: Sequence[object], **env: str) -> Done:
    """Run a command where something else is mounted; skip where that is not allowed."""
    if not can_unshare():
        pytest.skip("needs the right to mount")
    inside = f'{mounts} && exec "$@"'
    return limited(
        ["unshare", "--mount", "bash", "-c", inside, "bash", *command], env=environment(**env)
    )


# Files


@pytest.fixture
def many(tiny_hf: Make, tiny_megatron: Make) -> tuple[Path, Path]:
    """Return a pair of more files a side than a process may have open."""
    model = {**MANY, "shards": 40}
    pair = tiny_hf(**model), tiny_megatron(model, tp=2, pp=16)
    assert all(len(list(side.rglob("m*.*"))) > FEW_FILES for side in pair)
    return pair


def test_a_comparison_holds_no_more_files_than_it_may(many: tuple[Path, Path]) -> None:
    done = limited([*PROGRAM, "diff", *many], {resource.RLIMIT_NOFILE: FEW_FILES})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "verdict: same" in done.stdout


def test_a_diagnosis_holds_no_more_files_than_it_may(
    many: tuple[Path, Path], tiny_megatron: Make
) -> None:
    other = tiny_megatron({**MANY, "shards": 40, "seed": 1}, tp=2, pp=16)
    done = limited([*PROGRAM, "diff", many[0], other], {resource.RLIMIT_NOFILE: FEW_FILES})
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "Too many open files" not in done.stdout
    assert "error" not in done.stdout


def test_a_conversion_holds_no_more_files_than_it_may(
    many: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [*PROGRAM, "convert", many[1], out, "--to", "hf"]
    done = limited(command, {resource.RLIMIT_NOFILE: FEW_FILES})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "every byte compared" in done.stdout


def test_the_soft_limit_of_files_is_raised(tiny_hf: Make) -> None:
    script = (
        "import resource, sys; from ckptdiff.cli.main import main; main(sys.argv[1:]);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    prefix = "ulimit -Sn 50; ulimit -Hn 500"
    done = limited([sys.executable, "-c", script, "ls", tiny_hf()], shell=prefix)
    assert done.stdout.splitlines()[-1] == "(500, 500)"


def test_too_few_files_for_the_program_itself_are_told(tiny_hf: Make) -> None:
    done = limited([*PROGRAM, "diff", tiny_hf(), tiny_hf()], {resource.RLIMIT_NOFILE: 8})
    if done.returncode:
        is_a_sentence(done, "ulimit -n")


# Memory, processes, time


@pytest.mark.parametrize("megabytes", [60, 100])
def test_too_little_memory_is_told_once(tiny_hf: Make, megabytes: int) -> None:
    a, b = tiny_hf(), tiny_hf(seed=1)
    done = limited([*PROGRAM, "diff", a, b], {resource.RLIMIT_AS: megabytes << 20})
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    if done.stdout:  # enough to list rows, not for a worker
        assert done.returncode == 2
        assert "memory is too short" in done.stdout
    else:
        is_a_sentence(done, "memory ran out")


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_where_no_process_can_be_started_the_work_is_done_without(
    tiny_hf: Make, tiny_megatron: Make, processes: int
) -> None:
    """Threads count as well: with two, a worker is started, but not what gives it work."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs the right to become another user")
    become = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    caps = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"  # a home of root's
    prefix = f"{become} {caps} prlimit --nproc={processes}".split()
    a, b = tiny_hf(), tiny_megatron(tp=2)
    if limited([*prefix, sys.executable, "-c", "1"]).returncode:
        pytest.skip("needs setpriv with capabilities")
    done = limited([*prefix, *PROGRAM, "diff", a, b, "--jobs", 3])
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "verdict: same" in done.stdout


def test_the_end_of_processor_time_is_told(tiny_hf: Make) -> None:
    script = (
        "from ckptdiff.cli import ls, main\n"
        "def run(_):\n"
        "    while True: pass\n"
        "ls.run = run\n"
        "raise SystemExit(main.main(['ls', '.']))"
    )
    done = limited([sys.executable, "-c", script], {resource.RLIMIT_CPU: 2})
    is_a_sentence(done, "ulimit -t")


@pytest.mark.parametrize("size", ["ro", "size=4k,nr_inodes=1"])
def test_semaphores_need_no_shared_memory(tiny_hf: Make, size: str) -> None:
    mounts = f"mount -t tmpfs none /dev/shm -o {size}"
    done = in_namespace(mounts, [*PROGRAM, "diff", tiny_hf(), tiny_hf()])
    assert (done.returncode, done.stderr) == (0, ""), done


def test_proc_is_not_needed(tiny_hf: Make) -> None:
    done = in_namespace("mount -t tmpfs none /proc", [*PROGRAM, "diff", tiny_hf(), tiny_hf()])
    assert (done.returncode, done.stderr) == (0, ""), done


def test_no_folder_for_temporary_files_is_needed(tiny_hf: Make) -> None:
    folder, code = tiny_hf(), Path.cwd()
    if str(Path(sys.prefix)).startswith(("/tmp/", "/var/tmp/", "/mnt/")):
        pytest.skip("Python itself lies there")
    binds = "mkdir /mnt/it /mnt/code && mount --bind $IT /mnt/it && mount --bind $CODE /mnt/code"
    sealed = "; ".join(f"mount -t tmpfs -o ro none {path}" for path in ("/tmp", "/var/tmp"))
    done = in_namespace(
        f"mount -t tmpfs none /mnt && {binds} && {{ {sealed}; }} && mount -o remount,ro /mnt"
        " && cd /mnt/it",
        [*PROGRAM, "diff", "/mnt/it", "/mnt/it"],
        IT=str(folder),
        CODE=str(code),
        PYTHONPATH="/mnt/code",
    )
    assert (done.returncode, done.stderr) == (0, ""), done


# Standard streams


@pytest.mark.parametrize("closed", ["0<&-", "2>&-", "0<&- 2>&-"])
@pytest.mark.parametrize("words", ["diff {hf} {hf}", "{hf}", "ls /nowhere"])
def test_a_closed_stream_changes_no_result(tiny_hf: Make, closed: str, words: str) -> None:
    arguments = words.format(hf=tiny_hf()).split()
    done = limited([*PROGRAM, *arguments], shell=f"exec {closed}")
    is_good = words != "ls /nowhere"
    assert done.returncode == (0 if is_good else 2)
    assert bool(done.stdout) == is_good
    assert "Traceback" not in done.stdout + done.stderr


def test_a_closed_output_is_trouble(tiny_hf: Make) -> None:
    done = limited([*PROGRAM, "ls", tiny_hf()], shell="exec 1>&-")
    is_a_sentence(done, "the output is closed")
    done = limited([*PROGRAM, "ls", tiny_hf()], shell="exec 0<&- 1>&- 2>&-")
    assert done.returncode == 2


def test_no_file_gets_the_number_of_a_closed_stream(tiny_hf: Make) -> None:
    script = (
        "import os, sys; from ckptdiff.cli.main import main; main(sys.argv[1:]);"
        "null = os.stat(os.devnull);"
        "print([os.path.samestat(os.fstat(fd), null) for fd in (0, 2)])"
    )
    done = limited([sys.executable, "-c", script, "ls", tiny_hf()], shell="exec 0<&- 2>&-")
    assert done.stdout.splitlines()[-1] == "[True, True]"


@pytest.mark.parametrize("trouble", ["exec 2>/dev/full", "ulimit -f 0; exec 2>$HOME/err"])
def test_an_error_that_cannot_be_printed_is_trouble_and_no_difference(
    tmp_path: Path, trouble: str
) -> None:
    done = limited([*PROGRAM, "ls", "/nowhere"], shell=trouble, env=environment(HOME=str(tmp_path)))
    assert done.returncode == 2


def test_an_output_that_grows_too_large_is_trouble(tiny_hf: Make, tmp_path: Path) -> None:
    prefix = "ulimit -f 0; exec >$HOME/out"
    command = [*PROGRAM, "ls", tiny_hf()]
    done = limited(command, shell=prefix, env=environment(HOME=str(tmp_path)))
    is_a_sentence(done, "File too large")


@pytest.mark.parametrize(
    "changes",
    [
        {"TERM": ""},
        {"TERM": "no-such-terminal"},
        {"LANG": "xx_YY.broken", "LC_ALL": "xx"},
        {"TMPDIR": "/nowhere"},
        {"HOME": "/nowhere"},
    ],
)
def test_an_odd_environment_changes_no_result(tiny_hf: Make, changes: dict[str, str]) -> None:
    env = {name: value for name, value in environment(**changes).items() if value}
    done = limited([*PROGRAM, "diff", tiny_hf(), tiny_hf()], env=env)
    assert (done.returncode, done.stderr) == (0, ""), done


# A disk that fails


def test_a_disk_that_fails_is_told(
    tiny_hf: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(5, os.strerror(5))

    folder = tiny_hf()
    monkeypatch.setattr(os, "pread", broken)
    assert main(["ls", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Input/output error" in err
    assert str(folder) in err
    assert err.count("\n") == 1
