"""What the first frame waits for: Textual, and of ckptdiff only what it shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.patience import PATIENCE

SCRIPT = """
import asyncio, sys, tempfile
from pathlib import Path
from ckptdiff.demo import make_demo
with tempfile.TemporaryDirectory() as home:
    pair = make_demo(Path(home) / "demo")
    before = set(sys.modules)
    from ckptdiff.tui.app import CkptDiffApp
    from ckptdiff.tui.workers.engine import LocalEngine
    app = CkptDiffApp(pair, engine=LocalEngine(1), settings_file=Path(home) / "settings.json")
    frame = set()
    async def main():
        async with app.run_test(size=(80, 24)) as pilot:
            frame.update(sys.modules)
            while app.screen.session.phase != "done":
                await pilot.pause(0.02)
    from multiprocessing import resource_tracker
    resource_tracker.ensure_running()
    asyncio.run(main())
    done = set(sys.modules)
late = {"detail", "entries", "help", "logits", "open", "report", "score_item", "scores", "values"}
screens = {f"ckptdiff.tui.screens.{name}" for name in late}
print(*sorted(frame & ({"torch", "numpy", "ckptdiff.tui.commands"} | screens)))
print(*sorted(done & {"torch", "numpy"}))
"""


@pytest.mark.slow
def test_neither_torch_nor_numpy_nor_what_a_key_brings_is_imported_for_the_first_frame() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    first_frame, whole_comparison = done.stdout.splitlines()
    assert first_frame == ""
    assert whole_comparison == ""
