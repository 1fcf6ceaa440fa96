"""Findings of tensors that were not compared: one side lacks them, or has them in another shape."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.adapters import unmatched_by_adapter
from ckptdiff.assembly.by_name import name_without_rank, shards_of_one_name, unused_tensors
from ckptdiff.assembly.packed import without_parts
from ckptdiff.assembly.row_matching import joined_by_columns
from ckptdiff.diagnosis.content_search import ContentSearch
from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.diagnosis.other_forms import in_other_forms
from ckptdiff.diagnosis.reshaped import reshaped
from ckptdiff.results import Finding
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.diagnosis.content_search import FoundAt
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.results import TensorDiff

_SHOWN = 3  # tensors that an evidence tells one by one


def unpaired(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], executor: Executor
) -> Generator[Finding, None, None]:
    """Yield findings of tensors that one side lacks, or has in another shape.

    Their content is looked for in what the other side has left. Reads nothing if there is nothing
    to look for, or nowhere to look.
    """
    missing_shards = {name: e.text for name, e in b.errors.items() if e.kind == "missing-shard"}
    incomplete = [r.name for r in results if r.name in missing_shards]
    if incomplete:
        yield _finding_of_names(
            "TP-DUP",
            f"{plural(len(incomplete), 'tensor')} of B without the shards of some ranks",
            incomplete, missing_shards[incomplete[0]],
        )  # fmt: skip
    search = _search(a, b, results, executor)
    resized = [r for r in results if r.status == "shape"]
    explained = unmatched_by_adapter(a, b)
    absent = [r.name for r in results if r.status == "only_a" and r.name not in explained]
    taken: set[str] = set()
    if absent:
        found = yield from _absent(search, absent)
        taken.update(found)
    alike = {r.name for r in results if r.shape_a is not None and r.shape_a == r.shape_b}
    yield from reshaped(search, resized, a.architecture or b.architecture, alike)
    yield from _extra(b, search, results, taken, explained)


def _search(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], executor: Executor
) -> ContentSearch:
    """Return the search among what both sides have left; read, if there is anything to find.

    `results` may be those of some tensors only: the others are where a content may be all the same.
    """
    if not any(r.status in ("only_a", "only_b", "shape") for r in results) and not b.unmapped:
        return ContentSearch({}, {}, executor)
    left_a, left_b = (
        {
            name: tensor
            for name, tensor in without_parts(side).tensors.items()
            if name not in other.errors
            and name not in other.packed
            and (name not in other.tensors or other.tensors[name].shape != tensor.shape)
        }
        for side, other in ((a, b), (b, a))
    )
    left_a |= {name: t for name, t in unused_tensors(a).items() if name not in left_a}
    left_b |= {name: t for name, t in unused_tensors(b).items() if name not in left_b}
    shapes = {tensor.shape for tensor in left_a.values()}
    left_b |= {name: tensor for name, (tensor, _) in joined_by_columns(left_b, shapes)}
    shapes = {tensor.shape for tensor in left_b.values()}
    left_a |= {name: tensor for name, (tensor, _) in joined_by_columns(left_a, shapes)}
    search = ContentSearch(left_a, left_b, executor)
    search.run()
    return search


def _absent(search: ContentSearch, names: list[str]) -> Generator[Finding, None, set[str]]:
    """Yield what became of tensors that B does not have by name; return what they are in B."""
    places = {name: search.where("a", name) if search.b else [] for name in names}
    found = [name for name in names if places[name]]
    lost = [name for name in names if not places[name]]
    taken = {place.name for name in found for place in places[name]}
    if found:
        evidence = _told(search, found, places, "B")
        yield _of_other_names(found, "", evidence, _advice(found, "A", "B"))
    if not lost:
        return taken
    left = search.b.keys() - _used_up(search, places)
    others = in_other_forms(search, lost, left)
    for form in dict.fromkeys(other.form for other in others.values()):
        alike = [name for name in lost if name in others and others[name].form == form]
        told = "; ".join(f"`{name}` is {others[name].told}" for name in alike[:_SHOWN])
        more = f" and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
        yield _of_other_names(alike, f", {form}", f"equal content: {told}{more}")
    sources = {source for other in others.values() for source in other.sources}
    lost = [name for name in lost if name not in others]
    if lost:
        yield _missing(search, lost, left - sources)
    return taken | sources


def _of_other_names(names: list[str], form: str, evidence: str, fix: str | None = None) -> Finding:
    count = len(names)
    title = (
        f"{plural(count, 'tensor')} of A {'is' if count == 1 else 'are'} in B under "
        f"{'another name' if count == 1 else 'other names'}{form}"
    )
    return _finding_of_names("NAMES", title, names, evidence, fix)


def _used_up(search: ContentSearch, places: Mapping[str, list[FoundAt]]) -> set[str]:
    """Return B's tensors all of whose rows, or elements, are those of tensors of A."""
    used: dict[str, set[int]] = defaultdict(set)
    for found in places.values():
        for place in found:
            used[place.name].update(range(place.start, place.stop))
    rows = search.rows["b"]
    return {
        name
        for name, taken in used.items()
        if len(taken) in (len(rows.get(name, ())), prod(search.b[name].shape))
    }


