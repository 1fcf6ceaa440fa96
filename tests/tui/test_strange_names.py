"""Names and paths of any characters on the screen and in the clipboard: nothing unseen arrives."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.executor import InlineExecutor
from ckptdiff.text import printable
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.hostile import entry, safetensors
from tests.support.tui.harness import settle, toasts

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

pytestmark = pytest.mark.slow

STRANGE = (
    "\x1b[31mred\x1b]52;c;cm0=\a", "a\u202egnp.weight", "a\nb", "[red]a[/red]", "a[/]b[", "`a`|b",
    "\u200ba\U000e0041", "a\u2066\u2069",
)  # fmt: skip


# Through the views of the tensors, both sides, files, entries, findings, config and conversion.
KEYS = """
enter n y Y v q q vertical_line j y vertical_line j y enter y q vertical_line i slash a enter escape
e s j y Y q f j y Y q 2 j y Y enter q w escape c escape
"""


class Inline(LocalEngine):
    def executor(self) -> Any:
        return InlineExecutor()


def written(folder: Path, byte: bytes) -> Path:
    folder.mkdir(parents=True)
    header = {n: entry(offsets=(8 * i, 8 * i + 8)) for i, n in enumerate(STRANGE)}
    data = byte * 8 * len(STRANGE)
    (folder / "model\u202e\x1b[2J.safetensors").write_bytes(safetensors(header, data))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "\x1b[2J[red]x[/red]", "hidden_size": 8 + byte[0],
                    "note\u202e\x1b": "\x1b[2J", "architectures": ["[/]\u202e"]})
    )  # fmt: skip
    return folder


def check(app: CkptDiffApp, where: str) -> str:
    """Check what is on the screen; return it."""
    strips = app.screen._compositor.render_strips()
    seen = "\n".join(strip.text for strip in strips)
    bad = {
        c for c in seen if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    assert not bad, (where, bad, seen)
    return seen


async def visit(app: CkptDiffApp, pilot: Pilot[None], *keys: str) -> str:
    await pilot.press(*keys)
    await settle(app, pilot)
    return check(app, " ".join(keys))


async def test_strange_names_in_every_view(tmp_path: Path) -> None:
    folders = [written(tmp_path / "x\x1b[2J\u202e[red]" / side, side.encode()) for side in "ab"]
    app = CkptDiffApp(
        folders, engine=Inline(1), settings_file=tmp_path / "settings.json", history=tmp_path / "h"
    )
    async with app.run_test(size=(140, 50)) as pilot:
        await settle(app, pilot)
        seen = check(app, "start")
        assert sum(printable(name) in seen for name in STRANGE) >= len(STRANGE) - 1
        await pilot.press("g")
        copied = set()
        for _ in range(len(STRANGE) + 2):
            for keys in ("y", "Y"):
                await visit(app, pilot, keys)
                copied.add(app.clipboard)
            await visit(app, pilot, "j")
        assert all(text == printable(text) for text in copied)
        quoted = sorted(text for text in copied if text.startswith("$'"))
        assert len(quoted) == 5
        told = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {' '.join(quoted)}"], capture_output=True, check=True
        ).stdout.decode()
        assert set(told.split("\0")[:-1]) <= set(STRANGE)
        for keys in KEYS.split():
            await visit(app, pilot, keys)
            assert app.clipboard.replace("\n", "").isprintable()
        for said in toasts(app):
            assert said.replace("\n", "").isprintable(), said


async def test_strange_paths_where_checkpoints_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [written(tmp_path / f"x\x1b[2J\u202e[red]{side}", side.encode()) for side in "ab"]
    (tmp_path / "b\x80".encode("latin-1").decode("utf-8", "surrogateescape")).mkdir()
    monkeypatch.chdir(tmp_path)
    files: Any = {"settings_file": tmp_path / "settings.json", "history": tmp_path / "h"}
    app = CkptDiffApp(folders, engine=Inline(1), **files)
    async with app.run_test(size=(140, 50)) as pilot:
        await settle(app, pilot)
    app = CkptDiffApp([], engine=Inline(1), **files)
    async with app.run_test(size=(140, 50)) as pilot:
        await settle(app, pilot)
        for keys in ("x", "tab", "down", "enter", "q", "Y", "ctrl+o"):
            await visit(app, pilot, keys)
        for _ in range(5):
            await visit(app, pilot, "down")
        assert "x\\x1b[2J" in check(app, "browse")
        await visit(app, pilot, "enter")
