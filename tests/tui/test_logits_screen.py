"""A prompt that both sides are given: typed, computed in the background, shown, walked through."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import BadArgument, WorkerDied
from ckptdiff.results import LogitDiff
from ckptdiff.tui.model.prompt_run import PromptHistory
from ckptdiff.tui.screens.config import ConfigScreen
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.screens.help import help_lines
from ckptdiff.tui.screens.logits import LogitsScreen, Shares
from ckptdiff.tui.screens.tensors import TensorsScreen
from ckptdiff.tui.widgets.next_tokens import NextTokens
from ckptdiff.tui.widgets.prompt_input import PromptInput
from ckptdiff.tui.widgets.tap_map import TapMap
from tests.support.tui.fakes import A, B, FakeEngine, layer
from tests.support.tui.harness import lines, settle, tensors, text, toasts
from tests.support.tui.logits_made import (
    FIRST,
    PROMPT,
    SHARES,
    clean,
    config_only,
    deep,
    experts,
    faulty,
    infinite,
    steps,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]

pytestmark = pytest.mark.mostly_slow(one_in=16)
NARROW, WIDE = (80, 24), (120, 40)
K = layer(1, "self_attn.k_proj.weight")


@pytest.fixture
def engine(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr("ckptdiff.tui.runners.comparison.REPAINT_SECONDS", 0.01)
    return engine


async def test_without_torch_it_says_what_to_install(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    app = make_app(A, B)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await settle(app, pilot)
        await pilot.press("p")
        await settle(app, pilot)
        assert isinstance(app.screen, TensorsScreen)
        assert toasts(app) == [
            "Comparing logits needs torch, which is not installed: pip install 'ckptdiff[logits]'"
        ]


async def ask(app: CkptDiffApp, pilot: Pilot[None], words: str = "The capital") -> None:
    """Open the screen and give a prompt, once everything else is done."""
    await settle(app, pilot)
    await pilot.press("p")
    await pilot.pause()
    await type_in(pilot, words)
    await pilot.press("enter")
    await settle(app, pilot)


async def type_in(pilot: Pilot[None], words: str) -> None:
    await pilot.press(*({" ": "space", ",": "comma"}.get(letter, letter) for letter in words))


def taps(app: CkptDiffApp) -> TapMap:
    return app.screen.query_one(TapMap)


def shown(app: CkptDiffApp) -> list[str]:
    """Return the lines of the taps' table."""
    return lines(taps(app))


def outcome(app: CkptDiffApp) -> str:
    return text(app, "#outcome")


def typed(app: CkptDiffApp) -> str:
    return app.screen.query_one(PromptInput).value


