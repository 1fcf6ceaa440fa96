"""An app on a fake engine."""

from __future__ import annotations

from functools import partialmethod
from typing import TYPE_CHECKING, Any

import pytest
from textual import _wait
from textual.pilot import Pilot

from ckptdiff.tui.app import CkptDiffApp
from tests.support.patience import PATIENCE
from tests.support.tui.fakes import A, B, Clock, FakeEngine, layer, result
from tests.support.tui.harness import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_terminal_of_many_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Textual waits longer than its half minute, and toasts stay to be read."""
    waiting = partialmethod(Pilot._wait_for_screen, timeout=PATIENCE)
    monkeypatch.setattr(Pilot, "_wait_for_screen", waiting)
    monkeypatch.setattr(CkptDiffApp, "NOTIFICATION_TIMEOUT", PATIENCE)
    # It looks twice after each key whether the app is idle: half as long each time.
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", _wait.SLEEP_GRANULARITY / 2)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", _wait.SLEEP_IDLE / 2)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """Some of everything in layers 0 to 2; the other 9 tensors are the same."""
    engine = FakeEngine(
        {
            layer(0, "self_attn.q_proj.weight"): result(
                layer(0, "self_attn.q_proj.weight"), "differ"
            ),
            layer(1, "self_attn.k_proj.weight"): result(
                layer(1, "self_attn.k_proj.weight"), "shape"
            ),
            layer(1, "mlp.down_proj.weight"): result(layer(1, "mlp.down_proj.weight"), "close"),
            layer(2, "mlp.down_proj.weight"): result(
                layer(2, "mlp.down_proj.weight"), "differ", max_abs=0.5
            ),
            "lm_head.weight": result("lm_head.weight", "only_a"),
        }
    )
    yield engine
    engine.gate.set()
    if engine.looking is not None:
        engine.looking.set()
    if engine.reading is not None:
        engine.reading.set()


@pytest.fixture
def make_app(engine: FakeEngine, tmp_path: Path) -> Callable[..., CkptDiffApp]:
    """Make apps that share settings and history, as runs one after the other do."""

    def make(*paths: Path, **options: Any) -> CkptDiffApp:
        options.setdefault("clock", engine.clock)
        options.setdefault("now", Clock(NOW))
        return CkptDiffApp(
            paths,
            engine=options.pop("engine", engine),
            settings_file=tmp_path / "config" / "settings.json",
            history=options.pop("history", None),
            **options,
        )

    return make


@pytest.fixture
def app(make_app: Callable[..., CkptDiffApp]) -> CkptDiffApp:
    """Compare A and B."""
    return make_app(A, B)
