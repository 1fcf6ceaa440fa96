"""Where a side is not what its config promises, as text and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.assembly.shortfall_words import shortfall_lines
from ckptdiff.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembled


def shortfall_document(side: Assembled) -> dict[str, Any]:
    """Return where a side is not what its config promises, as fields of the JSON documents."""
    short = side.shortfall
    return {
        "lacking": list(short.lacking),
        "beyond": list(short.beyond),
        "misfits": [
            {"name": one.name, "shape": one.shape, "promised": one.promised}
            for one in short.misfits
        ],
    }


def incomplete_lines(side: Assembled) -> Iterator[str]:
    """Yield lines that say where a side is not what its config promises; none if it is."""
    for line in shortfall_lines(side):
        yield f"✗  {printable(line)}"