async def test_without_a_prompt_the_screen_says_what_to_do(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("4")
        await pilot.pause()
        assert isinstance(app.screen, LogitsScreen)
        assert text(app, "#nothing") == "No prompt yet. Type one and press Enter."
        assert "as 1,2,3" in app.screen.query_one(PromptInput).placeholder
        assert isinstance(app.focused, PromptInput)
        await pilot.press("enter")
        assert app.screen.prompt_run is None
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is tensors(app)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
async def test_a_fault_is_marked_where_it_is_and_told_in_words(
    app: CkptDiffApp, engine: FakeEngine, size: tuple[int, int]
) -> None:
    engine.steps = steps(faulty())
    async with app.run_test(size=size) as pilot:
        await ask(app, pilot)
        assert engine.prompts == [("The capital", False)]
        table = shown(app)
        assert table[0].split() == [
            "layer", "norm1", "q", "k", "v", "q_rope", "k_rope", "ctx", "attn", "norm2", "act",
            "mlp",
        ]  # fmt: skip
        assert table[1].split() == ["in", "embed", "="]
        assert table[3].split()[:6] == ["1", "-7.4", "-7.2", ">!0.3", "-7.0", "-6.9"]
        assert table[3].split()[6:8] == ["!0.3", "!-0.4"]
        assert table[4].split()[-1] == "~-3.0"  # of which a cast explains all
        assert table[-2].startswith("First step that differs: k of layer 1  relative diff")
        assert table[-1] == "reads # self_attn.k_proj.weight"  # that shapes differ is known
        assert "! above 6.8e-06, ~ only cast" in str(taps(app).border_title)
        assert outcome(app).startswith(f"! {FIRST} k of layer 1")
        await pilot.press("a")
        assert toasts(app) == [
            "Causes: they are known only where arithmetic alone makes the difference."
        ]
        assert len(engine.prompts) == 1
        assert "top-1 same 2 of 6, 4 flips beyond the margin" in outcome(app)
        assert "Note: the ids begin with BOS" in outcome(app)
        assert all(len(each) <= size[0] - 2 for each in outcome(app).splitlines())


async def test_a_clean_pair_is_only_arithmetic(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.steps = steps(clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert outcome(app).startswith("= Only arithmetic:")
        assert "R 0.93" in outcome(app)
        assert "logits in bf16" in outcome(app)
        assert "none above 6.8e-06" in str(taps(app).border_title)
        assert not any("!" in each for each in shown(app))
        await pilot.press("n")
        assert toasts(app)[-1] == "No step is above the threshold."


async def test_enter_on_a_tap_opens_the_tensor_that_it_depends_on(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(faulty())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)
        assert app.screen.tensor == K
        await pilot.press("q")
        await pilot.pause()
        assert isinstance(app.screen, LogitsScreen)


async def test_a_tap_that_reads_no_tensor_points_to_the_config(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(config_only())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert shown(app)[-1] == "It reads no tensor, only the config: key 2 shows that."
        await pilot.press("enter")
        await pilot.pause()
        assert toasts(app)[-1].startswith("q_rope of layer 0 reads no tensor")
        await pilot.press("2")
        await pilot.pause()
        assert isinstance(app.screen, ConfigScreen)


@pytest.mark.slow
async def test_of_several_tensors_one_that_differs_is_told_first_and_opened(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    found = faulty()
    equal, differs = layer(0, "self_attn.k_proj.weight"), layer(0, "self_attn.q_proj.weight")
    tap = next(t for t in found.taps if (t.layer, t.name) == (0, "q"))
    object.__setattr__(tap, "reads", (equal, differs))
    engine.steps = steps(found)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("k", "h")
        assert taps(app).tap is tap
        assert shown(app)[-1] == "reads ! self_attn.q_proj.weight  = self_attn.k_proj.weight"
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)
        assert app.screen.tensor == differs


async def test_n_goes_from_bad_tap_to_bad_tap_and_round(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(faulty())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        seen = []
        for key in ("n", "n", "n", "n", "N"):
            await pilot.press(key)
            tap = taps(app).tap
            assert tap is not None
            seen.append((tap.layer, tap.name))
        assert seen == [(1, "k_rope"), (1, "ctx"), (2, "mlp_out"), (1, "k"), (2, "mlp_out")]


async def test_126_layers_scroll_with_their_names_in_sight(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(deep())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        tap = taps(app).tap
        assert tap is not None
        assert (tap.layer, tap.name) == (100, "mlp_out")
        assert any(each.split()[0] == "100" and ">!0.1" in each for each in shown(app))
        await pilot.press("g")
        await pilot.pause()
        assert shown(app)[1].split() == ["in", "embed", "="]
        assert "of 128" in str(taps(app).border_subtitle)
        await pilot.press("ctrl+d")
        assert taps(app).row > 3
        await pilot.press("G")
        assert any(each.split()[:2] == ["out", "final_norm"] for each in shown(app))
        assert shown(app)[0].split()[0] == "layer"


async def test_columns_that_do_not_fit_scroll(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.steps = steps(experts())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert shown(app)[0].endswith(">")
        assert "shared_out" not in shown(app)[0]
        await pilot.press("j", *["l"] * 13)
        await pilot.pause()
        head = shown(app)[0]
        assert head.startswith("layer<")
        assert "shared" in head
        assert "norm1" not in head
        tap = taps(app).tap
        assert tap is not None
        assert tap.name == "shared_out"
        assert all(len(each) <= 76 for each in shown(app))
        assert "of 15" in str(taps(app).border_subtitle)
        await pilot.resize_terminal(*WIDE)
        await pilot.pause()
        await pilot.press(*["h"] * 13)
        assert "norm1" in shown(app)[0]


async def test_values_that_are_not_finite_are_shown_as_such(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(infinite())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert any(">!inf" in each for each in shown(app))
        assert "max|d| nan" in outcome(app)
        assert "id 0" in text(app, "NextTokens")
        assert "nan" in text(app, "NextTokens")


async def test_t_shows_the_first_token_after_each_position_and_arrows_change_the_position(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.steps = steps(faulty())
    monkeypatch.setattr(engine, "read_prompt", lambda *_: PROMPT)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        following = app.screen.query_one(NextTokens)
        assert str(following.border_title) == "Next token after ' is'"
        first = lines(following)[1].split()
        assert first == ["1", "'", "Paris'", "0.800", "#9", "!", "'", "the'", "0.700", "#3"]
        await pilot.press("t")
        await pilot.pause()
        assert following.has_focus
        assert lines(following)[0].split()[0] == "at"
        assert lines(following)[-1].split()[:3] == ["5", "'", "is'"]
        await pilot.press("up", "up", "t")
        await pilot.pause()
        assert str(following.border_title) == "Next token after ' of'"
        await pilot.press("right")
        await pilot.pause()
        assert str(following.border_title) == "Next token after ' France'"
        assert "position 4 of 0-5" in str(following.border_subtitle)
        await pilot.press("home", "left")
        assert following.at == 0


@pytest.mark.slow
async def test_earlier_prompts_come_back_with_up_and_are_not_saved(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot, "one")
        for words in ("two", "one"):
            await pilot.press("p", "ctrl+u")
            await type_in(pilot, words)
            await pilot.press("enter")
            await settle(app, pilot)
        await pilot.press("p", "ctrl+u", "x", "up")
        assert typed(app) == "one"
        await pilot.press("up", "up")
        assert typed(app) == "two"
        await pilot.press("down", "down")
        assert typed(app) == "x"
        await pilot.press("escape", "q")
        await pilot.pause()
        await pilot.press("p", "p", "up")  # the history outlives the screen
        assert typed(app) == "one"
        app.change_settings(differences_only=True)
        await settle(app, pilot)
        file = app.settings_runner.file
        assert file is not None
        assert "two" not in file.read_text()


def test_a_history_gives_back_what_was_being_typed() -> None:
    history = PromptHistory()
    assert history.go(-1, "draft") == "draft"
    history.add("a")
    history.add("b")
    history.add("a")
    assert [history.go(-1, "draft"), history.go(-1, "a"), history.go(-1, "b")] == ["a", "b", "b"]
    assert [history.go(1, "b"), history.go(1, "a"), history.go(1, "draft")] == [
        "a",
        "draft",
        "draft",
    ]


async def test_taps_come_in_layer_by_layer_and_x_stops(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(faulty(), "the GPU has too little memory, so the CPU computes")
    engine.hold_logits = 3
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("p", "a", "enter")
        while not isinstance(app.screen, LogitsScreen) or len(taps(app).grid.rows) < 3:
            await pilot.pause(0.02)
        assert outcome(app).startswith("Layer by layer: 3 of 5 done, the last in 0.8 s   x stops.")
        assert "[####" in outcome(app)
        assert toasts(app) == ["the GPU has too little memory, so the CPU computes"]
        assert not any("!" in each for each in shown(app))  # no threshold yet, so no verdict
        assert "x Stop" in text(app, "KeyLine")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, LogitsScreen)
        await pilot.press("a")
        assert toasts(app)[-1] == "Causes: wait for the end, or stop with x."
        await pilot.press("x")
        engine.gate.set()
        await settle(app, pilot)
        assert outcome(app).startswith("Stopped.")
        assert len(taps(app).grid.rows) == 3
        assert engine.closed == 1


async def test_ctrl_c_stops_the_prompt_that_is_looked_at(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.hold_logits, engine.hold = steps(clean()), 2, 4
    async with app.run_test(size=NARROW) as pilot:
        while tensors(app).session.b is None or tensors(app).session.phase != "comparing":
            await pilot.pause(0.02)
        await pilot.press("p", "a", "enter")  # while tensors are being compared
        while (run := tensors(app).prompts.run) is None or run.progress is None:
            await pilot.pause(0.02)
        await pilot.press("p", "ctrl+c")  # in the field as well
        assert not tensors(app).prompts.is_asking
        assert tensors(app).session.phase == "comparing"
        await pilot.press("ctrl+c")
        assert tensors(app).session.phase == "stopped"


async def test_a_prompt_goes_on_behind_other_screens_and_says_when_it_is_done(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.hold_logits = steps(faulty()), 2
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("p", "a", "enter", "q")
        await pilot.pause()
        assert isinstance(app.screen, TensorsScreen)
        engine.gate.set()
        await settle(app, pilot)
        assert toasts(app)[-1].startswith(f"! {FIRST} k of layer 1")
        assert toasts(app)[-1].endswith("p shows it.")
        await pilot.press("p")
        await pilot.pause()
        assert outcome(app).startswith("! Weights or config")
        assert typed(app) == "a"


async def test_reading_the_headers_again_forgets_what_the_prompt_told(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("q")
        await pilot.press("r")
        await settle(app, pilot)
        assert tensors(app).prompts.run is None


@pytest.mark.parametrize(
    ("attribute", "error", "told"),
    [
        (
            "no_tokens",
            BadArgument("/ckpt/llama-hf and /ckpt/run7 have no tokenizer: type ids, as 1,2,3"),
            "x /ckpt/llama-hf and /ckpt/run7 have no tokenizer: type ids, as 1,2,3",
        ),
        ("no_logits", WorkerDied("memory ran out"), "x memory ran out"),
        ("no_logits", ZeroDivisionError("oh"), "This is a bug in ckptdiff."),
    ],
)
async def test_an_error_is_one_paragraph_and_the_next_prompt_works(
    app: CkptDiffApp, engine: FakeEngine, attribute: str, error: Exception, told: str
) -> None:
    setattr(engine, attribute, error)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        assert told in outcome(app).replace("\n", " ")
        setattr(engine, attribute, None)
        engine.steps = steps(clean())
        await pilot.press("p", "enter")
        await settle(app, pilot)
        assert outcome(app).startswith("= Only arithmetic")


async def test_a_runs_the_prompt_once_more_for_the_bars_and_then_changes_the_view(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(clean(attribution=tuple(SHARES[1:] + SHARES[:1])))
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        await pilot.press("a")
        await settle(app, pilot)
        assert engine.prompts == [("The capital", False), ("The capital", True)]
        assert app.screen.query_one(Shares).display
        assert not taps(app).display
        bars = text(app, "#shares").splitlines()
        assert [each.split()[:3] for each in (bars[0], bars[2])] == [
            ["shared", "rounding", "77.0%"],
            ["norm", "rounding", "8.2%"],
        ]
        assert bars[0].count("█") > 8 * bars[2].count("█") > 0
        assert any(each.split() == ["fused", "QKV", "0"] for each in bars)
        assert any("each output is the same dot product" in each for each in bars)
        await pilot.press("t")  # the bars had the room of the next tokens
        await pilot.pause()
        assert app.screen.query_one(NextTokens).has_focus
        assert taps(app).display
        await pilot.press("a", "a")
        await pilot.pause()
        assert taps(app).display
        assert taps(app).has_focus
        await pilot.press("a")
        await pilot.pause()
        assert len(engine.prompts) == 2


async def test_y_copies_what_was_found_and_capital_y_the_command(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.steps = steps(faulty())
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot, "it's")
        await pilot.press("y", "Y")
        assert copied[0].startswith(f"! {FIRST} k of layer 1")
        assert "\n1\tk\t1.8e+00\n" in copied[0]
        assert "after position 5, A: ' Paris' 0.800" in copied[0]
        assert copied[1] == f"ckptdiff logits {A} {B} --prompt 'it'\"'\"'s'"


async def test_ids_without_a_tokenizer_are_shown_as_ids(
    app: CkptDiffApp, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = clean()
    engine.steps = [
        LogitDiff(**{name: getattr(found, name) for name in found.__slots__} | {"texts": ()})
    ]
    copied: list[str] = []
    monkeypatch.setattr(app, "copy", copied.append)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot, "1,2, 3")
        assert text(app, "#tokens") == "1  2  3"
        assert text(app, "#count") == "3 tokens"
        await pilot.press("Y")
        assert copied == [f"ckptdiff logits {A} {B} --ids 1,2,3"]


@pytest.mark.slow
async def test_one_checkpoint_has_no_logits_to_compare(make_app: Make) -> None:
    app = make_app(A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("p")
        await pilot.pause()
        assert isinstance(app.screen, TensorsScreen)
        assert toasts(app)[-1] == ("Logits: this is one checkpoint. Open two to compare them.")


async def test_the_palette_leads_to_the_screen_and_its_keys(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps = steps(clean())
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("colon")
        await type_in(pilot, "compare prompt")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, LogitsScreen)
        await type_in(pilot, "a")
        await pilot.press("enter")
        await settle(app, pilot)
        await pilot.press("colon")
        await type_in(pilot, "logits attribution")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await settle(app, pilot)
        assert engine.prompts[-1] == ("a", True)


async def test_ascii_has_no_other_characters(make_app: Make, engine: FakeEngine) -> None:
    engine.steps = steps(clean(attribution=SHARES))
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        for keys in ((), ("t",), ("a",)):
            await pilot.press(*keys)
            await settle(app, pilot)
            everything = "\n".join(
                "".join(part.text for part in strip)
                for strip in app.screen._compositor.render_strips()
            )
            assert everything.isascii()


async def test_the_help_says_what_the_numbers_mean(app: CkptDiffApp, engine: FakeEngine) -> None:
    engine.steps = steps(clean())
    async with app.run_test(size=NARROW) as pilot:
        await ask(app, pilot)
        told = [each.plain for each in help_lines(app.screen)]
        assert any(each.split()[:3] == ["=", "no", "difference"] for each in told)
        assert all(len(each) <= 74 for each in told)


async def test_the_device_is_chosen_and_torchs_are_known_once_a_prompt_runs(
    app: CkptDiffApp, engine: FakeEngine
) -> None:
    engine.steps, engine.devices = steps(faulty()), ("cuda:0", "cuda:1")
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("p")
        await pilot.pause()
        assert text(app, "Choice") == "[auto] cpu "
        await pilot.press(*"one", "enter")
        await settle(app, pilot)
        assert text(app, "Choice") == "[auto] cpu  cuda:0  cuda:1 "
        await pilot.press("D", "D", "D", "p", "enter")
        await settle(app, pilot)
        assert engine.computed_on == ["auto", "cuda:1"]
        await pilot.press("Y")
        assert app.clipboard.endswith("--device cuda:1")
