"""Findings about names: what wrappers put into them, and adapters that are not merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name
from ckptdiff.arch.wrappers import adders
from ckptdiff.assembly.unwrapping import changed_names
from ckptdiff.conversion.command import command_of
from ckptdiff.conversion.destination import proposed_out
from ckptdiff.results import Finding
from ckptdiff.text import shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptdiff.assembly.adapters import Adapter
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.assembly.unwrapping import NameChange
    from ckptdiff.conversion.plan import Target
    from ckptdiff.results import TensorDiff


def name_findings(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], target: Target
) -> Iterator[Finding]:
    """Yield what wrappers changed in B's names, one finding for all, and what adapters are there.

    `target` writes B again as it is: a conversion leaves the wrappers out.
    """
    changes = changed_names(a, b)
    faults = tuple(change for change in changes if change.is_fault)
    others = tuple(c for c in changes if not c.is_fault and c.kind in ("lacks", "spelled"))
    if faults:
        command = command_of(b.checkpoint.root, proposed_out(b.checkpoint, target), target)
        yield _finding_of_changes(b, faults, shell_line(command))
    if others:
        yield _finding_of_changes(b, others, None)
    same = sum(result.status == "same" for result in results)
    if all(side.adapter is not None and side.adapter.is_alone for side in (a, b)):
        return
    if b.adapter is not None and not _has_all(a, b.adapter):
        yield _adapter_of_b(a, b.adapter, same)
    if a.adapter is not None and not _has_all(b, a.adapter):
        yield _adapter_of_a(a.adapter, same)


def _finding_of_changes(
    b: Assembled, changes: Sequence[NameChange], command: str | None
) -> Finding:
    """Return the one finding of changes of names; `command` mends it, None where none is needed."""
    assert b.wrapping is not None
    stored = frozenset().union(*(change.names for change in changes))
    touched = [name for name, t in b.tensors.items() if any(p.ref.name in stored for p in t.pieces)]
    by = " and ".join(adders(p for change in changes for p in change.stored.split(".")))
    if command is not None:
        who = f"{by} added it. " if by else ""
        evidence = (
            f"{who}A loader does not find tensors under names such as {min(stored)}, and leaves "
            "them as it initialised them. They were compared under the names without it"
        )
    elif all(change.kind == "lacks" for change in changes):
        evidence = "transformers adds it when it loads the model with a head"
    else:
        evidence = (
            "which spelling a loader finds depends on the class of the model and on its release"
        )
    return Finding(
        "NAMES",
        "info" if command is None else "fault",
        ", and ".join(change.words(b.wrapping.of, " of B") for change in changes),
        tensors=tuple(touched),
        evidence=evidence,
        fix=command,
        cause=f"saved from inside {by}" if by and command is not None else "",
    )


def _has_all(side: Assembled, adapter: Adapter) -> bool:
    return all(name in side.tensors for name in adapter.names)


def _adapter_of_b(a: Assembled, adapter: Adapter, same: int) -> Finding:
    """Return the finding of an adapter that B has and A has not."""
    layers = {numbers[0] for _, numbers in map(split_name, adapter.names) if numbers}
    if adapter.is_alone:
        title = f"B is {adapter.words}, not a model"
        evidence = "B has no weights of the model itself, so there was nothing to compare"
        known = [host for host in adapter.hosts if host in a.tensors]
        if known:
            fit = "all" if len(known) == len(adapter.hosts) else f"{len(known)}"
            evidence += f"; {fit} of the {len(adapter.hosts)} weights that it changes are in A"
    else:
        title = f"B holds {adapter.words}; it is not merged"
        evidence = f"without it {_are_same(same)}; with it the model computes something else"
    return Finding(
        "EXTRA",
        "fault",
        title,
        tensors=adapter.names,
        layers=tuple(sorted(layers)),
        evidence=evidence,
    )


def _adapter_of_a(adapter: Adapter, same: int) -> Finding:
    """Return the note on an adapter of the reference that B does not have."""
    what = f"A is {adapter.words}, not a model" if adapter.is_alone else f"A holds {adapter.words}"
    return Finding(
        "EXTRA",
        "info",
        f"{what}; B does not have its tensors",
        tensors=adapter.names,
        evidence=f"{_are_same(same)}. Whether B's weights have it merged into them "
        "was not computed",
    )


def _are_same(count: int) -> str:
    if not count:
        return "no tensor is the same"
    return "1 tensor is the same" if count == 1 else f"{count} tensors are the same"
