"""From the start to what is wrong and how to mend it: at most two keys, on real files."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.demo import make_demo
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.findings import FindingsScreen
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.widgets.detail_slot import DetailSlot
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.tui.harness import rows, settle, static, tensors, text, until_planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from textual.pilot import Pilot
    from torch import Tensor

    Tiny = Callable[..., Path]
    Start = Callable[..., CkptDiffApp]
    Pair = tuple[Path, Path]

pytestmark = pytest.mark.mostly_slow(one_in=6)
NARROW, WIDE = (80, 24), (120, 40)


class InlineEngine(LocalEngine):
    """The real one, in this process."""

    def executor(self) -> Executor:
        return InlineExecutor()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Make apps that share settings and the results of earlier runs."""

    def make(*pair: Path) -> CkptDiffApp:
        return CkptDiffApp(
            pair,
            engine=InlineEngine(),
            settings_file=tmp_path / "settings.json",
            history=tmp_path / "kept",
        )

    return make


def changed(source: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """Copy a folder of one file, with its tensors changed."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def exchanged_experts(weights: dict[str, Tensor]) -> None:
    prefix = "model.layers.1.block_sparse_moe.experts"
    for part in ("w1", "w2", "w3"):
        one, other = (f"{prefix}.{number}.{part}.weight" for number in (0, 3))
        weights[one], weights[other] = weights[other], weights[one]


def without_layer(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("model.layers.1.")]:
        del weights[name]


@pytest.fixture
def mixtral(tiny_hf: Tiny, tmp_path: Path) -> Pair:
    source = tiny_hf(family="mixtral", single=True)
    return source, changed(source, tmp_path / "b", exchanged_experts)


@pytest.fixture
def deepseek(corpus: Path, tmp_path: Path) -> Pair:
    source = corpus / "deepseek-v3/hf"
    return source, changed(source, tmp_path / "b", without_layer)


@pytest.fixture
def other_base(tiny_hf: Tiny, tmp_path: Path) -> Pair:
    source = tiny_hf(single=True)
    b = tmp_path / "b"
    shutil.copytree(source, b)
    config = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps(config | {"rope_theta": 20000.0}))
    return source, b


async def until_looked(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    await pilot.pause()
    while tensors(app).session.phase != "done" or tensors(app).session.is_busy:
        await pilot.pause(0.02)
    await settle(app, pilot)


async def summary(app: CkptDiffApp, pilot: Pilot[None]) -> list[str]:
    """Return what the pane says of a finding, once it has come to rest; [] if it says nothing."""
    slot = tensors(app).query_one(DetailSlot)
    while slot.pane is None or slot.pane._shown is None or slot.pane._pending:
        await pilot.pause(0.02)
    words = slot.pane.query_one("#pane-finding", Words)
    return plain(words.lines(100, 20)) if words.display else []


def said(app: CkptDiffApp) -> str:
    assert isinstance(app.screen, FindingsScreen)
    return " ".join(plain(app.screen.query_one("#said", Words).lines(400, 100)))


async def test_the_demo_says_it_at_once_and_c_mends_it(start: Start, tmp_path: Path) -> None:
    pair = make_demo(tmp_path / "demo")
    app = start(*pair)
    async with app.run_test(size=WIDE) as pilot:
        await until_looked(app, pilot)
        assert rows(app).name_here == "model.layers.2.self_attn.k_proj.weight"
        found = await summary(app, pilot)
        assert found[0] == "✗ Finding 1, QKV-SWAP: K and V exchanged inside every query group"
        assert found[1].startswith("ckptdiff convert")
        assert found[2:] == ["c mends it   f all of it   2 tensors, layer 2, TP ranks 0-1"]
        await pilot.press("c")
        await until_planned(pilot)
        assert isinstance(app.screen, ConvertScreen)
        assert static(app, "#faults") == "QKV-SWAP"
        assert app.screen.query_one("#to", Choice).value == "megatron"
        assert "--undo 'QKV-SWAP:{" in static(app, "#command")


async def test_results_of_an_earlier_run_say_it_as_well(start: Start, tmp_path: Path) -> None:
    pair = make_demo(tmp_path / "demo")
    for run in range(2):
        app = start(*pair)
        async with app.run_test(size=WIDE) as pilot:
            await until_looked(app, pilot)
            assert bool(tensors(app).session.compared_at) == bool(run)
            assert rows(app).name_here == "model.layers.2.self_attn.k_proj.weight"
            assert (await summary(app, pilot))[0].startswith("✗ Finding 1, QKV-SWAP: ")


async def test_one_key_shows_the_command_for_exchanged_experts(start: Start, mixtral: Pair) -> None:
    app = start(*mixtral)
    async with app.run_test(size=NARROW) as pilot:
        await until_looked(app, pilot)
        name = rows(app).name_here
        assert name is not None
        assert name.startswith("model.layers.1.block_sparse_moe.experts.0.")
        assert text(app, "FindingLine").startswith("✗ EXPERT-ORDER layer 1")
        await pilot.press("f")
        await pilot.pause()
        assert "--undo 'EXPERT-ORDER:{" in said(app)
        await pilot.press("y")
        assert app.clipboard.startswith(f"ckptdiff convert {mixtral[1]}")


async def test_a_missing_layer_is_under_the_cursor(start: Start, deepseek: Pair) -> None:
    app = start(*deepseek)
    async with app.run_test(size=WIDE) as pilot:
        await until_looked(app, pilot)
        session = tensors(app).session
        missing = [name for name in session.names if name.startswith("model.layers.1.")]
        assert rows(app).name_here == missing[0]
        found = await summary(app, pilot)
        assert "MISSING" in found[0]
        assert f"{len(missing)} tensors of A are not in B" in found[0]
        await pilot.press("f")
        await pilot.pause()
        assert f"{len(missing)} tensors of A are not in B" in said(app)


async def test_a_config_fault_alone_is_on_the_first_screen(start: Start, other_base: Pair) -> None:
    app = start(*other_base)
    async with app.run_test(size=WIDE) as pilot:
        await until_looked(app, pilot)
        found = await summary(app, pilot)
        assert found[0] == "✗ Finding 1, CONFIG: RoPE base: 10000 in A, 20000 in B"
        assert found[-1] == "f all of it"
        await pilot.press("j")
        assert await summary(app, pilot) == []  # no fault is about that row
        await pilot.press("f", "y")
        line = f'set in {other_base[1] / "config.json"}: "rope_theta": 10000.0'
        assert app.clipboard == line
        await pilot.press("enter", "y")
        assert app.clipboard == line
        await pilot.resize_terminal(*NARROW)
        await pilot.press("q", "q")
        await pilot.pause()
        assert text(app, "FindingLine").startswith("✗ CONFIG: RoPE base: 10000 in A, 20000 in")
