"""A hub of our own on this machine: the answers that huggingface_hub asks for, of folders of files.

The library itself then writes its cache, as it does from the real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

NO_SUCH_MODEL = (404, "RepoNotFound")
GATED = (403, "GatedRepo")


class FakeHub:
    """Models by their ids: a folder of files each, or the error that the hub answers with."""

    def __init__(self, models: Mapping[str, Path | tuple[int, str]]) -> None:
        self.models = dict(models)
        self.locked: set[str] = set()  # models that all may list and nobody may fetch
        self.asked: list[str] = []  # methods and paths
        self.endpoint = ""

    def commit(self, model: str) -> str:
        """Return the commit that a model is at."""
        files = self.files(model)
        what = json.dumps({name: git_hash(file) for name, file in files.items()})
        return hashlib.sha1(f"{model} {what}".encode()).hexdigest()

    def files(self, model: str) -> dict[str, Path]:
        folder = self.models[model]
        assert isinstance(folder, Path)
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file for file in found}


def git_hash(file: Path) -> str:
    """Return what the hub has as the ETag of a file that is not large."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(models: Mapping[str, Path | tuple[int, str]]) -> Iterator[FakeHub]:
    """Serve models at an address of this machine; yield the hub, which has it as `endpoint`."""
    hub = FakeHub(models)

    class Handler(_Handler):
        fake = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, cache: Path, hub: FakeHub | None = None) -> None:
    """Have huggingface_hub, which reads the environment when it is imported, use these two."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub is None)
    endpoint = "http://127.0.0.1:9" if hub is None else hub.endpoint  # where nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.fake.asked.append(f"{self.command} {path}")
        for model, held in self.fake.models.items():
            if path.startswith((f"/api/models/{model}", f"/{model}/resolve/")):
                if not isinstance(held, Path):
                    self._refuse(*held)
                elif path.startswith("/api"):
                    self._tell(model, path.removeprefix(f"/api/models/{model}"))
                else:
                    self._send_file(model, path.removeprefix(f"/{model}/resolve/"))
                return
        self._refuse(*NO_SUCH_MODEL)

    def _tell(self, model: str, what: str) -> None:
        revision = what.rpartition("/")[2] or "main"
        commit = self.fake.commit(model)
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound")
            return
        files = self.fake.files(model)
        if what.startswith("/tree/"):
            self._send_json(
                [
                    {"type": "file", "path": name, "size": f.stat().st_size, "oid": git_hash(f)}
                    for name, f in files.items()
                ]
            )
            return
        siblings = [
            {"rfilename": name, "size": f.stat().st_size, "blobId": git_hash(f)}
            for name, f in files.items()
        ]
        self._send_json({"id": model, "modelId": model, "sha": commit, "siblings": siblings})

    def _send_file(self, model: str, what: str) -> None:
        _, _, name = what.partition("/")
        if model in self.fake.locked:
            self._refuse(*GATED)
            return
        file = self.fake.files(model).get(name)
        if file is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"ETag": f'"{git_hash(file)}"', "X-Repo-Commit": self.fake.commit(model)}
        self._send(200, file.read_bytes(), headers)

    def _refuse(self, status: int, code: str) -> None:
        content = b"{}" if status >= 400 else b"<html>please log in</html>"  # of a proxy
        self._send(status, content, {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send_json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
