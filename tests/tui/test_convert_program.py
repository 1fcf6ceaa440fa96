"""The program that is to load what is converted: chosen, doubted and started."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from ckptdiff.conversion.plan import Target
from ckptdiff.demo import make_demo
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.model.conversion import ConversionDraft
from ckptdiff.tui.screens.ask import AskScreen
from ckptdiff.tui.screens.conversion import ConversionScreen
from ckptdiff.tui.screens.convert import ConvertScreen
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.oracle_hf import make_hf
from tests.support.tui.harness import choose, open_form, static, text, toasts, until_planned

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path


SIZES = [(80, 24), (120, 40), (200, 50)]
WORDS = "rope_type is llama3 with factor 32: it scales with factor 8, whatever the args say"


class InlineEngine(LocalEngine):
    """Works in this process."""

    def executor(self) -> Executor:
        return InlineExecutor()


@pytest.fixture
def beyond(tmp_path: Path) -> Path:
    """A model whose rotary scaling no release of Megatron-LM computes."""
    make_hf(tmp_path / "hf", single=True)
    file = tmp_path / "hf/config.json"
    scaling = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_scaling": scaling}))
    return tmp_path / "hf"


def made(tmp_path: Path, *paths: Path) -> CkptDiffApp:
    return CkptDiffApp(paths, engine=InlineEngine(), settings_file=tmp_path / "settings.json")


async def test_a_program_is_chosen_for_megatron_alone(beyond: Path, tmp_path: Path) -> None:
    app = made(tmp_path, beyond)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_form(app, pilot)
        for keys, program, option in (
            ("", "Megatron-LM 0.16", ""),
            ("l", "Megatron-LM 0.19", " --target-version 0.19"),
            ("l", "Megatron-Bridge", " --target-version bridge"),
            ("l", "Megatron-LM 0.14", " --target-version 0.14"),
        ):
            await choose(pilot, "version", *keys)
            lines = static(app, "#plan").splitlines()
            assert f"! {program} cannot compute this model: {WORDS}." in lines
            assert static(app, "#command").endswith(f"--to megatron{option}")
        await choose(pilot, "to", "h")
        assert not screen.query_one("#version-field").display
        assert "cannot" not in static(app, "#plan")
        assert static(app, "#command").endswith("--to hf")
        await choose(pilot, "to", "l")
        assert static(app, "#command").endswith(" --target-version 0.14")


@pytest.mark.parametrize("size", SIZES)
async def test_what_it_cannot_compute_is_said_before_and_after_and_how_it_starts(
    beyond: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    app = made(tmp_path, beyond)
    sentence = f"Megatron-LM 0.16 cannot compute this model: {WORDS}"
    async with app.run_test(size=size) as pilot:
        await open_form(app, pilot)
        await choose(pilot, "tp", "2")
        await pilot.press("enter")
        assert isinstance(app.screen, AskScreen)
        assert sentence in static(app, "#dialog Static")
        await pilot.press("y")
        while app.is_converting:
            await pilot.pause(0.02)
        await pilot.pause()
        assert isinstance(app.screen, ConversionScreen)
        said = static(app, "#state").splitlines()
        assert f"! {sentence}" in said
        assert "for one step on made-up data, though it computes another model" in said[-2]
        assert toasts(app) == []
        headline = "Converted and verified, but Megatron-LM 0.16 cannot compute it"
        assert str(app.screen.query_one("#conversion").border_subtitle) == headline
        assert "S Copy start line" in text(app, "KeyLine")
        await pilot.press("S")
        assert app.clipboard == said[-1]
        words = shlex.split(app.clipboard)
        assert words[words.index("--load") + 1] == f"{beyond}-tp2"
        await pilot.press("y")
        assert app.clipboard.splitlines() == said


async def test_without_a_line_to_start_there_is_no_key_to_copy_it(tmp_path: Path) -> None:
    _, b = make_demo(tmp_path / "demo")
    app = made(tmp_path, b)
    async with app.run_test(size=(200, 50)) as pilot:
        await open_form(app, pilot)
        await pilot.press("enter", "y")
        while app.is_converting:
            await pilot.pause(0.02)
        await pilot.pause()
        assert isinstance(app.screen, ConversionScreen)
        assert "torchrun" not in static(app, "#state")
        assert "Copy start line" not in text(app, "KeyLine")


async def test_what_has_no_field_is_kept_of_a_draft(tmp_path: Path) -> None:
    _, b = make_demo(tmp_path / "demo")
    app = made(tmp_path, b)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_form(app, pilot)
        draft = ConversionDraft(b, Target("hf", family="mistral", accept=True))
        app.switch_screen(ConvertScreen(screen.session, draft))
        await pilot.pause()
        await until_planned(pilot)
        assert static(app, "#command").endswith("--to hf --family mistral --accept")
        await choose(pilot, "to", "l")
        assert static(app, "#command").endswith("--to megatron --accept")
