"""What is decided before the first frame: the line, the colours, the characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.tui.launch import draws_boxes, set_up_environment
from ckptdiff.tui.theme import CKPTDIFF, CKPTDIFF_16
from tests.support.tui.fakes import A, B
from tests.support.tui.harness import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.tui.app import CkptDiffApp


pytestmark = pytest.mark.mostly_slow(one_in=6)


def test_over_ssh_textual_is_quiet_unless_it_was_told_otherwise() -> None:
    environ = {"SSH_CONNECTION": "10.0.0.1 22", "TEXTUAL_FPS": "60"}
    set_up_environment(environ)
    assert environ["TEXTUAL_FPS"] == "60"
    assert environ["TEXTUAL_ANIMATIONS"] == "none"
    assert environ["TEXTUAL_SMOOTH_SCROLL"] == "0"


def test_on_the_same_machine_nothing_is_slowed_down() -> None:
    environ: dict[str, str] = {}
    set_up_environment(environ)
    assert environ == {}


def test_an_empty_no_color_means_nothing() -> None:
    environ = {"NO_COLOR": ""}
    set_up_environment(environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("term", "encoding", "boxes"),
    [
        ("xterm-256color", "UTF-8", True),
        ("xterm-256color", "utf8", True),
        ("linux", "UTF-8", False),
        ("xterm", "ISO-8859-1", False),
        ("xterm", "ANSI_X3.4-1968", False),
    ],
)
def test_boxes_and_blocks_are_drawn_only_where_they_can_be(
    term: str, encoding: str, *, boxes: bool
) -> None:
    assert draws_boxes({"TERM": term}, encoding) is boxes


def test_a_browser_draws_all_whatever_the_terminal_of_its_server_does() -> None:
    environ = {"TERM": "linux", "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"}
    assert draws_boxes(environ, "ANSI_X3.4-1968")


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize(
    ("environ", "theme"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, CKPTDIFF.name),
        ({"TERM": "xterm-256color", "COLORTERM": ""}, CKPTDIFF.name),
        ({"TERM": "screen", "COLORTERM": ""}, CKPTDIFF_16.name),
        ({"NO_COLOR": "1"}, CKPTDIFF_16.name),
    ],
)
async def test_the_theme_suits_the_terminal(
    make_app: Callable[..., CkptDiffApp],
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    theme: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    app = make_app(A, B, no_color="NO_COLOR" in environ)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert app.theme == theme


async def test_a_theme_that_was_chosen_is_kept(make_app: Callable[..., CkptDiffApp]) -> None:
    app = make_app(A, B)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.theme = "nord"
        await settle(app, pilot)
    again = make_app(A, B)
    async with again.run_test(size=(80, 24)) as pilot:
        await settle(again, pilot)
        assert again.theme == "nord"
