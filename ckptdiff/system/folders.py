"""Where the user's settings are kept, and what can be computed again; nowhere without a home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def config_folder() -> Path | None:
    """Return `ckptdiff` in the user's folder of settings; None if there is no home for it."""
    import platformdirs

    return _under_home(lambda: platformdirs.user_config_dir("ckptdiff", appauthor=False))


def cache_folder() -> Path | None:
    """Return `ckptdiff` in the user's folder of caches; None if there is no home for it."""
    import platformdirs

    return _under_home(lambda: platformdirs.user_cache_dir("ckptdiff", appauthor=False))


def _under_home(find: Callable[[], str]) -> Path | None:
    try:
        folder = Path(find())
    except RuntimeError:  # the user has no home: neither HOME nor the system names one
        return None
    # From `~` or a variable that is no absolute path, a folder would come to be where we are.
    if not folder.is_absolute():
        return None
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 -- as it is, if there is none
    if folder.is_relative_to(home) and not home.is_dir():
        return None  # /nonexistent, say: it is not ours to make
    return folder
