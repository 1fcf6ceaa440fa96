"""Settings that the screen keeps between runs: recent pairs, theme, filter, keys."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

VERSION = 1  # of the file format
RECENT_PAIRS = 10


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


def settings_file() -> Path:
    """Return `settings.json` in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("ckptdiff", appauthor=False)) / "settings.json"


def load_settings(file: Path) -> tuple[Settings, str | None]:
    """Return the settings; if they cannot be read, the defaults and a sentence that says so."""
    try:
        return _settings(json.loads(file.read_bytes())), None
    except FileNotFoundError:
        return Settings(), None
    except OSError as error:
        return Settings(), f"{file}: {error.strerror}. Defaults are used."
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} is no JSON"
        return Settings(), f"{file} is not readable as settings: {where}. Defaults are used."
    except (ValueError, TypeError, RecursionError):
        return Settings(), f"{file} is not readable as settings. Defaults are used."


def _settings(values: Any) -> Settings:
    """Return settings from JSON; defaults for what is left out. Raises ValueError, TypeError."""
    if not isinstance(values, dict):
        raise TypeError("no object")
    if values.get("version", VERSION) != VERSION:
        raise ValueError("another version")
    settings = Settings(
        recent=tuple(RecentPair(**pair) for pair in values.get("recent", ())[:RECENT_PAIRS]),
        theme=values.get("theme"),
        differences_only=values.get("differences_only", False),
        keys=dict(values.get("keys", {})),
    )
    words = [settings.theme or "", *(w for p in settings.recent for w in (p.a, p.b))]
    words += settings.keys.values()
    numbers = [n for pair in settings.recent for n in (pair.at, pair.differences)]
    if not all(isinstance(word, str) for word in [*words, *(p.verdict for p in settings.recent)]):
        raise TypeError("a word is not a string")
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError("a number is not a number")
    return settings


def save_settings(settings: Settings, file: Path) -> None:
    """Write the settings atomically, by renaming a temporary file. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
