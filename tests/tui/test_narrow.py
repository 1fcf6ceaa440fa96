"""Every screen in a terminal of any size: it shows less, and does not end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.tui.harness import settle
from tests.tui.test_strange_names import written

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

pytestmark = pytest.mark.slow
SIZES = ((1, 1), (2, 3), (5, 24), (12, 3), (20, 24), (33, 5), (50, 24), (500, 200))


class Inline(LocalEngine):
    def executor(self) -> Executor:
        return InlineExecutor()


@pytest.mark.parametrize(
    ("keys", "screen"),
    [
        ("e", "EntriesScreen"),
        ("enter", "DetailScreen"),
        ("enter v", "ValuesScreen"),
        ("2", "ConfigScreen"),
        ("f", "FindingsScreen"),
        ("vertical_line", "TensorsScreen"),
    ],
)
async def test_no_size_of_the_terminal_ends_a_screen(
    tmp_path: Path, keys: str, screen: str
) -> None:
    a, b = written(tmp_path / "a", b"\0"), written(tmp_path / "b", b"\1")
    app = CkptDiffApp(
        (a, b), engine=Inline(1), settings_file=tmp_path / "settings.json", history=None
    )
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        await pilot.press(*keys.split())
        await settle(app, pilot)
        assert type(app.screen).__name__ == screen
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert app.return_code is None
