"""How a side's names were read, and the adapter it holds, as objects of the JSON documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled


def names_document(side: Assembled) -> list[dict[str, Any]]:
    """Return how stored names differ from those that are read, one object for each change."""
    if side.wrapping is None:
        return []
    return [
        {
            "change": change.kind,
            "stored": change.stored,
            "read": change.read,
            "names": len(change.names),
            "of": side.wrapping.of,
            "severity": "fault" if change.is_fault else "info",
        }
        for change in side.wrapping.changes
    ]


def merging_document(side: Assembled) -> dict[str, Any] | None:
    """Return which adapter is added to the weights of a side; None if none is."""
    merging = side.merging
    if merging is None:
        return None
    return {
        "path": str(merging.root),
        "what": merging.words,
        "changes": list(merging.pairs),
        "replaces": list(merging.replaced),
    }


def adapter_document(side: Assembled) -> dict[str, Any] | None:
    """Return what the adapter of a side is; `alone` says that nothing else is there."""
    adapter = side.adapter
    if adapter is None:
        return None
    return {
        "kind": adapter.kind,
        "ranks": adapter.ranks,
        "alpha": adapter.alpha,
        "targets": adapter.targets,
        "tensors": len(adapter.names),
        "alone": adapter.is_alone,
    }
