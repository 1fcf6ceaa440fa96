"""List what the files of a side hold."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from ckptdiff.tui.messages import FilesListed
from ckptdiff.tui.model.stored import held_files
from ckptdiff.tui.workers.read_compare import MANY_NAMES, without_blocking_the_screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message import Message

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.tui.model.files import Tally
    from ckptdiff.tui.model.stored import HeldFile


def list_files(
    run: int,
    side: Assembled,
    count: Callable[[HeldFile], Tally],
    post: Callable[[Message], object],
) -> None:
    """List the files of a side and count how what they hold compares, and post that."""
    with without_blocking_the_screen():
        held = held_files(side)
        tallies = {file: count(file) for file in held.files}
        if len(side.tensors) > MANY_NAMES:
            gc.freeze()
        post(FilesListed(run, held, tallies))
