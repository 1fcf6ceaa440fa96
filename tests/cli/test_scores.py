"""`ckptdiff scores` as a script and a user see it: output, exit codes, stops, answers kept."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.cli import main as cli
from ckptdiff.cli.hints import OPTIONS
from ckptdiff.cli.scores import TABLES
from ckptdiff.errors import OutOfMemory, UnreadableFile
from ckptdiff.scores import run as scores
from ckptdiff.scores.published import PUBLISHED
from ckptdiff.scores.results import ScoreDiff, ScoreProgress
from tests.support.patience import PATIENCE
from tests.support.program import PROGRAM, ckptdiff, group, parse, until
from tests.support.tokenizers_made import tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., Path]

VOCAB = 320
ITEMS = 12
TASK = """\
task: capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: capitals.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: cities
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@pytest.fixture(scope="module")
def hf(tiny_hf: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model with a tokenizer."""
    folder = tmp_path_factory.mktemp("scores") / "hf"
    folder.mkdir()
    for file in tiny_hf(vocab=VOCAB, single=True).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


@pytest.fixture(scope="module")
def megatron(tiny_megatron: Make) -> Path:
    """Return the same model, for two ranks."""
    return tiny_megatron(model={"vocab": VOCAB, "single": True}, tp=2)


def capitals(folder: Path, items: int) -> Path:
    """Write a task of one's own: a file, and its data beside it."""
    rows = [
        {"country": f"country {n}", "cities": [" Paris", f" city {n}", " a town"], "answer": n % 3}
        for n in range(items)
    ]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "capitals.yaml").write_text(TASK)
    return folder / "capitals.yaml"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capitals(tmp_path_factory.mktemp("task"), ITEMS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where answers are kept: the user's own are not touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "datasets"))
    return tmp_path / "cache" / "ckptdiff" / "scores"


# The whole way


@dataclass(frozen=True)
class Fresh:
    """What a run prints and writes that keeps no answer and finds none."""

    done: subprocess.CompletedProcess[str]
    document: Any
    page: str


@pytest.fixture(scope="module")
def fresh(hf: Path, megatron: Path, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Run it, a batch for each sequence."""
    folder = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HF_HOME", str(folder / "datasets"))
        files = folder / "found.json", folder / "page.md"
        done = ckptdiff(
            "scores", hf, megatron, "--tasks", task, "--batch-tokens", 1, "--no-cache",
            "--json", files[0], "--markdown", files[1], "--beside", "nvidia-llama2",
        )  # fmt: skip
    assert not (folder / "cache/ckptdiff/scores").exists()
    return Fresh(done, parse(files[0].read_text()), files[1].read_text())


def test_a_right_conversion_is_arithmetic(fresh: Fresh) -> None:
    done, found = fresh.done, fresh.document
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("=  Only arithmetic for these items: ")
    assert done.stdout.splitlines()[-1] == "verdict: arithmetic"
    plan, estimate, *_ = done.stderr.splitlines()  # and a line for each minute
    assert re.match(r"36 questions, \d+ sequences of \d+ tokens in all; \d+ batches, for ", plan)
    assert re.fullmatch("about .* for what is left, by the layers measured so far", estimate)
    assert (found["schema"], found["verdict"]) == ("ckptdiff.scores/1", "arithmetic")
    assert len(found["items"]) == ITEMS
    assert found["tasks"][0]["task"] == "capitals"
    assert found["step"] is None
    assert max(one["weights_apart"] for item in found["items"] for one in item["answers"]) == 0
    assert found["beside"]["mean"] == 0.15
    assert "capitals" in fresh.page


@pytest.mark.slow
def test_a_changed_tensor_is_found_whatever_the_scores_are(
    hf: Path, megatron: Path, task: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(hf)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    weights[name] = -weights[name]
    save_file(weights, folder / "model.safetensors")
    done = ckptdiff("scores", folder, megatron, "--tasks", task, "--json", "-", "--limit", 2)
    assert done.returncode == 1, done.stderr
    found = parse(done.stdout)
    assert found["verdict"] == "weights-or-config"
    assert (found["step"]["layer"], found["step"]["name"]) == (1, "k")
    assert name in found["step"]["reads"]
    assert len(found["items"]) == 2
    assert f"{name} differs" in found["sentence"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same(
    fresh: Fresh, hf: Path, megatron: Path, task: Path, cache: Path, tmp_path: Path
) -> None:
    words = ["scores", hf, megatron, "--tasks", task, "--batch-tokens", 1, "--json"]
    process = subprocess.Popen(
        [*PROGRAM, *map(str, words), str(tmp_path / "never.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert until(lambda: len(lines_of(cache)) > 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    assert until(lambda: group(process.pid) == [])
    kept = len(answers_in(cache))
    assert 0 < kept < 36
    done = ckptdiff(*words, "-")
    assert done.returncode == 0, done.stderr
    plan = done.stderr.splitlines()[0]
    assert plan.startswith(f"{kept} of 36 questions are kept from before; {36 - kept} are asked")
    assert parse(done.stdout) == {**fresh.document, "beside": None}
    assert len(answers_in(cache)) == 36


def lines_of(cache: Path) -> list[bytes]:
    return [line for file in cache.glob("*.jsonl") for line in file.read_bytes().splitlines()]


def answers_in(cache: Path) -> list[str]:
    """Return the keys of all answers that whole lines hold."""
    found: list[str] = []
    for line in lines_of(cache)[1:]:
        try:
            found += json.loads(line)["answers"]
        except ValueError:
            continue
    return found


@pytest.mark.slow
def test_a_stop_prints_what_is_there(hf: Path, megatron: Path, cache: Path, tmp_path: Path) -> None:
    long = capitals(tmp_path, 400)  # no machine has answered it when the stop comes
    words = ["scores", hf, megatron, "--tasks", long, "--batch-tokens", 1]
    process = subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert until(lambda: len(lines_of(cache)) > 4)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    assert said.startswith("!  Stopped: all that follows is of ")
    assert said.splitlines()[-1] == "verdict: arithmetic, of what was answered"
    assert told.splitlines()[-1] == "ckptdiff: stopped; the same command goes on from here"
    assert until(lambda: group(process.pid) == [])


@pytest.mark.slow
def test_trouble_is_one_sentence(hf: Path, megatron: Path, task: Path) -> None:
    done = ckptdiff("scores", hf, megatron, "--tasks", task.with_name("odd.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "odd.yaml: there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


# One after the other


class Recorder:
    """Stands in for `ScoreComparison`: keeps what it was given and does what it was told."""

    def __init__(self, found: ScoreDiff) -> None:
        self.found = found
        self.given: dict[str, Any] = {}
        self.is_stopped = False
        self.error: Exception | None = None
        self.keeps = False
        self.answered = 0, 40
        self.found_so_far: ScoreDiff | None = None

    def __call__(self, a: object, b: object, spec: Any, executor: Any, **options: Any) -> Recorder:
        self.given = {"spec": spec, "jobs": executor.jobs, **options}
        self.keeps = options["folder"] is not None
        return self

    def results(self) -> Iterator[ScoreProgress | ScoreDiff]:
        yield ScoreProgress("reading tasks", 0, 0, 0.0, note="40 questions [b]")
        at = ScoreProgress("odd\x1b: layer 0", 0, 40, 1.0, 200.0, 2.5, 1, 2, 2, 4)
        yield at
        if self.is_stopped:
            raise KeyboardInterrupt
        if self.error is not None:
            raise self.error
        yield self.found

    def so_far(self, executor: Any) -> ScoreDiff | None:
        assert executor.jobs == 1
        return self.found_so_far


def result(**fields: Any) -> ScoreDiff:
    given = {
        "verdict": "arithmetic", "sentence": "Only arithmetic.", "dtype": "fp32", "device": "cpu",
        "tasks": (), "mean": None, "paired": None, "items": (), "step": None, "shown_by": None,
    }  # fmt: skip
    return ScoreDiff(**{**given, **fields})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder(result())
    monkeypatch.setattr(scores, "ScoreComparison", found)
    return found


def test_options_reach_the_comparison(
    hf: Path, megatron: Path, recorder: Recorder, cache: Path
) -> None:
    pair = [str(hf), str(megatron)]
    assert cli.main(["scores", *pair, "--tasks", "boolq, own.yaml"]) == 0
    spec = recorder.given.pop("spec")
    assert (spec.names, spec.limit, spec.fewshot) == (("boolq", "own.yaml"), None, None)
    assert recorder.given == {
        "jobs": 1, "dtype": "fp32", "device": "auto", "reference": "hf", "batch_tokens": None,
        "folder": cache, "attribute": False,
    }  # fmt: skip
    more = ["--limit", "5", "--fewshot", "0", "--dtype", "bf16", "--device", "cuda:1"]
    more += ["--reference", "meta", "--batch-tokens", "77", "--attribute", "--no-cache"]
    assert cli.main(["scores", *pair, "--tasks", "boolq", *more]) == 0
    spec = recorder.given.pop("spec")
    assert (spec.names, spec.limit, spec.fewshot) == (("boolq",), 5, 0)
    assert recorder.given == {
        "jobs": 1, "dtype": "bf16", "device": "cuda:1", "reference": "meta", "batch_tokens": 77,
        "folder": None, "attribute": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "code"), [("arithmetic", 0), ("undecided", 1), ("weights-or-config", 1)]
)
def test_the_exit_code_is_the_verdicts(
    hf: Path, megatron: Path, recorder: Recorder, verdict: str, code: int
) -> None:
    recorder.found = result(verdict=verdict)
    assert cli.main(["scores", str(hf), str(megatron), "--tasks", "boolq"]) == code


def test_what_a_stop_leaves_is_reported(
    hf: Path, megatron: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.is_stopped = True
    words = ["scores", str(hf), str(megatron), "--tasks", "boolq", "--json", "-"]
    assert cli.main(words) == 130
    assert capsys.readouterr() == ("", "40 questions [b]\nckptdiff: stopped\n")
    recorder.found_so_far = result(verdict="weights-or-config", complete=False)
    assert cli.main([*words, "--no-cache"]) == 130
    said = capsys.readouterr()
    assert parse(said.out)["complete"] is False
    assert said.err == "40 questions [b]\nckptdiff: stopped\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnreadableFile("/a/x.distcp: gone"), "/a/x.distcp: gone"),
        (OutOfMemory("too little", hint="cpu"), f"too little; {OPTIONS['cpu']}"),
        (MemoryError(), "memory ran out; free some, or raise its limit (ulimit -v)"),
    ],
)
def test_what_a_failure_leaves_is_reported_before_the_error(
    hf: Path,
    megatron: Path,
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    recorder.error = error
    words = ["scores", str(hf), str(megatron), "--tasks", "boolq"]
    page = tmp_path / "page.md"
    assert cli.main([*words, "--markdown", str(page)]) == 2
    assert capsys.readouterr() == ("", f"40 questions [b]\nckptdiff: {said}\n")
    assert not page.exists()
    recorder.found_so_far = result(verdict="weights-or-config", complete=False)
    recorder.answered = 12, 40
    assert cli.main([*words, "--json", "-", "--markdown", str(page)]) == 2
    told = capsys.readouterr()
    found = parse(told.out)
    assert (found["complete"], found["verdict"]) == (False, "weights-or-config")
    why = type(error).__name__ if isinstance(error, MemoryError) else said
    assert found["notes"] == [f"the run failed: {why}"]
    assert "**Stopped: all that follows is of 0 items, 0 answers.**" in page.read_text()
    assert "- the run failed: " in page.read_text()
    assert told.err.splitlines()[1:] == [
        "ckptdiff: failed when 12 of 40 questions were answered; the same command goes on from "
        "here",
        f"ckptdiff: {said}",
    ]
    assert cli.main([*words, "--no-cache"]) == 2
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "verdict: weights-or-config, of what was answered"
    assert told.err.splitlines()[1:] == [
        "ckptdiff: failed when 12 of 40 questions were answered", f"ckptdiff: {said}",
    ]  # fmt: skip


def test_a_terminal_has_a_bar(hf: Path, megatron: Path, task: Path) -> None:
    command = [*PROGRAM, "scores", str(hf), str(megatron), "--tasks", str(task), "--limit", "2"]
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=other, env=environment)
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(PATIENCE) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert re.search(r"6 questions, \d sequences", text)
    assert re.search("reading tasks +━", text)  # the bar is drawn ten times a second: what it
    # says later on, test_progress tests


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "a,,b"], "--tasks: invalid list of tasks such as boolq,piqa value: 'a,,b'"),
        (["--tasks", "a", "--limit", "0"], "--limit: invalid positive number value: '0'"),
        (["--tasks", "a", "--fewshot", "-1"], "--fewshot: invalid number value: '-1'"),
        ([], "--tasks is missing"),
    ],
)
def test_options_without_sense_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["scores", "a", "b", *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_output_takes_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scores", "a", "b", "--tasks", "x", "--json", "-", "--markdown", "-"]) == 2
    assert "the output can be one of them" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_computed(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, why in ((tmp_path, "is a folder"), (tmp_path / "none" / "f", "there is no folder")):
        # Neither side exists either: the file is looked at first.
        assert cli.main(["scores", "no-a", "no-b", "--tasks", "x", option, str(file)]) == 2
        assert why in capsys.readouterr().err


def test_the_tables_are_those_that_are_known() -> None:
    assert tuple(PUBLISHED) == TABLES
