"""The entries screen: what is in a checkpoint beside its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.checkpoint import Entry
from ckptdiff.tui.screens.entries import EntriesScreen
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.entry_list import EntryList, entry_line
from ckptdiff.tui.widgets.painted import Words
from tests.support.tui.handmade import Host, session_of, settle, written

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from ckptdiff.tui.model.session import Session


pytestmark = pytest.mark.mostly_slow(one_in=8)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return session_of(*written(tmp_path), compare=False)


async def opened(app: Host, pilot: Pilot[Any]) -> EntryList:
    await settle(app, pilot)
    return app.screen.query_one(EntryList)


def drawn(rows: EntryList) -> list[str]:
    height = rows.content_size.height
    return [text for y in range(height) if (text := rows.render_line(y).text.rstrip())]


def below(app: Host) -> list[str]:
    return plain(app.screen.query_one("#entry", Words).lines(78, 5))


def test_an_entry_is_its_kind_its_name_and_its_value() -> None:
    entry = Entry("args.seed", "value", "1234")
    assert entry_line(entry, 60, 12, ascii_only=False) == " - value   args.seed     1234"


def test_a_long_name_is_shortened_in_the_middle_and_a_long_value_at_its_end() -> None:
    entry = Entry("optimizer.state.exp_avg.layers", "tensor", "F32 1024x1024x1024")
    line = entry_line(entry, 40, 99, ascii_only=True)
    # 40 columns less 11 for the kind are 29: three fifths, 17, for the name, and 10 after a gap.
    assert line == " # tensor  optimiz..g.layers  F32 1024.."
    assert len(line) == 40


async def test_s_shows_the_other_side_and_an_empty_one_says_so(session: Session) -> None:
    app = Host(EntriesScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        assert drawn(rows) == [" A holds nothing but weights."]
        await pilot.press("s")
        await settle(app, pilot)
        assert rows.rows[0].name == "args.num_layers"
        assert "3 entries" in str(rows.border_subtitle)


async def test_what_a_file_says_can_neither_steer_the_terminal_nor_be_markup(
    session: Session,
) -> None:
    app = Host(EntriesScreen(session, "b"))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("j")
        assert "args.[bold]tokenizer" in drawn(rows)[1]
        assert "[red]\\x1b[2J" in drawn(rows)[1]
        assert below(app) == ["args.[bold]tokenizer", "[red]\\x1b[2J"]


async def test_the_filter_searches_names_and_values(session: Session) -> None:
    app = Host(EntriesScreen(session, "b"))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("slash", *"F32")
        assert [entry.name for entry in rows.rows] == ["optimizer.exp_avg"]
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen.focused is rows
        assert "1 of 3 entries" in str(rows.border_subtitle)
        await pilot.press("escape")
        assert len(rows.rows) == 3
        await pilot.press("slash", *"!args", "enter")
        assert [entry.name for entry in rows.rows] == ["optimizer.exp_avg"]


async def test_nothing_that_matches_is_said(session: Session) -> None:
    app = Host(EntriesScreen(session, "b"))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("slash", *"zzz")
        assert drawn(rows) == [" No entry matches 'zzz'. Esc clears the filter."]
        assert below(app) == []


async def test_an_expression_that_is_not_whole_yet_changes_nothing(session: Session) -> None:
    app = Host(EntriesScreen(session, "b"))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("slash", *"re:a")
        assert len(rows.rows) == 3
        await pilot.press("(")
        assert len(rows.rows) == 3
        await pilot.press("backspace", "backspace", "(")
        await pilot.press(*"num|exp)")
        assert [entry.name for entry in rows.rows] == ["args.num_layers", "optimizer.exp_avg"]


@pytest.mark.slow
async def test_the_cursor_moves_and_keys_copy(session: Session) -> None:
    app = Host(EntriesScreen(session, "b"))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        await pilot.press("down", "y", "G", "Y", "k", "up", "up", "g", "y")
        assert app.copied == [
            "args.[bold]tokenizer",
            "optimizer.exp_avg = F32 48",
            "args.num_layers",
        ]
        await pilot.press("pagedown")
        assert rows.cursor == 2
        await pilot.press("ctrl+u")
        assert rows.cursor == 0


async def test_a_long_list_scrolls_with_its_cursor(tmp_path: Path) -> None:
    _, b = written(tmp_path)
    session = session_of(b)
    app = Host(EntriesScreen(session))
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        rows.show([Entry(f"args.{i}", "value", str(i)) for i in range(50_000)], "")
        await pilot.press("G")
        await pilot.pause()
        assert drawn(rows)[-1].split() == ["-", "value", "args.49999", "49999"]
        await pilot.press("g")
        await pilot.pause()
        assert drawn(rows)[0].split() == ["-", "value", "args.0", "0"]


async def test_one_checkpoint_has_no_other_side(tmp_path: Path) -> None:
    session = session_of(written(tmp_path)[1])
    screen = EntriesScreen(session)
    app = Host(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        rows = await opened(app, pilot)
        assert screen.check_action("side", ()) is False
        await pilot.press("s")
        assert len(rows.rows) == 3
