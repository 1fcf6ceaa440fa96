"""Settings that the screen keeps between runs: recent pairs, theme, filter, keys."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile, MissingShard, UnreadableFile
from ckptdiff.formats.files import read_small
from ckptdiff.formats.json_files import read_json
from ckptdiff.system.folders import config_folder
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = 1  # of the file format
RECENT_PAIRS = 10
_GONE = ("sort",)  # entries of earlier releases, which mean nothing now
MOST_SHOWN = 40  # characters of a wrong value
MOST_NAMED = 5  # entries that are wrong
MAX_BYTES = 1_000_000
MAX_NUMBER = 1e11  # of tensors, and of seconds since 1970: the year 5138


@dataclass(frozen=True, slots=True)
class RecentPair:
    """A pair that was compared, and the verdict."""

    a: str  # paths
    b: str
    verdict: str  # same, close or differ; empty if the comparison did not end
    differences: int  # number of tensors
    at: float  # Unix time


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one user."""

    recent: tuple[RecentPair, ...] = ()  # the latest first, at most RECENT_PAIRS
    theme: str | None = None  # of Textual; None: the one that suits the terminal's colours
    differences_only: bool = False  # whether the list leaves out equal tensors
    keys: dict[str, str] = field(default_factory=dict)  # keys by the id of what they do
    version: int = field(default=VERSION)

    def with_pair(self, pair: RecentPair) -> Settings:
        """Return settings with this pair as the latest, once."""
        others = [old for old in self.recent if (old.a, old.b) != (pair.a, pair.b)]
        return replace(self, recent=(pair, *others)[:RECENT_PAIRS])


def settings_file() -> Path | None:
    """Return `settings.json` in the user's configuration folder; None if the user has no home."""
    folder = config_folder()
    return None if folder is None else folder / "settings.json"


def load_settings(file: Path) -> tuple[Settings, str | None]:
    """Return the settings, and a sentence on what of them cannot be used, if anything.

    What is wrong has its default; everything, if the file cannot be read.
    """
    try:
        settings, wrong = _settings(read_json(read_small(file, MAX_BYTES)))
    except MissingShard:
        return Settings(), None
    except UnreadableFile as error:
        return Settings(), f"{error}. Defaults are used."
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} is no JSON"
        return Settings(), f"{file} is not readable as settings: {where}. Defaults are used."
    except (ValueError, RecursionError, CorruptFile):
        return Settings(), f"{file} is not readable as settings. Defaults are used."
    if len(wrong) > MOST_NAMED:
        wrong = [*wrong[:MOST_NAMED], f"{len(wrong) - MOST_NAMED} more"]
    return settings, f"{file}: {'; '.join(wrong)}. All other settings are used." if wrong else None


def _settings(values: Any) -> tuple[Settings, list[str]]:
    """Return settings from JSON, and a clause for each entry that is left out, as it is wrong.

    Raises ValueError if nothing of them can be used.
    """
    if not isinstance(values, dict):
        raise ValueError("no object")
    if values.get("version", VERSION) != VERSION:
        raise ValueError("another version")
    found: dict[str, Any] = {}
    wrong = []
    for name, value in values.items():
        if name in _GONE:
            continue
        if name not in _ENTRIES:
            wrong.append(f"there is no setting {_shown(name)}; there are {', '.join(_ENTRIES)}")
        elif _ENTRIES[name].fits(value):
            found[name] = value
        else:
            wrong.append(f"{name} is {_shown(value)}, and has to be {_ENTRIES[name].words}")
    keys, no_text = {}, []
    for name, value in found.pop("keys", {}).items():
        if _is_text(value) and _is_text(name):
            keys[name] = value
        else:
            no_text.append(f"{_shown(name)} in keys is {_shown(value)}, and has to be {_KEY}")
    recent = found.pop("recent", ())[:RECENT_PAIRS]
    pairs = tuple(pair for pair in map(_pair, recent) if pair is not None)
    if len(pairs) < len(recent):
        no_text.append(f"{len(recent) - len(pairs)} of recent is no pair that was compared")
    return Settings(**found, keys=keys, recent=pairs), [*wrong, *no_text]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What an entry of the file may be, as a test and in words."""

    fits: Callable[[Any], bool]
    words: str


_KEY = 'a key such as "j" or "ctrl+n", in quotes'
_ENTRIES: dict[str, _Entry] = {
    "recent": _Entry(lambda value: isinstance(value, list), "a list of pairs"),
    "theme": _Entry(
        lambda value: value is None or _is_text(value),
        'the name of a theme in quotes, such as "ckptdiff-light", or null',
    ),
    "differences_only": _Entry(lambda value: isinstance(value, bool), "true or false"),
    "keys": _Entry(lambda value: isinstance(value, dict), 'an object such as {"list.down": "j"}'),
    "version": _Entry(lambda value: value == VERSION, str(VERSION)),
}


def _pair(values: Any) -> RecentPair | None:
    """Return a pair from JSON; None if it is none."""
    try:
        pair = RecentPair(**values)
    except TypeError:
        return None
    is_fit = all(map(_is_text, (pair.a, pair.b, pair.verdict)))
    numbers = (pair.differences, pair.at)
    is_fit = is_fit and all(isinstance(n, (int, float)) and 0 <= n < MAX_NUMBER for n in numbers)
    return pair if is_fit else None


def _is_text(value: object) -> bool:
    """Return whether a value is text that a path or a terminal can have."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """Return a value of the file in few characters, as JSON."""
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."


def save_settings(settings: Settings, file: Path) -> None:
    """Write the settings atomically, by renaming a temporary file. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
