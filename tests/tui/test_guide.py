"""Pages of the guide on the screen: from a finding, from the logits, from the palette."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.guide.topics import page, topics
from ckptdiff.tui.screens.findings import FindingsScreen
from ckptdiff.tui.screens.guide import GuideScreen, PageText
from ckptdiff.tui.screens.help import HelpScreen, help_lines
from ckptdiff.tui.screens.logits import LogitsScreen
from ckptdiff.tui.text.page import Page
from tests.support.tui.fakes import A, B, FakeEngine
from tests.support.tui.harness import settle, tensors, text
from tests.tui.test_commands import found, offered
from tests.tui.test_findings import CONFIG, ROPE, STALE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.tui.app import CkptDiffApp

    Make = Callable[..., CkptDiffApp]


pytestmark = pytest.mark.mostly_slow(one_in=5)


def guide(app: CkptDiffApp) -> GuideScreen:
    assert isinstance(app.screen, GuideScreen)
    return app.screen


def shown(app: CkptDiffApp) -> str:
    """Return the source of the page that is on the screen."""
    content = guide(app).query_one(PageText)._page
    return content.text if isinstance(content, Page) else str(content)


def drawn(app: CkptDiffApp) -> str:
    return "\n".join(
        "".join(segment.text for segment in strip)
        for strip in guide(app)._compositor.render_strips()
    )


def offset(app: CkptDiffApp) -> float:
    return guide(app).query_one("#page").scroll_offset.y


@pytest.fixture
def faulty(engine: FakeEngine) -> FakeEngine:
    engine.findings = [ROPE, STALE, CONFIG]
    return engine


async def test_a_question_mark_on_a_finding_opens_the_part_on_its_class(
    app: CkptDiffApp, faulty: FakeEngine
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("f")
        await pilot.pause()
        for finding in (ROPE, STALE, CONFIG):
            await pilot.press("question_mark")
            await pilot.pause()
            assert guide(app).topic == finding.kind
            assert shown(app) == page(finding.kind)
            await pilot.press("escape")
            assert isinstance(app.screen, FindingsScreen)
            await pilot.press("j")
            await pilot.pause()


async def test_the_keys_of_the_findings_are_under_f1_and_the_key_line_says_so(
    app: CkptDiffApp, faulty: FakeEngine
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("f")
        await pilot.pause()
        assert text(app, "KeyLine").endswith("? Guide  f1 Help  q Back")
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)


async def test_a_question_mark_on_the_logits_opens_their_page(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("p")
        await pilot.pause()
        assert isinstance(app.screen, LogitsScreen)
        await pilot.press("question_mark")  # is text while the prompt is typed
        assert isinstance(app.screen, LogitsScreen)
        app.screen.set_focus(None)
        await pilot.press("question_mark")
        await pilot.pause()
        assert shown(app) == page("logits")
        await pilot.press("q")
        assert isinstance(app.screen, LogitsScreen)


@pytest.mark.parametrize("screen", ["tensors", "guide"])
async def test_elsewhere_a_question_mark_shows_the_keys_and_names_the_pages(
    app: CkptDiffApp, screen: str
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        if screen == "guide":
            app.push_screen(GuideScreen("verdicts"))
            await pilot.pause()
        lines = [line.plain for line in help_lines(app.screen)]
        assert all(any(line.split()[:1] == [topic] for line in lines) for topic in topics())
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)


async def test_the_palette_offers_every_page(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        now = await offered(app)
        assert {f"guide: {topic}" for topic in topics()} <= set(now)
        (hit,) = [hit for hit in await found(app, "guide verdicts") if "verdicts" in str(hit.text)]
        hit.command()
        await pilot.pause()
        assert shown(app) == page("verdicts")


async def test_a_page_scrolls_by_keys_and_turns_over(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(GuideScreen("verdicts"))
        await pilot.pause()
        await pilot.press("j", "j", "k")
        assert offset(app) == 1
        await pilot.press("space")
        assert offset(app) == 1 + 20 - 1
        await pilot.press("ctrl+u", "G")
        await pilot.pause()
        assert offset(app) == guide(app).query_one("#page").max_scroll_y > 50
        await pilot.press("n")
        await pilot.pause()
        names = list(topics())
        assert guide(app).topic == names[(names.index("verdicts") + 1) % len(names)]
        assert offset(app) == 0
        await pilot.press("N")
        await pilot.pause()
        assert shown(app) == page("verdicts")


async def test_from_one_class_the_next_page_is_that_of_all_classes(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(GuideScreen("SCALE"))
        await pilot.pause()
        await pilot.press("n")
        await pilot.pause()
        assert guide(app).topic == "faults"


async def test_a_link_is_shown_as_the_command_that_prints_the_page(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(GuideScreen("SCALE"))
        await pilot.pause()
        assert "All classes: faults (ckptdiff help faults)" in drawn(app)


async def test_in_ascii_the_source_of_the_page_is_shown(make_app: Make) -> None:
    app = make_app(A, B, ascii_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(GuideScreen("SCALE"))
        await pilot.pause()
        assert shown(app) == page("SCALE")
        assert "# SCALE" in drawn(app)
        assert drawn(app).isascii()


async def test_every_page_can_be_shown_and_nothing_of_it_is_markup(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(GuideScreen(next(iter(topics()))))
        await pilot.pause()
        for topic in topics():
            assert shown(app) == page(topic)
            assert not any(row.strip("│┌─ ").startswith("# ") for row in drawn(app).splitlines())
            await pilot.press("n")
            await pilot.pause()
        await pilot.press("q")
        assert app.screen is tensors(app)
