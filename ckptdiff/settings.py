"""What is remembered between runs: recent pairs, the theme, how the list was looked at."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

VERSION = 1
RECENT_PAIRS = 10


@dataclass(frozen=True, slots=True)
class RecentPair:
    """A pair that was compared, and how that ended."""

    a: str
    b: str
    verdict: str  # same, close or differ; empty while nothing is known
    differences: int
    at: float  # Unix time


@dataclass(frozen=True, slots=True)
class Settings:
    recent: tuple[RecentPair, ...] = ()  # the latest first
    theme: str | None = None  # None: what suits the terminal
    sort: str = "model"
    differences_only: bool = False
    version: int = field(default=VERSION)

    def with_pair(self, pair: RecentPair) -> Settings:
        """Return settings with this pair as the latest."""
        others = [old for old in self.recent if (old.a, old.b) != (pair.a, pair.b)]
        return replace(self, recent=(pair, *others)[:RECENT_PAIRS])


def settings_file() -> Path:
    """Return where the settings are kept: `settings.json` in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("ckptdiff", appauthor=False)) / "settings.json"


def load_settings(file: Path) -> tuple[Settings, str | None]:
    """Return the settings and, where they could not be read, a sentence that says so."""
    try:
        return _settings(json.loads(file.read_bytes())), None
    except FileNotFoundError:
        return Settings(), None
    except OSError as error:
        return Settings(), f"{file}: {error.strerror}. Defaults are used."
    except (ValueError, KeyError, TypeError, RecursionError):
        return Settings(), f"{file} is not readable as settings. Defaults are used."


def _settings(values: dict[str, Any]) -> Settings:
    if values["version"] != VERSION:
        raise ValueError("another version")
    settings = Settings(
        recent=tuple(RecentPair(**pair) for pair in values["recent"][:RECENT_PAIRS]),
        theme=values["theme"],
        sort=values["sort"],
        differences_only=values["differences_only"],
    )
    words = [settings.sort, settings.theme or "", *(w for p in settings.recent for w in (p.a, p.b))]
    numbers = [n for pair in settings.recent for n in (pair.at, pair.differences)]
    if not all(isinstance(word, str) for word in [*words, *(p.verdict for p in settings.recent)]):
        raise TypeError("a word is not a string")
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError("a number is not a number")
    return settings


def save_settings(settings: Settings, file: Path) -> None:
    """Write the settings at once, so that no reader sees half of them. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
