"""`ckptdiff logits` as a script sees it: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.cli import main as cli
from ckptdiff.logits import run as logits
from ckptdiff.results import LogitDiff, LogitProgress
from tests.support.logit_results import clean
from tests.support.program import PROGRAM, ckptdiff, document
from tests.support.tokenizers_made import tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
VOCAB = 320
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def hf(tiny_hf: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model with a tokenizer."""
    folder = tmp_path_factory.mktemp("logits") / "hf"
    folder.mkdir()
    for file in tiny_hf(vocab=VOCAB, single=True).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


@pytest.fixture(scope="module")
def megatron(tiny_megatron: Make) -> Path:
    """Return the same model, for two ranks."""
    return tiny_megatron(model={"vocab": VOCAB, "single": True}, tp=2)


# The whole way


def test_a_right_conversion_is_arithmetic(hf: Path, megatron: Path) -> None:
    done = ckptdiff("logits", hf, megatron, "--prompt", PROMPT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("=  Only arithmetic for this prompt: ")
    assert lines[-1] == "verdict: arithmetic"
    assert "   prompt, 6 tokens:" in lines
    assert any(line.startswith("     0 '<s>', ") for line in lines)
    assert any(line.startswith("   what comes after position 5") for line in lines)


@pytest.mark.slow
def test_a_changed_tensor_is_found_where_it_is(
    hf: Path, megatron: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(hf)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, folder / "model.safetensors")
    done = ckptdiff("logits", folder, megatron, "--prompt", PROMPT)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✗  Weights or config differ: the first step that differs is k ")
    assert f"     it reads {name}" in lines
    assert lines[-1] == "verdict: weights-or-config"


@pytest.mark.slow
def test_json_is_the_only_output_and_has_the_ids(hf: Path, megatron: Path) -> None:
    done = ckptdiff("logits", megatron, hf, "--prompt", PROMPT, "--bos", "no", "--json", "-")
    found = document(done)
    assert done.returncode == 0
    assert found["schema"] == "ckptdiff.logits/1"
    assert (found["verdict"], found["device"], found["dtype"]) == ("arithmetic", "cpu", "fp32")
    assert found["storage"] == "bf16"
    assert len(found["ids"]) == 5
    assert "".join(found["texts"]) == PROMPT
    assert found["notes"][0] == "the ids are by B's tokenizer: A has none"
    assert [one["position"] for one in found["top"]] == [0, 1, 2, 3, 4]
    (likeliest, *_) = found["top"][-1]["a"]
    assert isinstance(likeliest[0], int)
    assert {tap["layer"] for tap in found["taps"]} == {None, 0, 1}


# One after the other


class Recorder:
    """Stands in for `compare_logits`: keeps what it was given and yields what it was told."""

    def __init__(self, found: LogitDiff) -> None:
        self.found = found
        self.given: dict[str, Any] = {}

    def __call__(
        self, a: object, b: object, ids: tuple[int, ...], executor: Any, **options: Any
    ) -> Iterator[LogitProgress | LogitDiff]:
        self.given = {"ids": ids, "jobs": executor.jobs, **options}
        yield LogitProgress("layer by layer", 1, 2, 0.5, note="on the CPU")
        yield LogitProgress("layer by layer", 2, 2, 0.5)
        yield self.found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder(clean())
    monkeypatch.setattr(logits, "compare_logits", found)
    return found


def test_options_reach_the_comparison(hf: Path, megatron: Path, recorder: Recorder) -> None:
    pair = [str(hf), str(megatron)]
    assert cli.main(["logits", *pair, "--ids", "3,1,4"]) == 0
    assert recorder.given.pop("config") is not None
    assert recorder.given == {
        "ids": (3, 1, 4), "jobs": 1, "device": "auto", "dtype": "fp32", "storage": None,
        "reference": "hf", "attribute": False,
    }  # fmt: skip
    more = ["--device", "cuda", "--dtype", "fp64", "--reference", "meta", "--attribute"]
    assert cli.main(["logits", *pair, "--ids", "3,1,4", *more]) == 0
    assert recorder.given.pop("config") is not None
    assert recorder.given == {
        "ids": (3, 1, 4), "jobs": 1, "device": "cuda", "dtype": "fp64", "storage": None,
        "reference": "meta", "attribute": True,
    }  # fmt: skip


@pytest.mark.parametrize("storage", ["bf16", "fp16"])
def test_a_storage_dtype_leaves_the_verdict_in_fp32(
    hf: Path, megatron: Path, recorder: Recorder, storage: str
) -> None:
    assert cli.main(["logits", str(hf), str(megatron), "--ids", "3,1,4", "--dtype", storage]) == 0
    assert (recorder.given["dtype"], recorder.given["storage"]) == ("fp32", storage)


def test_what_is_told_on_the_way_is_a_note(
    hf: Path, megatron: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["logits", str(hf), str(megatron), "--ids", "3,1,4"])
    printed = capsys.readouterr()
    assert "   on the CPU" in printed.out.splitlines()
    assert printed.err == ""


@pytest.mark.parametrize("verdict", ["small", "weights-or-config"])
def test_every_other_verdict_exits_with_1(
    hf: Path, megatron: Path, recorder: Recorder, verdict: str, tmp_path: Path
) -> None:
    recorder.found = clean(verdict=verdict)
    file = tmp_path / "found.json"
    assert cli.main(["logits", str(hf), str(megatron), "--ids", "3,1,4", "--json", str(file)]) == 1
    assert json.loads(file.read_text())["verdict"] == verdict


@pytest.mark.slow
def test_a_prompt_comes_from_the_standard_input(hf: Path, megatron: Path) -> None:
    def ids(*arguments: str, text: str = "") -> list[int]:
        done = subprocess.run(
            [*PROGRAM, "logits", hf, megatron, *arguments, "--json", "-"],
            input=text, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: list[int] = json.loads(done.stdout)["ids"]
        return found

    # The line feed that ends the line is not of the prompt; any other is.
    assert ids("--prompt", "-", text=f"{PROMPT}\n") == ids("--prompt", PROMPT)
    assert len(ids("--prompt", "-", text=f"{PROMPT}\n\n")) == 7


@pytest.mark.slow
def test_a_terminal_sees_layers_go_by(hf: Path, megatron: Path) -> None:
    terminal, end = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, "logits", hf, megatron, "--ids", "3,1,4"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=end, text=True, check=True,
    )  # fmt: skip
    os.close(end)
    seen = b""
    while part := _read(terminal):
        seen += part
    os.close(terminal)
    assert b"layer by layer" in seen
    assert b"s each" in seen
    assert done.stdout.splitlines()[-1] == "verdict: arithmetic"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


# Trouble


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one of the arguments --prompt --ids is required"),
        (["--prompt", "x", "--ids", "1"], "not allowed with argument"),
        (["--ids", "1,x"], "invalid list of token ids such as 1,2,3 value: '1,x'"),
        (["--ids", ""], "invalid list of token ids"),
        (["--ids=-1"], "invalid list of token ids"),
        (["--ids", "1", "--bos", "yes"], "--bos is for --prompt"),
        (["--ids", f"1,{VOCAB}"], f"token {VOCAB} is not in the vocabulary of {VOCAB} tokens"),
        (["--prompt", "", "--bos", "no"], "the prompt is empty"),
        (["--ids", "1", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_what_makes_no_sense_is_one_error(
    hf: Path, megatron: Path, options: list[str], words: str
) -> None:
    done = ckptdiff("logits", hf, megatron, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_broken_tokenizer_is_one_error(
    hf: Path, megatron: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(hf)
    (folder / "tokenizer.json").write_text("{")
    done = ckptdiff("logits", folder, megatron, "--prompt", PROMPT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ckptdiff: {folder}/tokenizer.json: cannot be used")
    assert done.stderr.count("\n") == 1


def test_without_any_tokenizer_the_error_says_what_to_do(tiny_hf: Make, megatron: Path) -> None:
    done = ckptdiff("logits", tiny_hf(vocab=VOCAB), megatron, "--prompt", PROMPT)
    assert done.returncode == 2
    assert "put tokenizer.json beside config.json; --ids works without a tokenizer" in done.stderr
