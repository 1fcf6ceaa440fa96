"""Pair tensors by content where nothing says what their names mean: by rows that are equal."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import fill_template, split_name
from ckptdiff.assembly.by_name import name_without_rank, shards_of_one_name
from ckptdiff.assembly.compose import RecipePart, compose
from ckptdiff.assembly.recipe import Assembly, Copy, Piece
from ckptdiff.assembly.row_digests import common_dtype, digests_of_rows
from ckptdiff.assembly.views import matrix_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

    from ckptdiff.assembly.recipe import Assembled

    Key = tuple[int, bytes]  # columns, digest of a row
    Progress = Callable[[int, int], object]  # (tensors read, tensors in all)
    # What the tensors of a template are made of: templates of stored tensors, and which rows.
    Layout = tuple[tuple[str, int, int], ...]

_MAX_CANDIDATES = 32  # equal rows that are tried for one row: rows of zeros occur everywhere
_SHOWN = 4  # runs of rows, or tensors, that a note names


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive rows of a stored tensor."""

    source: str
    start: int
    count: int

    def __str__(self) -> str:
        return f"{self.source}[{self.start}:{self.start + self.count}]"


def can_match(a: Assembled, b: Assembled) -> bool:
    """Return whether there are tensors to pair by equal rows.

    There are if a side is read without the rules of its family, and both sides have tensors without
    a partner by name.
    """
    if a.family is not None and b.family is not None:
        return False
    if not any(side.checkpoint.convention == "megatron" or _is_unnamed(side) for side in (a, b)):
        return False  # both use canonical names, so equal names are the only pairs
    if any(side.adapter is not None and side.adapter.is_alone for side in (a, b)):
        return False  # an adapter has no rows of the model
    return bool(_unpaired(a, b) and _unpaired(b, a))


def match_by_content(
    a: Assembled, b: Assembled, executor: Executor, progress: Progress | None = None
) -> tuple[Assembled, Assembled]:
    """Return both sides, with tensors that have no partner by name paired by equal rows.

    The layout that most tensors of one template are found in is that of all of them, numbers of
    layers and experts being the same on both sides. A tensor whose rows lie elsewhere is compared
    under it all the same. `progress` is called with the number of tensors read and of all; an
    exception that it raises ends the matching.
    """
    if not can_match(a, b):
        return a, b
    if _is_unnamed(b):
        return a, _match_in(b, a, executor, progress)
    return _match_in(a, b, executor, progress), b


def _is_unnamed(side: Assembled) -> bool:
    """Return whether nothing says what the names of a side mean.

    Such are Megatron's without rules, and those of a training program that saved no config.json.
    """
    checkpoint = side.checkpoint
    if side.family is not None:
        return False
    return checkpoint.convention == "megatron" or (
        checkpoint.chunks is not None and not checkpoint.config
    )


def _unpaired(side: Assembled, other: Assembled) -> dict[str, Assembly]:
    return {n: t for n, t in side.tensors.items() if n not in other.tensors and 0 not in t.shape}


def _match_in(
    stored: Assembled, named: Assembled, executor: Executor, progress: Progress | None
) -> Assembled:
    """Return `stored` with tensors of `named` assembled from its rows."""
    wanted, available = _unpaired(named, stored), _unpaired(stored, named)
    joined = dict(joined_by_columns(available, {t.shape for t in wanted.values()}))
    held = {**available, **{name: tensor for name, (tensor, _) in joined.items()}}
    rows = _Rows(*_read(wanted, held, executor, progress), held)
    runs = {name: rows.cover(name, tensor) for name, tensor in wanted.items()}
    layouts, contested = _layouts({name: found for name, found in runs.items() if found})
    found: dict[str, Assembly] = {}
    used: dict[str, set[int]] = defaultdict(set)
    for name, tensor in wanted.items():
        place = _place(name, layouts) or runs[name]
        if not place or any(run.source not in held for run in place):
            continue
        assembly = _assembled_from(tensor, place, held)
        if assembly is None:
            continue
        where, lies = _shown(place), _shown(runs[name])
        note = f"compared with {where}, where equal rows of its like were found"
        if not runs[name]:
            note += "; some of its own are nowhere"
        elif runs[name] != place:
            note += f"; its own are in {lies}"
        found[name] = _with_copies(replace(assembly, note=note, by_content=True), place, rows)
        for run in place:
            for source in rows.copies_of(run.source):
                used[source].update(range(run.start, run.start + run.count))
    explained = {name for name, taken in used.items() if len(taken) == len(rows.held[name])}
    explained |= {part for name, (_, parts) in joined.items() if name in used for part in parts}
    tensors = {name: t for name, t in stored.tensors.items() if name not in explained}
    notes = [f"nothing says what its names mean: {len(found)} of {len(wanted)} tensors were "
             "paired by equal rows, and equal ones are `matched`, not `same`"]  # fmt: skip
    if contested:
        names = [f"{name} in {_shown(runs[name])}" for name in contested]
        notes.append(f"in no single layout: {'; '.join(names)}")
    return replace(stored, tensors={**tensors, **found}, notes=(*stored.notes, *notes))


