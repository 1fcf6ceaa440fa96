"""How the thread of a worker is held up in a test."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textual.worker import get_current_worker

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    import threading


def may_go_on(released: threading.Event) -> bool:
    """Wait until this thread may go on; return False if the app ends, which waits for threads."""
    app = get_current_worker().node.app
    end = time.monotonic() + PATIENCE
    while not released.wait(0.02):
        if not app.is_running or time.monotonic() > end:
            return False
    return True
