"""Find tensors by their content where no rule tells which is which: equal rows, bit by bit."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly import Assembly, Piece
from ckptdiff.errors import CkptDiffError
from ckptdiff.formats import hf, meta
from ckptdiff.views import matrix_shape, view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly import Assembled
    from ckptdiff.tensors import View

    Key = tuple[str, int, bytes]  # dtype, columns, digest of a row
    Run = tuple[str, int, int]  # stored tensor, its first row, rows

_CANDIDATES = 32  # places of one row that are tried: rows of zeros are everywhere


def match_by_content(a: Assembled, b: Assembled, executor: Executor) -> tuple[Assembled, Assembled]:
    """Return both sides, what has no partner by name paired by equal rows as far as it goes.

    Only where a side has no rules. Shards cut along their columns share no whole row with the
    tensor they come from: they stay unpaired, and are listed so.
    """
    if a.architecture is not None and b.architecture is not None:
        return a, b
    formats = {hf.NAME, meta.NAME}
    if formats.issuperset((a.checkpoint.format, b.checkpoint.format)):
        return a, b  # names are all there is to go by, and they are meant to be equal
    if b.checkpoint.format in formats or (b.architecture is not None):
        return _found_in(a, b, executor), b
    return a, _found_in(b, a, executor)


def _found_in(stored: Assembled, named: Assembled, executor: Executor) -> Assembled:
    """Return `stored` with tensors of `named` put together from its rows."""
    wanted = {n: t for n, t in named.tensors.items() if n not in stored.tensors and _volume(t)}
    there = {n: t for n, t in stored.tensors.items() if n not in named.tensors and _volume(t)}
    if not wanted or not there:
        return stored
    rows = dict(_digests({f"a{n}": t for n, t in wanted.items()}, executor))
    held = dict(_digests({f"b{n}": t for n, t in there.items()}, executor))
    index: dict[Key, list[tuple[str, int]]] = defaultdict(list)
    for key, digests in held.items():
        tensor = there[key[1:]]
        width = matrix_shape(tensor.shape)[1]
        for row, digest in enumerate(digests):
            index[tensor.dtype, width, digest].append((key[1:], row))
    used: dict[str, set[int]] = defaultdict(set)
    found: dict[str, Assembly] = {}
    for name, tensor in wanted.items():
        runs = _cover(tensor, rows.get(f"a{name}", []), index, held, used)
        made = _made(tensor, runs, there) if runs else None
        if made is not None and runs is not None:
            found[name] = made
            for source, start, count in runs:
                used[source].update(range(start, start + count))
    explained = {name for name, taken in used.items() if len(taken) == len(held[f"b{name}"])}
    tensors = {name: t for name, t in stored.tensors.items() if name not in explained}
    note = f"no rule was used: {len(found)} of {len(wanted)} tensors were found by equal rows"
    return replace(stored, tensors={**tensors, **found}, notes=(*stored.notes, note))


def _volume(tensor: Assembly) -> int:
    return prod(tensor.shape)


def _digests(
    tensors: Mapping[str, Assembly], executor: Executor
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield a digest of every row, of those tensors that lie in whole rows."""
    futures = []
    for name, tensor in tensors.items():
        try:
            placed = sorted((view_of(p, tensor.shape) for p in tensor.pieces), key=lambda p: p[0])
        except CkptDiffError:
            continue
        rows, columns = matrix_shape(tensor.shape)
        if all(at[1] == 0 and view.shape[1] == columns for at, view in placed):
            futures.append((name, rows, executor.submit(digest_rows, [v for _, v in placed])))
    for name, rows, future in futures:
        try:
            digests = future.result()
        except CkptDiffError:
            continue  # comparing it will say what is wrong
        if len(digests) == rows:
            yield name, digests


def digest_rows(views: Sequence[View]) -> list[bytes]:
    """Return a digest of each row. Runs in a worker process."""
    from ckptdiff.kernels.rows import digests

    return digests(views)


def _cover(
    tensor: Assembly,
    rows: list[bytes],
    index: Mapping[Key, list[tuple[str, int]]],
    held: Mapping[str, list[bytes]],
    used: Mapping[str, set[int]],
) -> list[Run] | None:
    """Return the stored runs that hold all rows in order, longest first; None if some are not."""
    width = matrix_shape(tensor.shape)[1]
    runs: list[Run] = []
    at = 0
    while at < len(rows):
        best: tuple[int, bool, str, int] | None = None
        for name, row in index.get((tensor.dtype, width, rows[at]), ())[:_CANDIDATES]:
            source = held[f"b{name}"]
            count = 1
            while (
                at + count < len(rows)
                and row + count < len(source)
                and source[row + count] == rows[at + count]
            ):
                count += 1
            # Of equals, rows that nobody has claimed: norms are often all alike.
            fresh = row not in used.get(name, ())
            if best is None or (count, fresh) > best[:2]:
                best = (count, fresh, name, row)
        if best is None:
            return None
        runs.append((best[2], best[3], best[0]))
        at += best[0]
    return runs


def _made(tensor: Assembly, runs: list[Run], there: Mapping[str, Assembly]) -> Assembly | None:
    """Return the tensor as pieces of the stored ones; None where those are no runs of rows."""
    pieces: list[Piece] = []
    at = 0
    for name, start, count in runs:
        source = there[name]
        if source.shape == tensor.shape and len(runs) == 1:
            pieces += source.pieces
        elif len(tensor.shape) == len(source.shape) == 2:
            for piece in source.pieces:
                (first, last), across = piece.box
                low, high = max(first, start), min(last, start + count)
                if low < high:
                    down = piece.of[0][0] + low - first
                    of = ((down, down + high - low), piece.of[1])
                    box = ((at + low - start, at + high - start), across)
                    pieces.append(Piece(piece.ref, piece.rank, of, box))
        else:
            return None
        at += count
    shown = ", ".join(f"{name}[{row}:{row + count}]" for name, row, count in runs[:4])
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    note = f"no rule was used: its rows were found in {shown}{more}"
    return Assembly(tensor.name, tensor.shape, tensor.dtype, tuple(pieces), note=note)