def joined_by_columns(
    available: Mapping[str, Assembly], shapes: set[tuple[int, ...]]
) -> Iterator[tuple[str, tuple[Assembly, list[str]]]]:
    """Yield what the shards of all ranks make up by columns, as vectors too, and their names.

    Only where a tensor of such a shape, one of `shapes`, is wanted. By rows, each shard is found by
    itself.
    """
    for name, labels in shards_of_one_name(available).items():
        shards = [available[label] for label in labels]
        shape, dtype = shards[0].shape, shards[0].dtype
        if any((s.shape, s.dtype) != (shape, dtype) for s in shards) or not shape:
            continue
        *rest, each = shape
        whole = (*rest, each * len(shards))
        if whole in shapes and name not in available:
            box = [(0, n) for n in rest]
            parts = [
                RecipePart(s, (*box, (0, each)), (*box, (at * each, (at + 1) * each)))
                for at, s in enumerate(shards)
            ]
            yield name, (compose(name, whole, dtype, parts), labels)


def _read(
    wanted: Mapping[str, Assembly],
    held: Mapping[str, Assembly],
    executor: Executor,
    progress: Progress | None,
) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """Return the digests of the rows of both sides, by name."""
    # One name may be on both sides: `a` or `b` in front keeps them apart.
    both = {**{f"a{n}": t for n, t in wanted.items()}, **{f"b{n}": t for n, t in held.items()}}
    found: dict[str, dict[str, list[bytes]]] = {"a": {}, "b": {}}
    if progress is not None:
        progress(0, len(both))
    dtype = common_dtype(both.values())
    for done, (key, digests) in enumerate(digests_of_rows(both, dtype, executor), 1):
        found[key[0]][key[1:]] = digests
        if progress is not None:
            progress(done, len(both))
    return found["a"], found["b"]


class _Rows:
    """The rows of both sides, and where each is held."""

    def __init__(
        self,
        wanted: Mapping[str, list[bytes]],
        held: Mapping[str, list[bytes]],
        tensors: Mapping[str, Assembly],
    ) -> None:
        self.wanted = wanted
        self.held = held
        self.tensors = tensors
        self.of_name: dict[str, list[str]] = defaultdict(list)
        for label in tensors:
            self.of_name[name_without_rank(label)].append(label)
        self.places: dict[Key, list[tuple[str, int]]] = defaultdict(list)
        self.used: dict[str, set[int]] = defaultdict(set)
        for name, digests in held.items():
            width = matrix_shape(tensors[name].shape)[1]
            for row, digest in enumerate(digests):
                self.places[width, digest].append((name, row))

    def cover(self, name: str, tensor: Assembly) -> list[Run]:
        """Return runs of held rows that make up all rows of a wanted tensor, in order.

        Empty if a row is nowhere. At each row the longest run is taken; of equal ones one with the
        tensor's own numbers, then one that is not used yet: norms are often identical.
        """
        rows, numbers = self.wanted[name], split_name(name)[1]
        width = matrix_shape(tensor.shape)[1]
        runs: list[Run] = []
        at = 0
        while at < len(rows):
            best: tuple[tuple[int, bool, bool], Run] | None = None
            for source, row in self._candidates((width, rows[at]), numbers):
                held, count = self.held[source], 1
                while (
                    at + count < len(rows)
                    and row + count < len(held)
                    and held[row + count] == rows[at + count]
                ):
                    count += 1
                fresh = row not in self.used.get(source, ())
                rank = (count, split_name(source)[1] == numbers, fresh)
                if best is None or rank > best[0]:
                    best = rank, Run(source, row, count)
            if best is None:
                return []
            runs.append(best[1])
            at += best[1].count
        for run in runs:
            self.used[run.source].update(range(run.start, run.start + run.count))
        return runs

    def _candidates(self, key: Key, numbers: tuple[int, ...]) -> list[tuple[str, int]]:
        """Return places of equal rows, at most `_MAX_CANDIDATES`; those of the numbers first."""
        found = self.places.get(key, [])
        if len(found) <= _MAX_CANDIDATES:
            return found
        own = [place for place in found if split_name(place[0])[1] == numbers]
        return [*own, *found][:_MAX_CANDIDATES]

    def copies_of(self, source: str) -> list[str]:
        """Return a held tensor, and the other ranks' tensors of its name that have equal rows."""
        others = self.of_name[name_without_rank(source)]
        return [label for label in others if self.held[label] == self.held[source]]