def _missing(search: ContentSearch, lost: list[str], left: Collection[str]) -> Finding:
    near = search.could_be(lost, left)
    where = f"{'it is' if len(lost) == 1 else 'they are'} in nothing of B that is read"
    if near:
        others = plural(len(search.b), "unpaired tensor")
        where = f"not found by content among the {others} of B"
        if search.unread:
            where += f", {search.unread} of which could not be read"
        where += "; compare those by hand, since B may have them in another form"
        if len(near) < len(lost):
            gone = len(lost) - len(near)
            where += f". For {gone} of them nothing of that size is there: convert again"
    verb = "is" if len(lost) == 1 else "are"
    found = _finding_of_names(
        "MISSING", f"{plural(len(lost), 'tensor')} of A {verb} not in B", lost, where
    )
    return replace(found, is_lost=not near)


def _extra(
    b: Assembled,
    search: ContentSearch,
    results: Sequence[TensorDiff],
    taken: set[str],
    explained: Collection[str],
) -> Generator[Finding, None, None]:
    """Yield findings of tensors that A does not have by name: parts of A's, or none of them."""
    packed = {part for weight in b.packed.values() for part in weight.parts}
    unmapped = set(b.unmapped)
    shards = shards_of_one_name(search.b)
    taken |= {label for name, labels in shards.items() if name in taken for label in labels}
    copies: dict[str, list[str]] = defaultdict(list)
    for label in search.b:
        copies[name_without_rank(label)].append(label)
    for labels in copies.values():
        rows = [search.rows["b"].get(label) for label in labels if label in taken]
        taken |= {x for x in labels if search.rows["b"].get(x) in rows}
    names = [r.name for r in results if r.status == "only_b"]
    names += [n for n, t in search.b.items() if unmapped.intersection(p.ref.name for p in t.pieces)]
    left_out = taken | packed | set(explained) | search.a.keys() | shards.keys()
    extra = [name for name in dict.fromkeys(names) if name not in left_out]
    places = {name: search.where("b", name) if name in search.b else [] for name in extra}
    parts = [name for name in extra if places[name]]
    extra = [name for name in extra if not places[name]]
    whole = _whole(search, parts, places)
    if whole:
        are = "is A's under another name" if len(whole) == 1 else "are A's under other names"
        yield _finding_of_names(
            "NAMES",
            f"{plural(len(whole), 'tensor')} of B {are}",
            whole,
            _told(search, whole, places, "A"),
            _advice(whole, "B", "A"),
        )
    parts = [name for name in parts if name not in whole]
    if parts:
        are = "is rows" if len(parts) == 1 else "are rows"
        yield _finding_of_names(
            "PART",
            f"{plural(len(parts), 'tensor')} of B {are} of A's under other names",
            parts,
            _told(search, parts, places, "A"),
        )
    if not extra:
        return
    verb = "is" if len(extra) == 1 else "are"
    they, their = ("it", "its") if len(extra) == 1 else ("they", "their")
    evidence = f"nothing of A is left that {they} could be"
    if search.a:
        evidence = f"none of the {plural(len(search.a), 'unpaired tensor')} of A has {their} rows"
        if len(search.a) == 1:
            evidence = f"the 1 unpaired tensor of A has not {their} rows"
    yield _finding_of_names(
        "EXTRA", f"{plural(len(extra), 'tensor')} of B {verb} not in A", extra, evidence
    )


def _whole(
    search: ContentSearch, names: Sequence[str], places: Mapping[str, list[FoundAt]]
) -> list[str]:
    """Return the tensors of B that together are whole tensors of A, nothing of these left over."""
    held: dict[str, set[int]] = {}
    for name in names:
        for place in places[name]:
            held.setdefault(place.name, set()).update(range(place.start, place.stop))
    return [
        name
        for name in names
        if all(len(held[place.name]) == search.size("a", place) for place in places[name])
    ]


def _told(
    search: ContentSearch, names: list[str], places: Mapping[str, list[FoundAt]], other: str
) -> str:
    """Return in words where the rows of some tensors are on the other side."""
    told = [f"`{name}` is {search.told(places[name], other)}" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"equal rows: {'; '.join(told)}{more}"


def _advice(names: Sequence[str], one: str, other: str) -> str:
    """Return what names the loader of one side's class needs the other side's tensors under."""
    more = f" and {len(names) - 1} more, as {one} has them" if len(names) > 1 else ""
    return f"a loader of {one}'s class looks for `{names[0]}`{more}: {other} has to be renamed so"


def _finding_of_names(
    kind: FaultClass, title: str, names: Sequence[str], evidence: str, fix: str | None = None
) -> Finding:
    """Return a finding of tensors that cannot be compared, by their Hugging Face names."""
    return Finding(
        kind,
        "fault",
        title,
        tensors=tuple(names),
        layers=layers_of(names),
        experts=experts_of(names),
        evidence=evidence,
        fix=fix,
    )
