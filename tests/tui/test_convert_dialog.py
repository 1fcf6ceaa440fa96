"""Converting on the screen: the form, the plan, the run in the background, what comes out."""

from __future__ import annotations

import json
import shlex
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file
from textual.widgets import Input, Static

from ckptdiff.checkpoint import Parallelism
from ckptdiff.cli.convert import _target
from ckptdiff.cli.main import _parse
from ckptdiff.conversion.remap import Remap
from ckptdiff.demo import make_demo
from ckptdiff.errors import UnreadableFile
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.commands import Commands
from ckptdiff.tui.runners.conversion import REPAINT_SECONDS
from ckptdiff.tui.screens.ask import AskScreen
from ckptdiff.tui.screens.conversion import ConversionScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.widgets.choice import Choice
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.oracle_hf import make_hf
from tests.support.tui.harness import (
    choose,
    open_form,
    settle,
    static,
    tensors,
    text,
    toasts,
    until_planned,
)
from tests.support.tui.held import may_go_on

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Executor
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.checkpoint import Checkpoint
    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.run import Lost, Written
    from ckptdiff.results import TensorDiff

    Run = Callable[..., CkptDiffApp]


pytestmark = pytest.mark.mostly_slow(one_in=20)


class HeldEngine(LocalEngine):
    """Works in this process, and waits where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.planning = threading.Event()
        self.writing = threading.Event()
        self.planning.set()
        self.writing.set()
        self.plans: list[Target] = []
        self.breaks: Exception | None = None

    def plan(
        self, source: Checkpoint, out: Path, target: Target, like: Checkpoint | None
    ) -> Conversion:
        self.plans.append(target)
        may_go_on(self.planning)
        return super().plan(source, out, target, like)

    def convert(
        self, conversion: Conversion, executor: Executor
    ) -> Generator[Written | Lost | TensorDiff, None, None]:
        real = super().convert(conversion, executor)
        try:
            yield next(real)
            if not may_go_on(self.writing):
                return
            if self.breaks is not None:
                raise self.breaks
            yield from real
        finally:
            real.close()

    def executor(self) -> Executor:
        return InlineExecutor()


@pytest.fixture
def held() -> Generator[HeldEngine, None, None]:
    engine = HeldEngine()
    yield engine
    engine.planning.set()
    engine.writing.set()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_demo(tmp_path / "demo")


@pytest.fixture
def start(held: HeldEngine, tmp_path: Path) -> Run:
    def make(*paths: Path) -> CkptDiffApp:
        return CkptDiffApp(paths, engine=held, settings_file=tmp_path / "settings.json")

    return make


async def until_ended(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    while app.is_converting:
        await pilot.pause(0.02)
    await pilot.pause()


async def until_writing(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    while app.conversion is None or not app.conversion.file:
        await pilot.pause(0.02)
    await pilot.pause(REPAINT_SECONDS + 0.05)


def shown(app: CkptDiffApp) -> set[str]:
    """Return the names of the fields that are there."""
    fields = app.screen.query(".field")
    return {str(f.id).removesuffix("-field") for f in fields if f.display}


def labels(app: CkptDiffApp) -> dict[str, str]:
    """Return the keys of the key line and what they do."""
    items = text(app, "KeyLine").split("  ")
    return {what: key for key, what in (item.split(" ", 1) for item in items)}


# ── the form ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_b_of_the_demo_is_planned_to_hugging_face_like_a(
    start: Run, pair: tuple[Path, Path], size: tuple[int, int]
) -> None:
    a, b = pair
    app = start(*pair)
    async with app.run_test(size=size) as pilot:
        screen = await open_form(app, pilot)
        assert screen.plan is not None
        assert screen.plan.draft.source == b
        plan = static(app, "#plan").splitlines()
        assert "- padded vocabulary 512 -> 500: 12 rows dropped" in plan
        assert f"- config.json as in {a}" in plan
        assert "- 39 tensors in 1 file" in plan
        assert static(app, "#space").startswith("477 kB needed, ")
        words = ["ckptdiff", "convert", str(b), f"{b}-hf", "--to", "hf", "--like", str(a)]
        (spec,) = (remap.text() for remap in screen.session.diagnosis.undo)
        assert static(app, "#command") == shlex.join([*words, "--undo", spec])
        assert static(app, "#faults") == "QKV-SWAP"
        assert not {"sizes", "names", "unmapped"} & shown(app)
        assert "like" in shown(app)
        assert labels(app) == {
            "Choose": "space",
            "Start": "enter",
            "Next": "j",
            "Copy command": "Y",
            "Commands": ":",
            "Help": "?",
            "Close": "q",
        }


async def test_the_other_side_gets_the_ranks_of_its_partner(
    start: Run, pair: tuple[Path, Path]
) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "side", "h")
        assert {
            "- padded vocabulary 500 -> 512: 12 rows, copies of the last",
            "- 39 tensors in 2 files; layers by stage: 4",
        } <= set(static(app, "#plan").splitlines())
        assert app.screen.query_one("#out", Input).value == f"{pair[0]}-tp2"
        assert static(app, "#command").endswith("--to megatron --tp 2")
        assert {"sizes", "names"} <= shown(app)
        assert "like" not in shown(app)
        assert not app.screen.query_one("#ep").display  # a model without experts


async def test_one_checkpoint_alone_asks_for_no_side(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(pair[1])
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        assert not screen.query_one("#side").display
        assert "like" not in shown(app)
        assert screen.plan is not None
        assert screen.plan.draft.like is None


async def test_an_impossible_tp_says_why_and_cannot_be_started(
    start: Run, pair: tuple[Path, Path]
) -> None:
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "tp", "3")
        assert static(app, "#plan").startswith("x ")
        assert "TP 3: 8 attention heads are not divisible by it" in static(app, "#plan")
        assert "space" not in shown(app)
        await pilot.press("enter")
        assert isinstance(app.screen, ConvertScreen)
        assert app.conversion is None
        assert toasts(app)[-1] == "Start: this cannot be converted so."
        await choose(pilot, "tp", "backspace", "4")
        assert "39 tensors in 4 files" in static(app, "#plan")


async def test_a_folder_that_was_typed_stays_and_a_proposed_one_follows(
    start: Run, pair: tuple[Path, Path]
) -> None:
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        out = screen.query_one("#out", Input)
        await choose(pilot, "tp", "4")
        assert out.value == f"{pair[0]}-tp4"
        await choose(pilot, "out", "end", *"-x")
        await choose(pilot, "tp", "backspace", "2")
        assert out.value == f"{pair[0]}-tp4-x"
        assert f"{pair[0]}-tp4-x" in static(app, "#command")


async def test_fields_become_the_target(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        await choose(pilot, "pp", "2")
        await choose(pilot, "names", "l", "l")
        await choose(pilot, "dtype", "right", "right", "right", "left", "space")
        assert screen.plan is not None
        target = screen.plan.draft.target
        assert target.parallelism == Parallelism(1, 2, 1, 1, 1)
        assert (target.names, target.dtype) == ("te", "fp32")
        await choose(pilot, "to", "h")
        assert screen.plan.draft.target.parallelism == Parallelism()


async def test_a_bug_in_planning_is_called_one(
    start: Run, pair: tuple[Path, Path], held: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Conversion:
        raise KeyError("x")

    monkeypatch.setattr(held, "plan", broken)
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        assert static(app, "#plan") == "x KeyError: 'x'. This is a bug in ckptdiff."


async def test_the_screen_answers_while_a_plan_is_made_and_only_the_last_one_counts(
    start: Run, pair: tuple[Path, Path], held: HeldEngine
) -> None:
    held.planning.clear()
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        await settle_list(app, pilot)
        await pilot.press("c")
        while not held.plans:
            await pilot.pause(0.01)
        app.screen.query_one("#tp").focus()
        await pilot.press("2", "backspace", "4")
        await pilot.press("enter")
        assert toasts(app)[-1] == "Start: the plan is not ready yet."
        assert not held.planning.is_set()  # all this while the plan has been waited for
        await pilot.pause(0.4)
        held.planning.set()
        await until_planned(pilot)
        assert "39 tensors in 4 files" in static(app, "#plan")
        assert [target.parallelism.tp for target in held.plans] == [1, 4]


async def settle_list(app: CkptDiffApp, pilot: Pilot[None]) -> None:
    await settle(app, pilot)
    assert isinstance(app.screen, TensorsScreen)


async def test_the_command_is_copied(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await pilot.press("Y")
        assert app.clipboard == static(app, "#command")
        app.screen.query_one("#out").focus()
        await pilot.press("ctrl+y")
        assert "ctrl+y Copy command" in text(app, "KeyLine")


async def test_every_field_can_be_reached_and_seen_at_60x16(
    start: Run, pair: tuple[Path, Path]
) -> None:
    app = start(pair[0])
    async with app.run_test(size=(60, 16)) as pilot:
        screen = await open_form(app, pilot)
        seen = set()
        for _ in range(10):
            assert app.focused is not None
            seen.add(app.focused.id)
            region = app.focused.region
            box = screen.query_one("#convert").content_region
            assert box.contains_region(region), app.focused
            await pilot.press("down")
            await pilot.wait_for_scheduled_animations()
        assert seen == {"to", "out", "tp", "pp", "vpp", "names", "version", "dtype", "replace"}
        await pilot.press("pagedown", "pagedown")
        await pilot.pause()
        command = screen.query_one("#command").region
        assert screen.query_one("#convert").region.contains_region(command)


@pytest.mark.parametrize("size", [(40, 10), (60, 16)], ids="{0[0]}x{0[1]}".format)
async def test_the_key_that_starts_is_named_in_a_small_terminal(
    start: Run, pair: tuple[Path, Path], size: tuple[int, int]
) -> None:
    app = start(pair[0])
    async with app.run_test(size=size) as pilot:
        await open_form(app, pilot)
        for _ in range(3):  # in a choice, and in a field that is typed into
            assert labels(app)["Start"] == "enter"
            await pilot.press("down")
            await pilot.pause()


async def test_from_one_finding_all_can_be_taken_out(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        (swap,), targets = session.diagnosis.findings, session.diagnosis.targets
        text = 'QKV-SWAP:{"written":"order-qvk","tensors":{"decoder.layers.#.x":"1"}}'
        other = replace(swap, undo=Remap.parse(text))
        session.diagnosis = replace(session.diagnosis, findings=(swap, other), targets=targets)
        await pilot.press("f", "c")
        await until_planned(pilot)
        field = app.screen.query_one("#undo", Choice)
        assert (field.value, static(app, "#faults")) == ("yes", "QKV-SWAP")
        assert static(app, "#command").count("--undo") == 1
        await choose(pilot, "undo", "l")
        assert (field.value, static(app, "#faults")) == ("all", "QKV-SWAP, QKV-SWAP")
        assert static(app, "#command").count("--undo") == 2


async def test_a_fault_that_is_kept_is_said_before_anything_is_written(
    start: Run, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "undo", "l")
        assert "--undo" not in static(app, "#command")
        await pilot.press("enter")
        assert isinstance(app.screen, AskScreen)
        assert labels(app) == {"Yes": "y", "No": "esc"}  # and none of the form
        words = asked(app)
        assert "B has finding 1, QKV-SWAP: " in words
        assert "This conversion keeps it." in words
        await pilot.press("enter")  # is no answer
        assert isinstance(app.screen, AskScreen)
        subtitle = str(app.screen.query_one("#dialog").border_subtitle)
        assert subtitle == "Enter does neither:   y writes it   esc goes back"
        await pilot.press("escape")
        assert isinstance(app.screen, ConvertScreen)
        assert "! B has finding 1, QKV-SWAP: " in static(app, "#plan")
        assert {p.name for p in (tmp_path / "demo").iterdir()} == {"hf", "megatron-tp2"}
        await choose(pilot, "undo", "l")
        await pilot.press("enter")
        assert "keeps" not in asked(app)
        assert "Finding 1 QKV-SWAP is taken out." in asked(app)


@pytest.mark.parametrize(("to", "kept"), [("hf", True), ("megatron", False)])
async def test_a_head_that_the_conversion_unties_is_no_fault_that_it_keeps(
    start: Run, tmp_path: Path, to: str, kept: bool
) -> None:
    for name in ("a", "b"):
        make_hf(tmp_path / name, single=True)
    config = tmp_path / "b/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    app = start(tmp_path / "a", tmp_path / "b")
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        while f"--to {to} " not in f"{static(app, '#command')} ":
            await choose(pilot, "to", "l")
        await pilot.press("enter")
        assert ("TIED" in asked(app)) is kept


async def test_an_incomplete_source_is_refused_until_that_is_chosen(
    start: Run, tmp_path: Path
) -> None:
    weights = make_hf(tmp_path / "hf", single=True)
    kept = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
    save_file(kept, tmp_path / "hf/model.safetensors")
    app = start(tmp_path / "hf")
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert "model.norm.weight" in text(app, "ShortfallLine")
        screen = await open_form(app, pilot)
        assert "incomplete" in shown(app)
        assert "is not in the files: model.norm.weight" in static(app, "#plan")
        assert "at Gaps" in static(app, "#plan")
        await choose(pilot, "incomplete", "l")
        assert static(app, "#command").endswith("--allow-incomplete")
        assert screen.plan is not None
        assert screen.plan.conversion is not None


def asked(app: CkptDiffApp) -> str:
    """Return the words of the question that is open."""
    assert isinstance(app.screen, AskScreen)
    return str(app.screen.query_one("#dialog Static", Static).content)


# ── the run ──────────────────────────────────────────────────────────────────────────────────


async def test_the_demo_is_converted_and_the_result_is_the_same(
    start: Run, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "side", "h")
        command = shlex.split(static(app, "#command"))
        await pilot.press("enter", "y")
        await until_ended(app, pilot)
        assert isinstance(app.screen, ConversionScreen)
        said = static(app, "#state")
        assert said.startswith("= Wrote ")
        assert "39 of 39 tensors are the same, every byte compared" in said
        assert labels(app)["Compare with source"] == "enter"

        run = app.conversion
        assert run is not None
        options = _parse(command[1:])
        assert _target(options) == run.conversion.target
        assert (options.out, options.source) == (run.conversion.out, run.plan.draft.source)
        assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
            "hf", "hf-tp2", "megatron-tp2",
        ]  # fmt: skip

        await pilot.press("enter")
        await settle(app, pilot)
        top = app.screen
        assert isinstance(top, TensorsScreen)
        assert top.session.paths == (pair[0], run.conversion.out)
        assert top.session.summary is not None
        assert top.session.summary.verdict == "same"


async def test_what_was_mended_is_compared_with_a(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("c")  # from the fault under the cursor
        await until_planned(pilot)
        assert "--undo" in static(app, "#command")
        await pilot.press("enter", "y")
        await until_ended(app, pilot)
        assert labels(app)["Compare with A"] == "enter"
        assert "Compare with source" not in labels(app)
        run = app.conversion
        assert run is not None
        await pilot.press("enter")
        await settle(app, pilot)
        top = app.screen
        assert isinstance(top, TensorsScreen)
        assert top.session.paths == (pair[0], run.conversion.out)
        assert top.session.summary is not None
        assert top.session.summary.verdict == "same"


async def test_a_kept_fault_is_compared_with_the_source(
    start: Run, pair: tuple[Path, Path]
) -> None:
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "undo", "l")
        await pilot.press("enter", "y")
        await until_ended(app, pilot)
        assert labels(app)["Compare with source"] == "enter"
        await pilot.press("enter")
        await settle(app, pilot)
        top = app.screen
        assert isinstance(top, TensorsScreen)
        assert top.session.paths[0] == pair[1]


@pytest.mark.slow
async def test_hidden_it_goes_on_and_its_line_and_a_toast_tell_of_it(
    start: Run, pair: tuple[Path, Path], held: HeldEngine
) -> None:
    held.writing.clear()
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await pilot.press("enter", "y")
        await until_writing(app, pilot)
        assert static(app, "#state") == "writing model.safetensors"
        assert labels(app)["Run in background"] == "q"
        await pilot.press("escape", "j", "j")
        assert app.screen is tensors(app)
        line = text(app, "ConversionLine")
        assert line.startswith("Converting [#")
        assert line.endswith("c shows")
        await pilot.press("c")
        assert isinstance(app.screen, ConversionScreen)
        await pilot.press("q")
        held.writing.set()
        await until_ended(app, pilot)
        assert toasts(app)[-1].startswith("= Converted and verified: ")
        assert text(app, "ConversionLine").startswith("= Converted and verified: ")
        await pilot.press("c")
        await pilot.pause()
        assert static(app, "#state").startswith("= Wrote ")
        await pilot.press("escape")
        await pilot.pause()
        assert not app.screen.query_one("ConversionLine").display
        await pilot.press("c")
        assert isinstance(app.screen, ConvertScreen)


@pytest.mark.parametrize("key", ["x", "ctrl+c"])
async def test_stopping_asks_and_leaves_nothing(
    start: Run, pair: tuple[Path, Path], held: HeldEngine, key: str, tmp_path: Path
) -> None:
    held.writing.clear()
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await pilot.press("enter", "y")
        await until_writing(app, pilot)
        assert (tmp_path / "demo" / "megatron-tp2-hf.partial").exists()
        await pilot.press(key)
        assert isinstance(app.screen, AskScreen)
        await pilot.press("escape")
        assert app.is_converting
        await pilot.press(key, "y")
        assert static(app, "#state") == "Stopping, and removing what was written ..."
        held.writing.set()
        await until_ended(app, pilot)
        assert static(app, "#state") == "Stopped. What was written is removed."
        assert {p.name for p in (tmp_path / "demo").iterdir()} == {"hf", "megatron-tp2"}
        await pilot.press("c")
        await until_planned(pilot)
        assert isinstance(app.screen, ConvertScreen)
        assert "--to hf" in static(app, "#command")


@pytest.mark.parametrize("hidden", [False, True])
async def test_quitting_asks_stops_and_leaves_nothing(
    start: Run, pair: tuple[Path, Path], held: HeldEngine, tmp_path: Path, hidden: bool
) -> None:
    held.writing.clear()
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await pilot.press("enter", "y")
        await until_writing(app, pilot)
        if hidden:
            await pilot.press("escape")
        await pilot.press("Q")
        assert isinstance(app.screen, AskScreen)
        await pilot.press("n")
        assert app.is_converting
        await pilot.press("Q", "y")
        held.writing.set()
        while app._exit is False:
            await pilot.pause(0.02)
    assert app.return_code == 0
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"hf", "megatron-tp2"}


async def test_an_error_is_shown_in_full_and_can_be_copied(
    start: Run, pair: tuple[Path, Path], held: HeldEngine
) -> None:
    held.breaks = UnreadableFile("/out/model.safetensors: cannot be written (disk [b]full[/b])")
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        await pilot.press("enter", "y")
        await until_ended(app, pilot)
        assert static(app, "#state") == f"x {held.breaks}"
        await pilot.press("y")
        assert app.clipboard == f"x {held.breaks}"
        assert "Compare with source" not in labels(app)


@pytest.mark.slow
async def test_what_is_there_is_replaced_only_after_a_question(
    start: Run, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "there"
    out.mkdir()
    (out / "precious").touch()
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        await open_form(app, pilot)
        app.screen.query_one("#out", Input).value = str(out)
        await pilot.pause()
        await until_planned(pilot)
        assert "is not empty" in static(app, "#plan")
        await choose(pilot, "replace", "l")
        assert "holds goes" in static(app, "#space")
        await pilot.press("enter")
        assert isinstance(app.screen, AskScreen)
        await pilot.press("enter", "escape")
        assert isinstance(app.screen, ConvertScreen)
        assert (out / "precious").exists()
        await pilot.press("enter", "y")
        await until_ended(app, pilot)
        assert not (out / "precious").exists()
        assert (out / "latest_checkpointed_iteration.txt").exists()


async def test_the_palette_opens_the_dialog_and_stops_what_runs(
    start: Run, pair: tuple[Path, Path], held: HeldEngine
) -> None:
    held.writing.clear()
    app = start(*pair)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)

        async def offered(word: str) -> dict[str, Callable[[], object]]:
            hits = [hit async for hit in Commands(app.screen).search(word)]
            return {str(hit.text): hit.command for hit in hits}

        found = await offered("convert")
        assert "convert: stop and remove" not in found
        found["convert: to another format or parallelism"]()
        await pilot.pause()
        await until_planned(pilot)
        await pilot.press("enter", "y", "escape")
        (await offered("convert"))["convert: stop and remove"]()
        await pilot.pause()
        assert isinstance(app.screen, AskScreen)
        await pilot.press("y")
        held.writing.set()
        await until_ended(app, pilot)


async def test_a_choice_can_be_clicked(start: Run, pair: tuple[Path, Path]) -> None:
    app = start(pair[0])
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        await pilot.click("#dtype", offset=(14, 0))
        await until_planned(pilot)
        assert screen.query_one("#dtype", Choice).value == "bf16"
        assert "--dtype bf16" in static(app, "#command")