def _layouts(runs: Mapping[str, list[Run]]) -> tuple[dict[str, Layout], list[str]]:
    """Return the layout of each template of wanted tensors, and the names without a single one.

    It is the one that most of its tensors are found in, at their own numbers if any is.
    """
    votes: dict[str, Counter[Layout]] = defaultdict(Counter)
    at_home: dict[str, Counter[Layout]] = defaultdict(Counter)
    names: dict[str, list[str]] = defaultdict(list)
    for name, found in runs.items():
        key, numbers = split_name(name)
        if not numbers:
            continue  # one of its kind: nothing to compare it with
        split = [(split_name(run.source), run) for run in found]
        layout = tuple((source, run.start, run.count) for (source, _), run in split)
        names[key].append(name)
        votes[key][layout] += 1
        if all(own == numbers for (_, own), _ in split):
            at_home[key][layout] += 1
    layouts: dict[str, Layout] = {}
    contested: list[str] = []
    for key, counted in votes.items():
        (layout, most), *others = (at_home[key] or counted).most_common(2)
        if (others and others[0][1] == most) or (not at_home[key] and len(names[key]) == 1):
            contested += names[key]
        else:
            layouts[key] = layout
    return layouts, contested


def _place(name: str, layouts: Mapping[str, Layout]) -> list[Run]:
    """Return where a tensor has to lie by the layout of its template; empty without one."""
    key, numbers = split_name(name)
    layout = layouts.get(key, ())
    if any(source.count("#") != len(numbers) for source, _, _ in layout):
        return []
    return [Run(fill_template(source, numbers), start, count) for source, start, count in layout]


def _shown(runs: list[Run]) -> str:
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return ", ".join(map(str, runs[:_SHOWN])) + more


def _assembled_from(
    tensor: Assembly, runs: list[Run], held: Mapping[str, Assembly]
) -> Assembly | None:
    """Return the tensor as pieces of the stored ones; None if these are not plain matrices."""
    if len(runs) == 1 and held[runs[0].source].shape == tensor.shape:
        return replace(held[runs[0].source], name=tensor.name)
    if len({held[run.source].dtype for run in runs}) > 1 or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape
    parts: list[RecipePart] = []
    at = 0
    for run in runs:
        source = held[run.source]
        last = run.start + run.count
        if len(source.shape) != 2 or source.shape[1] != columns or last > source.shape[0]:
            return None
        across = (0, columns)
        parts.append(
            RecipePart(source, ((run.start, last), across), ((at, at + run.count), across))
        )
        at += run.count
    if at != rows:
        return None
    return compose(tensor.name, tensor.shape, held[runs[0].source].dtype, parts)


def _with_copies(assembly: Assembly, runs: list[Run], rows: _Rows) -> Assembly:
    """Return a tensor that one rank's stored tensor is, with the others' equal ones as copies."""
    if len(runs) > 1 or len(assembly.pieces) > 1:
        return assembly
    (piece,) = assembly.pieces
    copies = [
        Copy(other.pieces[0].ref, other.pieces[0].rank)
        for label in rows.copies_of(runs[0].source)
        for other in [rows.tensors[label]]
        if label != runs[0].source and len(other.pieces) == 1
    ]
    whole = Piece(piece.ref, piece.rank, piece.of, piece.box, (*piece.copies, *copies))
    return replace(assembly, pieces=(whole,))
