"""f opens the finding of what is under the cursor, and c mends it, on every screen of a pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.config.compare import ConfigDiff
from ckptdiff.config.fixes import EntryFix, Fix, FlagFix
from ckptdiff.conversion.plan import Target
from ckptdiff.results import Finding
from ckptdiff.tui.model.diagnosis import Diagnosis
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.screens.findings import FindingsScreen
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.text.finding import finding_summary
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.mending import fix_to_copy, setting_to_copy
from ckptdiff.tui.widgets.detail_slot import DetailSlot
from ckptdiff.tui.widgets.painted import Words
from tests.support.tui.fakes import layer
from tests.support.tui.handmade import huggingface, megatron, session_of
from tests.support.tui.harness import rows, settle, tensors, text, toasts
from tests.support.tui.logits_made import config_only, faulty, steps

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp
    from tests.support.tui.fakes import FakeEngine

pytestmark = pytest.mark.mostly_slow(one_in=8)
NARROW, WIDE = (80, 24), (120, 40)
Q, K, DOWN = (
    layer(0, "self_attn.q_proj.weight"),
    layer(1, "self_attn.k_proj.weight"),
    layer(2, "mlp.down_proj.weight"),
)
BASE = Finding(
    "CONFIG", "fault", "RoPE base: 500000 in A, 10000 in B",
    fix="--rotary-base 500000", setting="RoPE base",
)  # fmt: skip
OF_K = Finding("SCALE", "fault", "k is 2 times as large", tensors=(K,), layers=(1,))
OF_DOWN = Finding("STALE", "fault", "near, but not the same", tensors=(DOWN,), layers=(2,))
LINE = ConfigDiff(
    "RoPE base", "conflict", "rope_theta", 500000.0, "rotary_base", 10000,
    "Every logit differs.", FlagFix((("--rotary-base", "500000"),)),
    moves=frozenset({"q_rope", "k_rope"}),
)  # fmt: skip


FOUND = [BASE, OF_K, OF_DOWN]


@pytest.fixture(autouse=True)
def _findings(engine: FakeEngine) -> None:
    engine.findings = FOUND  # before the app starts: a comparison may end at once


async def opened(app: CkptDiffApp, pilot: Pilot[None], engine: FakeEngine) -> None:
    """Wait for the findings, and for a line of the config that conflicts."""
    await settle(app, pilot)
    assert engine.findings == FOUND
    session = tensors(app).session
    session.config = (LINE, replace(LINE, meaning="Layers", status="same"))
    session.diagnosis = replace(session.diagnosis, targets={2: Target("hf")})


def chosen(app: CkptDiffApp) -> int:
    assert isinstance(app.screen, FindingsScreen)
    return app.screen.number


async def test_the_cursor_stays_on_the_first_difference_beside_the_first_finding(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.findings = [OF_DOWN]
    async with app.run_test(size=WIDE) as pilot:
        await settle(app, pilot)
        await pilot.pause(0.15)
        assert rows(app).name_here == Q
        words = app.screen.query_one("#pane-finding", Words)
        assert plain(words.lines(44, 20))[0].startswith("✗ Finding 1, STALE")
        await pilot.press("n")
        await pilot.pause(0.15)
        assert not words.display
        await pilot.press("N")
        await pilot.pause(0.15)
        assert words.display


async def test_the_list_opens_the_finding_of_its_row(app: CkptDiffApp, engine: FakeEngine) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        tensors(app).go_to(DOWN)
        await pilot.pause()
        assert tensors(app).query_one(DetailSlot).number == 3
        await pilot.press("f")
        await pilot.pause()
        assert chosen(app) == 3


async def test_the_detail_opens_the_finding_of_its_tensor(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        tensors(app).go_to(K)
        await pilot.press("enter", "f")
        await pilot.pause()
        assert chosen(app) == 2
        await pilot.press("q")
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)
        assert "f Finding  c Mend" in text(app, "KeyLine")
        await pilot.press("c")
        await pilot.pause()
        assert isinstance(app.screen, ConvertScreen)
        assert app.screen._draft is not None
        await pilot.press("escape", "f", "enter")
        await pilot.pause()
        assert app.screen is tensors(app)  # type: ignore[comparison-overlap]
        assert tensors(app).session.tensors.order == [K]


async def test_a_tensor_without_a_finding_says_so(app: CkptDiffApp, engine: FakeEngine) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        tensors(app).go_to(Q)
        await pilot.press("enter", "f")
        assert toasts(app)[-1] == "Finding: none is about this tensor."
        assert "c Mend" not in text(app, "KeyLine")
        await pilot.press("c")
        assert toasts(app)[-1] == "Finding: none is about this tensor."
        app.screen.show(DOWN)  # type: ignore[attr-defined]
        await pilot.press("c")
        assert toasts(app)[-1] == "Mend: it cannot be undone."


async def test_the_config_opens_the_finding_of_its_line(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        await pilot.press("2")
        await pilot.pause()
        assert "f Finding" in text(app, "KeyLine")
        await pilot.press("c")
        assert toasts(app)[-1] == "Mend: no conversion is needed. f shows what mends it."
        await pilot.press("f")
        await pilot.pause()
        assert chosen(app) == 1
        await pilot.press("y")
        assert app.clipboard == "add to Megatron-LM's arguments: --rotary-base 500000"
        await pilot.press("q", "j", "f")
        assert isinstance(app.screen, ConfigScreen)
        assert toasts(app)[-1] == "Finding: none is about this setting."


async def ask(app: CkptDiffApp, pilot: Pilot[None]) -> str:
    """Give a prompt, and return what is said below the table of steps."""
    await pilot.press("p", "h", "i", "enter")
    await settle(app, pilot)
    assert isinstance(app.screen, LogitsScreen)
    while (run := app.screen.prompt_run) is None or run.is_busy:
        await pilot.pause(0.01)
    await pilot.pause()
    return " ".join(plain(app.screen.query_one("#outcome", Words).lines(76, 20)))


async def test_the_verdict_names_the_finding_of_the_first_bad_step(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(faulty())
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        told = await ask(app, pilot)
        assert "Finding 2, SCALE: k is 2 times as large. f shows how to mend it." in told
        line = text(app, "KeyLine")
        assert "f Finding" in line
        assert "c Mend" in line
        await pilot.press("f")
        await pilot.pause()
        assert chosen(app) == 2
        await pilot.press("q", "g", "f")
        await pilot.pause()
        assert toasts(app)[-1] == "Finding: none is about this step."
        await pilot.press("n", "c")
        await pilot.pause()
        assert isinstance(app.screen, ConvertScreen)


async def test_a_step_that_reads_no_tensor_is_of_the_setting_that_moves_it(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(config_only())
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, engine)
        told = await ask(app, pilot)
        assert "Finding 1, CONFIG: RoPE base: 500000 in A, 10000 in B. f shows how" in told
        await pilot.press("f")
        await pilot.pause()
        assert chosen(app) == 1


# ── words ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fix", "text", "line"),
    [
        (
            FlagFix((("--rotary-base", "500000"),)),
            "--rotary-base 500000",
            "add to Megatron-LM's arguments: --rotary-base 500000",
        ),
        (
            FlagFix(left_out=("--qk-layernorm",)),
            "leave out --qk-layernorm",
            "take out of Megatron-LM's arguments: --qk-layernorm",
        ),
        (
            FlagFix((("--squared-relu",), ("--x", "1")), ("--swiglu", "--quick-geglu")),
            "leave out --swiglu, leave out --quick-geglu, --squared-relu --x 1",
            "take out of Megatron-LM's arguments: --swiglu --quick-geglu; "
            "add: --squared-relu --x 1",
        ),
        (
            FlagFix((("--window-attn-skip-freq", "4"),), release="0.19"),
            "--window-attn-skip-freq 4 (Megatron-LM 0.19)",
            "add to Megatron-LM 0.19's arguments: --window-attn-skip-freq 4",
        ),
        (
            EntryFix('"rope_theta": 10000.0', "config.json"),
            '"rope_theta": 10000.0 in config.json',
            'set in /ckpt/mg/config.json: "rope_theta": 10000.0',
        ),
        (
            EntryFix('"a": "b in A\'s c.json"', "config.json", "A"),
            '"a": "b in A\'s c.json" in A\'s config.json',
            'set in /ckpt/hf/config.json: "a": "b in A\'s c.json"',
        ),
        (
            EntryFix("rotary_base: 10000", "run.yaml"),
            "rotary_base: 10000 in run.yaml",
            "set in /ckpt/run.yaml: rotary_base: 10000",
        ),
    ],
)
def test_a_setting_is_copied_with_the_place_where_it_belongs(
    fix: Fix, text: str, line: str
) -> None:
    a, b = huggingface(), megatron()
    if isinstance(fix, EntryFix) and fix.file == "run.yaml":
        b = replace(b, checkpoint=replace(b.checkpoint, config_file=Path("/ckpt/run.yaml")))
    session: Any = session_of(a, b, compare=False)
    assert setting_to_copy(session, fix) == line
    session.config = (replace(LINE, mending=fix),)
    assert fix_to_copy(session, replace(BASE, fix=fix.text)) == line
    assert session.config[0].fix == fix.text == text


@pytest.mark.parametrize("width", [30, 44])
def test_a_summary_is_short_and_cannot_steer_the_terminal(width: int) -> None:
    evil = replace(OF_K, title="a\x1b[2J " * 40, fix="f " * 400)
    for ascii_only in (True, False):
        lines = plain(finding_summary(Diagnosis((evil, BASE)), 1, width, ascii_only=ascii_only))
        assert len(lines) <= 10
        assert lines[0].endswith(" Finding 1 of 2, SCALE")
        assert all(len(line) <= width and line.isprintable() for line in lines)
        assert "".join(lines).isascii() is ascii_only
