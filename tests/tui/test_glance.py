"""One checkpoint: what is read of the tensor under the cursor, and what a layer holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import App

from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.widgets import tensor_reader
from ckptdiff.tui.widgets.detail_pane import DetailPane
from tests.support.tui.handmade import EQUAL, LONE, Host, session_of, settle, written
from tests.tui.test_detail import text_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ckptdiff.tui.model.session import Session


class Beside(App[None]):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self._pane = DetailPane(session)

    def compose(self) -> Any:
        yield self._pane


async def test_a_small_tensor_is_read_at_once_and_only_once(tmp_path: Path) -> None:
    session = session_of(written(tmp_path)[0])
    app = Beside(session)
    async with app.run_test(size=(50, 40)) as pilot:
        pane = app.query_one(DetailPane)
        pane.show(EQUAL)
        pane.show(LONE)
        await pilot.pause(0.4)
        await settle(app, pilot)
        shown = text_of(app)
        assert "48 values" in shown
        assert "min 0" in shown
        assert "max 4.7e+01" in shown
        assert "values from" in shown
        assert "row 1" in shown
        assert list(session.glances) == [LONE]  # the cursor did not rest on the other


async def test_a_large_tensor_is_read_after_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_reader, "SMALL", 100)
    session = session_of(written(tmp_path)[0])
    screen = DetailScreen(session, LONE)
    app = Host(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(0.3)
        assert "i reads all 192 B for statistics" in text_of(app)
        assert screen.check_action("statistics", ()) is True
        await pilot.press("i")
        await settle(app, pilot)
        assert "48 values" in text_of(app)
        assert screen.check_action("statistics", ()) is False


async def test_a_layer_is_summed_up_and_no_pane_is_empty(tmp_path: Path) -> None:
    session = session_of(written(tmp_path)[0])
    app = Beside(session)
    async with app.run_test(size=(50, 30)) as pilot:
        app.query_one(DetailPane).show(session.layers[0])
        await pilot.pause(0.1)
        shown = text_of(app)
        assert "layers.0" in shown
        assert "2 tensors, 384 B" in shown
        assert "6x8  f32" in shown
