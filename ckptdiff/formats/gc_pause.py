"""Pause Python's garbage collection while many lasting objects are made."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause garbage collection for code that makes many lasting objects and no cycles.

    With hundreds of thousands of them a collection finds nothing, and a full one freezes the
    screen.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
