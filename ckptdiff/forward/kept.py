"""What a worker keeps from one job of a comparison to the next: values that never leave it."""

from __future__ import annotations

from typing import Any

from ckptdiff.errors import WorkerDied

_kept: dict[str, dict[str, Any]] = {}  # by comparison, then by name


def keep(comparison: str, name: str, value: Any) -> None:
    """Keep a value of a comparison; those of any other are dropped."""
    if comparison not in _kept:
        _kept.clear()
    _kept.setdefault(comparison, {})[name] = value


def kept(comparison: str, name: str) -> Any:
    """Return what was kept. Raises WorkerDied if that was in another process."""
    try:
        return _kept[comparison][name]
    except KeyError:
        raise WorkerDied(
            "the worker that held the values of both models was killed; most often memory ran "
            "out. Try fewer tokens"
        ) from None


def forget(comparison: str) -> None:
    """Drop what is kept of a comparison."""
    _kept.pop(comparison, None)
