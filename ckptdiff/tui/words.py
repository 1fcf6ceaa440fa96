"""Numbers and names as the screens print them."""

from __future__ import annotations

from math import ceil


def format_duration(seconds: float) -> str:
    """Return a time as a person says it: `0.4 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def format_eta(seconds: float) -> str:
    """Return a time that is left, never zero while something is left."""
    return f"{max(1, ceil(seconds))} s" if seconds < 60 else format_duration(seconds)


def format_ago(seconds: float) -> str:
    """Return how long ago: `just now`, `5 min ago`, `2 h ago`, `yesterday`, `3 days ago`."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 24 * 3600:
        return f"{seconds // 3600:.0f} h ago"
    days = int(seconds // (24 * 3600))
    return "yesterday" if days == 1 else f"{days} days ago"


def plural(count: int, noun: str) -> str:
    """Return `1 tensor`, `2 tensors`, `92,000 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
