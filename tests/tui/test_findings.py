"""The findings: looked for in the background, a line under the list, a screen, marks, a filter."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ckptdiff.checkpoint import Rank
from ckptdiff.conversion.remap import Remap
from ckptdiff.demo import make_demo
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import InlineExecutor
from ckptdiff.results import Displaced, Finding
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.findings import FindingsScreen
from ckptdiff.tui.text.finding import finding_page
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.progress import outcome, side_notes
from ckptdiff.tui.widgets.finding_line import FindingLine
from ckptdiff.tui.widgets.painted import Words
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.saved_by_newest import unpack
from tests.support.tui.fakes import A, B, FakeEngine, layer
from tests.support.tui.harness import rows, settle, static, tensors, text, toasts, until_planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from textual.pilot import Pilot

    Make = Callable[..., CkptDiffApp]

pytestmark = pytest.mark.mostly_slow(one_in=10)
Q, DOWN = layer(0, "self_attn.q_proj.weight"), layer(2, "mlp.down_proj.weight")
ROPE = Finding(
    "ROPE-PERM",
    "fault",
    "rows of q are in Meta's rotary order",
    tensors=(Q,),
    layers=(0,),
    ranks=(Rank(0), Rank(1)),
    evidence="rows of q are in Meta's rotary order; 2 shards, 50% of their rows differ",
    undo=Remap.parse('ROPE-PERM:{"written":"meta-q","tensors":{"decoder.layers.#.qkv":"0"}}'),
    fix="ckptdiff convert /ckpt/run7 /ckpt/out --to megatron --undo 'ROPE-PERM:{}'",
    cause="rows were reordered for the other convention",
    rejected=("QKV-LAYOUT", "QKV-SWAP"),
    displaced=Displaced("row", 0, 4, ((0, 0), (1, 2), (2, 1), (3, 3)), "linear_qkv, "),
)
STALE = Finding(
    "STALE", "fault", "near the right content [b]but[/b] not the same",
    tensors=(Q, DOWN), layers=(0, 2),
)  # fmt: skip
CONFIG = Finding(
    "CONFIG", "fault", "RoPE base: 500000 in A, 10000 in B", fix="--rotary-base 500000",
    evidence="A: rope_theta = 500000; B: rotary_base = 10000. Every logit differs.",
)  # fmt: skip
ROUNDED = Finding("DTYPE", "info", "stored in bf16", tensors=(DOWN,), layers=(2,))


class InlineEngine(LocalEngine):
    """The real one, in this process."""

    def executor(self) -> Executor:
        return InlineExecutor()


def said(app: CkptDiffApp) -> str:
    return "\n".join(plain(app.screen.query_one("#said", Words).lines(76, 100)))


def finding_line(app: CkptDiffApp) -> str:
    line = tensors(app).query_one(FindingLine)
    return str(line.render()) if line.display else ""


def marked(app: CkptDiffApp) -> dict[str, str]:
    """Return glyph and mark of the rows of the list, by the last word of each name."""
    shown = [
        "".join(part.text for part in rows(app).render_line(y + 1))
        for y in range(len(tensors(app).session.tensors.rows))
    ]
    return {line[4:].split()[0]: line[1:3] for line in shown}


@pytest.fixture
def start(tmp_path: Path) -> Callable[[Path, Path], CkptDiffApp]:
    def make(*pair: Path) -> CkptDiffApp:
        return CkptDiffApp(pair, engine=InlineEngine(), settings_file=tmp_path / "settings.json")

    return make


async def until_looked(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    await pilot.pause()
    while tensors(app).session.phase != "done" or tensors(app).session.is_busy:
        await pilot.pause(0.02)
    await pilot.pause()


# ── the demo, for real ───────────────────────────────────────────────────────────────────────


async def test_the_demo_has_one_finding_that_can_be_shown_copied_and_filtered_to(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = start(*make_demo(tmp_path / "demo"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_looked(app, pilot)
        assert finding_line(app) == (
            "✗ QKV-SWAP layer 2: K and V exchanged inside every query group   f findings"
        )
        await pilot.press("f")
        await pilot.pause()
        assert isinstance(app.screen, FindingsScreen)
        assert "Where      2 tensors, layer 2, TP ranks 0-1" in said(app)
        assert "the converter took q, k and v in another order" in said(app)
        assert "linear_qkv, rows 16 to 31" in said(app)
        await pilot.press("y")
        assert app.clipboard == app.screen.finding.fix
        assert "--undo 'QKV-SWAP:{" in app.clipboard
        await pilot.press("enter")
        await pilot.pause()
        assert tensors(app).session.tensors.order == [
            f"model.layers.2.self_attn.{name}_proj.weight" for name in "kv"
        ]
        assert "finding 1, QKV-SWAP" in str(rows(app).border_title)
        assert marked(app) == {
            "model.layers.2": "- ",
            "self_attn.k_proj.weight": "!1",
            "self_attn.v_proj.weight": "!1",
        }
        await pilot.press("escape")
        assert len(tensors(app).session.tensors.order) == 39


async def test_the_fix_is_a_conversion_whose_result_is_the_same(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    hf, mg = make_demo(tmp_path / "demo")
    app = start(hf, mg)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_looked(app, pilot)
        await pilot.press("f", "c")
        await pilot.pause()
        await until_planned(pilot)
        screen = app.screen
        assert isinstance(screen, ConvertScreen)
        assert static(app, "#faults") == "QKV-SWAP"
        assert screen.plan is not None
        assert any("QKV-SWAP" in note for note in screen.plan.conversion.notes)  # type: ignore[union-attr]
        out = screen.plan.out
        await pilot.press("enter", "y")
        while app.is_converting:
            await pilot.pause(0.02)
    mended = start(hf, out)
    async with mended.run_test(size=(80, 24)) as pilot:
        await until_looked(mended, pilot)
        assert tensors(mended).session.differences == 0
        assert finding_line(mended) == ""


async def test_a_clean_pair_has_none_and_says_so(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = start(*make_demo(tmp_path / "demo", fault="none"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_looked(app, pilot)
        assert tensors(app).session.diagnosis_state == "none"
        assert finding_line(app) == ""
        await pilot.press("f")
        assert toasts(app) == ["No findings: there is no difference to explain."]


async def test_a_report_of_the_screen_has_the_findings(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = start(*make_demo(tmp_path / "demo"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_looked(app, pilot)
        tensors(app).report.write(tmp_path / "report.json")
        await settle(app, pilot)
    document = json.loads((tmp_path / "report.json").read_text())
    assert [finding["class"] for finding in document["findings"]] == ["QKV-SWAP"]


async def test_names_that_a_wrapper_changed_are_a_finding_though_nothing_differs(
    start: Callable[..., CkptDiffApp], tiny_hf: Callable[..., Path], tmp_path: Path
) -> None:
    plain_folder = tiny_hf()
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    shutil.copy(plain_folder / "config.json", wrapped)
    tensors_of = {k: v for f in plain_folder.glob("*.safetensors") for k, v in load_file(f).items()}
    save_file({f"module.{k}": v for k, v in tensors_of.items()}, wrapped / "model.safetensors")
    app = start(plain_folder, wrapped)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_looked(app, pilot)
        session = tensors(app).session
        assert outcome(session)[1].startswith(
            "! No differences in 21 tensors, but a loader does not find B's names."
        )
        assert side_notes(session) == ["B: every name has `module.` in front."]
        assert "NAMES: every name of B has `module.` in front" in finding_line(app)
        await pilot.press("f")
        await pilot.pause()
        assert isinstance(app.screen, FindingsScreen)
        assert "DDP or DeepSpeed added it" in said(app)
        await pilot.press("c")
        await pilot.pause()
        assert isinstance(app.screen, ConvertScreen)


async def test_a_file_that_is_not_what_was_saved_is_a_finding_though_nothing_differs(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    source, saved = unpack(tmp_path)
    data = saved / "iter_0000001/__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[content.index(b"FB") + 4] ^= 1  # in padding, which no tensor is read from
    data.write_bytes(content)
    app = start(source, saved)
    async with app.run_test(size=(100, 24)) as pilot:
        await until_looked(app, pilot)
        why = "__0_0.distcp: its bytes are not those that were saved: copy it again"
        told = outcome(tensors(app).session)[1]
        assert told.startswith(f"! No differences in 33 tensors, but B's {why}.")
        assert f"DAMAGED: {why}" in finding_line(app)
        await pilot.press("f")
        await pilot.pause()
        assert isinstance(app.screen, FindingsScreen)
        assert "integrity.json has the SHA-256" in said(app)


# ── with findings made by hand ───────────────────────────────────────────────────────────────


async def test_looking_can_be_stopped_and_begun_again(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.looking, engine.findings = threading.Event(), [ROPE]
    async with app.run_test(size=(80, 24)) as pilot:
        while tensors(app).session.diagnosis_state != "looking":
            await pilot.pause(0.02)
        await pilot.pause()
        assert finding_line(app) == "Looking for the cause …   x stops."
        await pilot.press("f", "w")
        assert [words.partition(":")[0] for words in toasts(app)] == ["Findings", "Report"]
        await pilot.press("x")
        assert finding_line(app) == "Stopped looking for the cause. f looks again."
        assert tensors(app).session.phase == "done"
        engine.looking.set()
        await settle(app, pilot)
        assert tensors(app).session.diagnosis.findings == ()
        await pilot.press("f")
        await settle(app, pilot)
        assert finding_line(app).startswith("✗ ROPE-PERM layer 0: ")


async def test_what_breaks_is_said(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.no_diagnosis = CkptDiffError("/ckpt/x: cannot be read.")
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert finding_line(app) == "x /ckpt/x: cannot be read. f looks again."
        engine.no_diagnosis = ZeroDivisionError("oh")
        await pilot.press("f")
        await settle(app, pilot)
        assert finding_line(app).startswith("x ZeroDivisionError: oh. This is a bug")


async def test_differences_that_nothing_explains_are_said_to_be_so(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert finding_line(app) == "No fault that ckptdiff knows explains the differences."
        await pilot.press("f")
        assert toasts(app)[-1].startswith("No findings: no fault that ckptdiff knows")


async def test_faults_come_first_and_mark_their_rows(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.findings = [ROUNDED, ROPE, STALE, CONFIG]
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert finding_line(app).endswith("   and 3 more   f findings")
        await pilot.press("d")
        assert marked(app)["self_attn.q_proj.weight"] == "!+"
        assert marked(app)["mlp.down_proj.weight"] == "!2"
        assert marked(app)["lm_head.weight"] == "< "
        await pilot.press("f")
        await pilot.pause()
        options = app.screen.query_one("FindingList")
        shown = [str(option.prompt).split()[:3] for option in options._options]  # type: ignore[attr-defined]
        assert shown == [
            ["✗", "1", "ROPE-PERM"], ["✗", "2", "STALE"], ["✗", "3", "CONFIG"], ["i", "4", "DTYPE"],
        ]  # fmt: skip
        title = app.screen.query_one("#findings-title", Words).lines(78, 1)
        assert plain(title)[0].endswith("3 faults, 1 note")
        await pilot.press("j")
        assert "near the right content [b]but[/b] not the same" in said(app)
        assert "Take the files of one save" in said(app)
        await pilot.press("y")
        assert toasts(app)[-1] == "There is no fix to copy: it cannot be undone."
        await pilot.press("j", "enter")
        await pilot.pause()
        assert isinstance(app.screen, ConfigScreen)
        await pilot.press("q")
        await pilot.pause()
        assert "run B with --rotary-base 500000" in said(app)
        await pilot.press("c")
        assert "The fix above mends it" in toasts(app)[-1]
        assert "c Convert" not in text(app, "KeyLine")
        await pilot.press("y", "Y")
        assert app.clipboard.startswith("✗  CONFIG: RoPE base")
        await pilot.press("k", "k", "enter")
        await pilot.pause()
        assert tensors(app).session.tensors.order == [Q]


async def test_comparing_again_forgets_the_findings(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.findings = [ROPE]
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("f", "enter")
        await pilot.pause()
        engine.findings = []
        await pilot.press("r")
        await settle(app, pilot)
        session = tensors(app).session
        assert session.finding is None
        assert session.diagnosis.marks == {}
        assert len(session.tensors.order) == len(session.names)


async def test_the_detail_of_a_tensor_names_its_finding(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.findings = [ROPE]
    async with app.run_test(size=(105, 40)) as pilot:
        await settle(app, pilot)
        await pilot.pause(0.15)
        summary = app.screen.query_one("#pane-finding", Words)
        assert plain(summary.lines(44, 20)) == [
            "✗ Finding 1, ROPE-PERM",
            "rows of q are in Meta's rotary order",
            "1 tensor, layer 0, TP ranks 0-1",
            "ckptdiff convert /ckpt/run7 /ckpt/out --to",
            "megatron --undo 'ROPE-PERM:{}'",
            "c mends it   f all of it",
        ]
        await pilot.press("n")
        await pilot.pause(0.15)
        assert not summary.display


@pytest.mark.parametrize("width", [40, 76, 116])
def test_the_words_of_a_finding_fit_and_cannot_steer_the_terminal(width: int) -> None:
    evil = replace(ROPE, title="a\x1b[2J" * 20, evidence="e" * 400, fix="f " * 400)
    for finding in (ROPE, STALE, CONFIG, ROUNDED, evil):
        lines = plain(finding_page(finding, width, ascii_only=True))
        assert max(map(len, lines)) <= max(width, 62)
        assert all(line.isprintable() for line in lines)


async def test_ascii_draws_nothing_else(make_app: Make, engine: FakeEngine) -> None:
    engine.findings = [ROPE, STALE]
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert finding_line(app).isascii()
        await pilot.press("f")
        await pilot.pause()
        strips = app.screen._compositor.render_strips()
        assert all(strip.text.isascii() for strip in strips)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["narrow", "wide"])
def test_the_screen(
    snap_compare: Any, make_app: Make, engine: FakeEngine, size: tuple[int, int]
) -> None:
    engine.findings = [ROPE, STALE, CONFIG, ROUNDED]

    async def run(pilot: Pilot[None]) -> None:
        await settle(pilot.app, pilot)
        await pilot.press("f")
        await pilot.pause(0.1)

    assert snap_compare(make_app(A, B), terminal_size=size, run_before=run)


async def test_the_fix_can_be_selected_with_the_mouse(
    start: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = start(*make_demo(tmp_path / "demo"))
    async with app.run_test(size=(160, 40)) as pilot:
        await until_looked(app, pilot)
        await pilot.press("f")
        await pilot.pause()
        page = app.screen.query_one("#said")
        shown = str(page.render()).splitlines()
        at = next(number for number, line in enumerate(shown) if line.startswith("Fix"))
        left, right = shown[at].index("ckptdiff convert"), len(shown[at]) - 1
        await pilot.mouse_down(page, offset=(left, at))
        await pilot.hover(page, offset=(right, at))
        await pilot.mouse_up(page, offset=(right, at))
        await pilot.press("ctrl+c")
        assert app.clipboard == shown[at][left:]
        assert isinstance(app.screen, FindingsScreen)
