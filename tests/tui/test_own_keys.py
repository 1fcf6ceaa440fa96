"""Keys of the settings: they work, every text names them, and what cannot be is said."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ckptdiff.tui
from ckptdiff.guide.topics import page
from ckptdiff.tui.keymap import key, shown, use
from ckptdiff.tui.own_keys import EVERYWHERE, SCREENS, known_bindings, usable
from ckptdiff.tui.screens.help import help_lines
from tests.support.tui.fakes import A, B
from tests.support.tui.harness import rows, settle, tensors, text, toasts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptdiff.tui.app import CkptDiffApp


@pytest.fixture(autouse=True)
def _our_keys_again() -> Iterator[None]:
    yield
    use({})


def named_keys() -> list[tuple[str, str]]:
    """Return the arguments of every call of `key`: the binding, and what its key is called."""
    found = []
    for file in Path(ckptdiff.tui.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "key":
                binding, ours = node.args
                assert isinstance(binding, ast.Constant), ast.unparse(node)
                assert isinstance(ours, ast.Constant), ast.unparse(node)
                found.append((str(binding.value), str(ours.value)))
    return found


def test_the_keys_that_texts_name_are_those_of_the_bindings() -> None:
    assert len(named_keys()) > 60
    for binding, ours in named_keys():
        keys = {shown(name, arrows=False) for name in known_bindings()[binding].keys}
        assert ours in keys or ours.lower() in keys, binding


def test_every_binding_has_a_screen() -> None:
    widgets = {name for names in SCREENS.values() for name in names}
    places = {name.partition(".")[0] for name in known_bindings()}
    assert places == {*SCREENS, *EVERYWHERE, *widgets}


def test_the_guide_names_every_binding() -> None:
    shown = page("keys")
    # What q is on the first screen is said beside what it is on the others.
    assert [n for n in known_bindings() if f"`{n}`" not in shown] == ["screen.leave"]


@pytest.mark.parametrize(
    ("wanted", "keymap"),
    [
        ({"tensors.next": "]"}, {"tensors.next": "right_square_bracket"}),
        ({"tensors.next": "f6, t"}, {"tensors.next": "f6,t"}),
        # These two change places, and one widget of a screen does not meet another.
        (
            {"tensors.next": "d", "tensors.differences": "n"},
            {"tensors.next": "d", "tensors.differences": "n"},
        ),
        ({"heat.up": "w", "pane.up": "w"}, {"heat.up": "w", "pane.up": "w"}),
    ],
)
def test_keys_that_can_be(wanted: dict[str, str], keymap: dict[str, str]) -> None:
    assert usable(wanted) == (keymap, [])


def test_what_shared_a_key_with_a_moved_binding_keeps_it() -> None:
    """Textual drops it otherwise: q leaves the first screen, and goes back on the others."""
    keymap, troubles = usable({"screen.back": "B"})
    assert (keymap["screen.back"], keymap["screen.leave"]) == ("B", "ctrl+q,q")
    assert troubles == []


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"tensors.nxt": "b"}, "Keys: nothing is called tensors.nxt. Perhaps tensors.next?"),
        ({"!": "b"}, "Keys: nothing is called !. The guide's page keys lists all."),
        (
            {"tensors.next": "j"},
            "Keys: j is list.down already where tensors.next works, so tensors.next keeps n.",
        ),
        (
            {"tensors.next": "Q"},
            "Keys: Q is app.quit already where tensors.next works, so tensors.next keeps n.",
        ),
        ({"tensors.next": "jj"}, "Keys: no key is called jj, so tensors.next keeps n."),
        ({"tensors.next": ""}, "Keys: no key is called nothing, so tensors.next keeps n."),
        (
            {"tensors.next": "ctrl+i"},
            "Keys: no terminal sends ctrl+i as a key of its own, so tensors.next keeps n.",
        ),
        ({"prompt.run": "r"}, "Keys: r would be typed into the field, so prompt.run keeps enter."),
    ],
)
def test_keys_that_cannot_be(wanted: dict[str, str], sentence: str) -> None:
    assert usable(wanted) == ({}, [sentence])


def test_a_key_that_was_given_away_and_comes_back_takes_its_place_again() -> None:
    keymap, troubles = usable({"tensors.filter": "n", "tensors.next": "j"})
    assert keymap == {}
    assert len(troubles) == 2


@pytest.fixture
def own(make_app: Callable[..., CkptDiffApp], tmp_path: Path) -> Callable[..., CkptDiffApp]:
    """Make an app whose settings hold these keys."""

    def make(**keys: str) -> CkptDiffApp:
        file = tmp_path / "config" / "settings.json"
        file.parent.mkdir(exist_ok=True)
        named = {name.replace("__", "."): value for name, value in keys.items()}
        file.write_text(json.dumps({"keys": named}))
        return make_app(A, B)

    return make


async def test_the_screen_works_with_the_users_keys_and_names_them(
    own: Callable[..., CkptDiffApp],
) -> None:
    app = own(tensors__next="b", tensors__findings="F", tensors__differences="f6")
    async with app.run_test(size=(200, 40)) as pilot:
        await settle(app, pilot)
        assert toasts(app) == []
        await pilot.press("g", "b")
        assert tensors(app).session.is_difference(rows(app).name_here or "")
        await pilot.press("n")
        assert "b Next diff" in text(app, "KeyLine")
        assert "F Findings" in text(app, "KeyLine")
        helped = "\n".join(line.plain for line in help_lines(app.screen))
        assert "b  next difference" in helped
        await pilot.click("FindingLine")
        assert toasts(app)[-1].startswith("No findings: no fault")


async def test_what_is_wrong_is_said_at_the_start_and_the_rest_is_used(
    own: Callable[..., CkptDiffApp], tmp_path: Path
) -> None:
    app = own(tensors__nxt="b", tensors__sort="f7")
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert toasts(app) == ["Keys: nothing is called tensors.nxt. Perhaps tensors.next?"]
        assert key("tensors.sort", "s") == "f7"
        await pilot.press("f7", "d")
        assert tensors(app).session.sort == "max"
        await settle(app, pilot)
    kept = json.loads((tmp_path / "config" / "settings.json").read_text())
    assert kept["differences_only"]
    assert kept["keys"] == {"tensors.nxt": "b", "tensors.sort": "f7"}
