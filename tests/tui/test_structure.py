"""How the screen is put together: no ladder of classes, no circle of imports."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter

import grimp
from textual.app import App
from textual.screen import Screen

import ckptdiff.tui
from ckptdiff.tui.screens.base import BaseScreen

LONGEST = 400


def classes() -> list[type]:
    """Return every class of the screen."""
    found = {}
    for module in pkgutil.walk_packages(ckptdiff.tui.__path__, "ckptdiff.tui."):
        for _, each in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if each.__module__.startswith("ckptdiff.tui."):
                found[f"{each.__module__}.{each.__qualname__}"] = each
    return list(found.values())


CLASSES = classes()


def ladder(of: type) -> list[type]:
    """Return a class and those above it that are ours, BaseScreen left out."""
    return [
        each
        for each in of.__mro__
        if each.__module__.startswith("ckptdiff.tui.") and each is not BaseScreen
    ]


def lines(of: type) -> int:
    """Count the source lines of a class and of what it inherits from classes of ours."""
    return sum(len(inspect.getsource(each).splitlines()) for each in ladder(of))


def handlers(of: type) -> set[str]:
    return {name for name in vars(of) if name.startswith(("on_", "_on_"))}


def test_no_class_is_longer_than_400_lines_with_what_it_inherits() -> None:
    """Counted are the source lines of the class and of each class of ours in its MRO.

    BaseScreen, which every screen shares, is left out; so is what Textual's classes hold.
    """
    assert {of.__name__: lines(of) for of in CLASSES if lines(of) > LONGEST} == {}


def test_a_message_is_handled_once() -> None:
    """Textual calls the handlers of all base classes by itself, one after the other."""
    twice = {}
    for of in CLASSES:
        ours = [each for each in of.__mro__ if each.__module__.startswith("ckptdiff.tui.")]
        counts = Counter(name for each in ours for name in handlers(each))
        twice[of.__name__] = [name for name, count in counts.items() if count > 1]
    assert {name: found for name, found in twice.items() if found} == {}


def test_screens_and_apps_inherit_no_handler() -> None:
    inherited = {
        of.__name__: sorted(set().union(*map(handlers, ladder(of)[1:])))
        for of in CLASSES
        if issubclass(of, App | Screen)
    }
    assert "TensorsScreen" in inherited
    assert {name: found for name, found in inherited.items() if found} == {}


def test_no_module_of_the_screen_is_reached_from_what_it_imports() -> None:
    """Imports for types alone count too: the layers of pyproject.toml do not see those."""
    graph = grimp.build_graph("ckptdiff", exclude_type_checking_imports=False, cache_dir=None)
    ours = {name for name in graph.modules if name.startswith("ckptdiff.tui.")}
    circles = [
        (module, imported)
        for module in sorted(ours)
        for imported in sorted(graph.find_modules_directly_imported_by(module) & ours)
        if graph.chain_exists(importer=imported, imported=module)
    ]
    assert circles == []
