"""Ids of models on the command line, and --download, against a hub of our own on this machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest

from ckptdiff.cli.main import main
from ckptdiff.formats.hub import fetch
from ckptdiff.formats.hub.lookup import Wanted
from tests.support.fake_hub import GATED, serving, use
from tests.support.oracle_hf import make_hf
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fake_hub import FakeHub

MODEL = "org/model"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub that has a model with all that people put beside it, one that is gated, and others."""
    root = tmp_path_factory.mktemp("hub")
    make_hf(root / "model")
    for name in ("tokenizer.json", "README.md", "pytorch_model.bin", "model.fp16.safetensors"):
        (root / "model" / name).write_text("{}")
    (root / "model" / "onnx").mkdir()
    (root / "model" / "onnx" / "config.json").write_text("{}")
    (root / "empty").mkdir()
    (root / "empty" / "README.md").write_text("nothing here")
    models: dict[str, Path | tuple[int, str]]
    models = {MODEL: root / "model", "org/gated": GATED, "org/empty": root / "empty"}
    models |= {"org/broken": (500, ""), "org/page": (200, "")}
    models |= {"org/terms": root / "model"}
    with serving(models) as served:
        served.locked.add("org/terms")
        yield served


@pytest.fixture
def cache(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the hub within reach."""
    hub.asked.clear()
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, tmp_path / "cache", hub)
    return tmp_path / "cache"


def source(hub: FakeHub) -> Path:
    folder = hub.models[MODEL]
    assert isinstance(folder, Path)
    return folder


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["ls", "--json", *words]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    found: dict[str, Any] = json.loads(out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line of an error."""
    assert main(list(words)) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    return error.removeprefix("ckptdiff: ").rstrip()


def test_nothing_is_fetched_unless_it_is_asked_for(
    hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "ls", MODEL) == (
        f"{MODEL}: there is no such file or folder, and no model of this id is in the hub's cache "
        f"in {cache}; if it is the id of a model, --download fetches it"
    )
    for command in (["diff", MODEL, str(cache)], [MODEL], ["serve", MODEL]):
        assert f"{MODEL}: there is no such file or folder, and no model" in refused(
            capsys, *command
        )
    assert hub.asked == []
    assert not cache.exists()


def test_download_fetches_what_is_of_use_once(
    hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = listed(capsys, MODEL, "--download")
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /org/")}
    names = {file.name for file in source(hub).glob("model*") if "fp16" not in file.name}
    assert fetched == {*names, "config.json", "tokenizer.json"}
    assert first["hub"] == {"id": MODEL, "commit": hub.commit(MODEL)}
    assert first["path"].endswith(f"cache/models--org--model/snapshots/{hub.commit(MODEL)}")
    hub.asked.clear()
    for again in (listed(capsys, MODEL, "--download"), listed(capsys, f"{MODEL}@main")):
        assert again["tensors"] == first["tensors"]
        assert again["hub"] == first["hub"]
    assert main(["diff", MODEL, str(source(hub)), "--download"]) == 0
    assert f"({MODEL} of the hub, commit {hub.commit(MODEL)})" in capsys.readouterr().out
    assert hub.asked == []


@pytest.mark.slow
def test_download_completes_a_snapshot(
    hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = huggingface_hub.snapshot_download(MODEL, allow_patterns=["config.json"])
    capsys.readouterr()
    for path in (MODEL, folder, str(cache / "models--org--model")):
        said = refused(capsys, "ls", path)
        assert said.startswith(f"{folder}: {MODEL} at this commit was not fetched whole: ")
        assert said.endswith("; --download fetches the rest")
    whole = listed(capsys, folder, "--download")
    assert whole["path"] == folder
    assert whole["notes"] == [f"{MODEL} of the hub, commit {hub.commit(MODEL)}"]
    # So it does where nothing of `main` is there,
    home = cache / "models--org--model"
    shutil.rmtree(folder)
    assert "of which no file was fetched" in refused(capsys, "ls", str(home))
    assert listed(capsys, str(home), "--download")["tensors"] == whole["tensors"]
    # and where the folder has no list of what there is.
    shutil.rmtree(cache / "models--org--model" / "trees")
    next(Path(folder).glob("model-*")).unlink()
    assert listed(capsys, MODEL, "--download")["tensors"] == whole["tensors"]


def test_download_leaves_a_path_alone(
    hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(capsys, str(source(hub)), "--download")
    assert "there is no such file or folder" in refused(capsys, "ls", "/org/x", "--download")
    assert hub.asked == []


def test_each_failure_is_a_sentence(
    hub: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = hub.endpoint

    def said(model: str) -> str:
        return refused(capsys, "ls", model, "--download")

    assert said("org/none") == (
        f"org/none: no such model is on {at}, or it is private. Check the id, or log in: "
        "hf auth login"
    )
    for model in ("org/gated", "org/terms"):
        assert said(model) == (
            f"{model}: is open to those only who have accepted its terms. Accept them at "
            f"{at}/{model} and log in: hf auth login"
        )
    assert said(f"{MODEL}@v9") == f"{MODEL}@v9: the model has no such revision on {at}"
    assert said("org/empty") == ("org/empty: has no weights on the hub that can be read: README.md")
    assert said("org/page").startswith(f"org/page: {at} answers with something else than a hub")
    assert said("org/broken").startswith(f"org/broken: cannot be fetched from {at} (")
    with monkeypatch.context() as patch:
        use(patch, cache)
        assert said(MODEL) == f"{MODEL}: HF_HUB_OFFLINE is set, so nothing is fetched: unset it"
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert said(MODEL).startswith(f"{MODEL}: cannot be fetched from http://127.0.0.1:9 (")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_free_bytes", lambda folder: 1000)
        assert said(MODEL).endswith(
            f"are to be fetched into {cache}, where 1 kB are free; free some, or set HF_HUB_CACHE "
            "to another folder"
        )
    for number, words in (
        (errno.ENOSPC, f"{cache}: is full. Free some of it, or set HF_HUB_CACHE"),
        (errno.EACCES, f"{cache}: cannot be written (Permission denied)"),
    ):
        error = OSError(number, os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr(huggingface_hub, "snapshot_download", raising(error))
            assert said(MODEL).startswith(words)


def test_a_download_that_is_stopped_does_not_end_its_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hf(tmp_path / "one", single=True)
    (file,) = (tmp_path / "one").glob("*.safetensors")
    chunk = file.stat().st_size // 200
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    with serving({"org/one": tmp_path / "one"}) as hub:
        use(monkeypatch, tmp_path / "cache", hub)
        what = fetch.Fetching(Wanted("org/one", None), tmp_path / "cache", (file.name,), 0)
        asked = threading.Event()

        def progress(_: int) -> None:
            if not asked.is_set():
                asked.set()
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)

        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(what, progress)
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        fetch.fetch(what, lambda _: None)
        (fetched,) = (tmp_path / "cache").rglob("*.safetensors")
        assert fetched.read_bytes() == file.read_bytes()


def raising(error: Exception) -> Any:
    def fail(*_: object, **options: object) -> str:
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        raise error

    return fail


@pytest.mark.slow
def test_the_environment_says_where_the_cache_and_the_hub_are(hub: FakeHub, tmp_path: Path) -> None:
    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ckptdiff", *words],
            env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    done = run("ls", MODEL, "--download", HF_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/home/hub/models--org--model" in done.stdout
    done = run("ls", MODEL, HF_HUB_CACHE=str(tmp_path / "home" / "hub"), HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr) == (0, "")
