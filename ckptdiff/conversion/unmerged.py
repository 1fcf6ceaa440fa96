"""Leave an adapter that is not merged out of a conversion, where that is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.plan import Target


def without_adapter(
    source: Assembled, target: Target, notes: list[str]
) -> tuple[Assembled, tuple[str, ...]]:
    """Return a source without its adapter's tensors, and their names; adds to `notes`.

    Raises UnsupportedLayout if it is nothing but an adapter, or if tensors must not be left out.
    """
    adapter = source.adapter
    if adapter is None:
        return source, ()
    if adapter.is_alone:
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: is {adapter.words}, not a model; convert its model, with "
            "this adapter added"
        )
    if not target.allow_unmapped:
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: holds {adapter.words}, which is not merged; it can be "
            "merged meanwhile, or left out",
            hint="merge",
        )
    notes.append(f"left out: {adapter.words}, which is not merged")
    tensors = {n: t for n, t in source.tensors.items() if n not in adapter.names}
    return replace(source, tensors=tensors, adapter=None), adapter.names
