"""Our themes can be read: the contrast, as WCAG 2 defines it, of all that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual.color import Color

from ckptdiff.guide.topics import topics
from ckptdiff.settings import Settings, save_settings
from ckptdiff.tui.screens.guide import GuideScreen, PageText
from ckptdiff.tui.theme import CKPTDIFF, CKPTDIFF_16, CKPTDIFF_CONTRAST, CKPTDIFF_LIGHT
from tests.support.tui.fakes import A, B
from tests.support.tui.harness import settle, until_drawn
from tests.support.tui.logits_made import faulty, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.style import Style

    from ckptdiff.tui.app import CkptDiffApp
    from tests.support.tui.fakes import FakeEngine

LEAST = {CKPTDIFF.name: 4.5, CKPTDIFF_LIGHT.name: 4.5, CKPTDIFF_CONTRAST.name: 7.0}
FRAMES = set("─│┌┐└┘┬┴├┤▔▕▏▎▁▂▃▄▅▆▇█ ")  # not read


def luminance(colour: Color) -> float:
    """Return the relative luminance, from 0 to 1."""
    parts = [part / 255 for part in colour.rgb]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: Color, other: Color) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def colours(style: Style) -> tuple[Color, Color]:
    """Return the colours of the text and behind it, as the terminal mixes them."""
    assert style.color is not None
    assert style.bgcolor is not None
    text, behind = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
    if style.dim:
        text = text.blend(behind, 0.5)
    return (behind, text) if style.reverse else (text, behind)


def drawn(app: CkptDiffApp) -> Iterator[tuple[str, Style]]:
    """Yield each text on the screen that is read, with its style."""
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            if segment.style is not None and set(segment.text) - FRAMES:
                yield segment.text, segment.style


def pale(app: CkptDiffApp, least: float) -> dict[str, float]:
    """Return the texts with too little contrast, and how much they have."""
    found = {text.strip(): contrast(*colours(style)) for text, style in drawn(app)}
    return {text: round(ratio, 2) for text, ratio in found.items() if ratio < least}


def test_the_contrast_is_that_of_wcag() -> None:
    assert contrast(Color.parse("#000"), Color.parse("#fff")) == pytest.approx(21)
    assert contrast(Color.parse("#777"), Color.parse("#fff")) == pytest.approx(4.48, abs=0.01)


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("theme", LEAST)
async def test_all_that_is_drawn_can_be_read(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine, theme: str, tmp_path: Path
) -> None:
    save_settings(Settings(theme=theme), tmp_path / "config" / "settings.json")
    engine.steps = steps(faulty())
    app = make_app(A, B)
    least = LEAST[theme]
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        assert app.theme == theme
        for keys in (("n",), ("j", "j"), ("g",), ("enter",), ("tab",), ("v",), ("q", "q"), ("e",)):
            await pilot.press(*keys)
            await until_drawn(pilot) if app.screen.query("DetailSlot") else None
            await settle(app, pilot)
            assert pale(app, least) == {}, keys
        await pilot.press("q", "2")
        await settle(app, pilot)
        assert pale(app, least) == {}
        await pilot.press("q", "p", *"a b", "enter")
        await settle(app, pilot)
        assert pale(app, least) == {}


@pytest.mark.parametrize("theme", LEAST)
async def test_each_page_of_the_guide_can_be_read(
    make_app: Callable[..., CkptDiffApp], theme: str, tmp_path: Path
) -> None:
    save_settings(Settings(theme=theme), tmp_path / "config" / "settings.json")
    app = make_app(A, B)
    async with app.run_test(size=(110, 60)) as pilot:
        await settle(app, pilot)
        seen = set()
        for topic in topics():
            app.push_screen(GuideScreen(topic))
            await pilot.pause()
            text = app.screen.query_one(PageText)
            behind = text.background_colors[1]
            for line in text.lines(text.size.width, 0):
                for words, role in line:
                    if not set(words) - FRAMES:
                        continue
                    ink = text._style(role).foreground
                    seen.add(role)
                    if ink is not None:
                        assert contrast(behind + ink, behind) >= LEAST[theme], (topic, words, role)
            assert pale(app, LEAST[theme]) == {}, topic
            app.pop_screen()
        assert {"bold cyan", "yellow"} <= seen


async def test_our_themes_are_chosen_in_the_palette_and_kept(
    make_app: Callable[..., CkptDiffApp],
) -> None:
    app = make_app(A, B)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("colon", *"theme: choose")
        await settle(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press(*"ckptdiff-light")
        await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.theme == CKPTDIFF_LIGHT.name
    assert make_app(A, B).settings.theme == CKPTDIFF_LIGHT.name


def test_commands_can_be_read_in_16_colours() -> None:
    # As xterm has them unless told otherwise.
    xterm = {"ansi_blue": "#0000EE", "ansi_bright_blue": "#5C5CFF"}
    for behind in ("#000000", "#FFFFFF"):
        assert contrast(Color.parse(xterm[CKPTDIFF_16.primary]), Color.parse(behind)) > 4
