"""Find tensors by their content where no rule tells which is which: equal rows, bit by bit."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.recipe import Assembly, Piece
from ckptdiff.assembly.views import matrix_shape, view_of
from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.kernels.views import View

    Key = tuple[str, int, bytes]  # dtype, columns, digest of a row
    Run = tuple[str, int, int]  # stored tensor, its first row, rows
    Progress = Callable[[int, int], object]  # tensors read, tensors in all

_CANDIDATES = 32  # places of one row that are tried: rows of zeros are everywhere


def can_match(a: Assembled, b: Assembled) -> bool:
    """Return whether there is anything to pair by equal rows: where a side has no rules."""
    if a.architecture is not None and b.architecture is not None:
        return False
    if "megatron" not in (a.checkpoint.convention, b.checkpoint.convention):
        return False  # names are all there is to go by, and they are meant to be equal
    return bool(_unpaired(a, b) and _unpaired(b, a))


def match_by_content(
    a: Assembled, b: Assembled, executor: Executor, progress: Progress | None = None
) -> tuple[Assembled, Assembled]:
    """Return both sides, what has no partner by name paired by equal rows as far as it goes.

    Only where a side has no rules. Shards cut along their columns share no whole row with the
    tensor they come from: they stay unpaired, and are listed so. `progress` is called with the
    number of tensors that were read and of all; what it raises ends the matching.
    """
    if not can_match(a, b):
        return a, b
    if b.checkpoint.convention != "megatron" or b.architecture is not None:
        return _found_in(a, b, executor, progress), b
    return a, _found_in(b, a, executor, progress)


def _unpaired(side: Assembled, other: Assembled) -> dict[str, Assembly]:
    return {n: t for n, t in side.tensors.items() if n not in other.tensors and 0 not in t.shape}


def _found_in(
    stored: Assembled, named: Assembled, executor: Executor, progress: Progress | None
) -> Assembled:
    """Return `stored` with tensors of `named` put together from its rows."""
    wanted, there = _unpaired(named, stored), _unpaired(stored, named)
    both = {**{f"a{n}": t for n, t in wanted.items()}, **{f"b{n}": t for n, t in there.items()}}
    rows: dict[str, list[bytes]] = {}
    held: dict[str, list[bytes]] = {}
    if progress is not None:
        progress(0, len(both))
    for done, (key, row_digests) in enumerate(_digests(both, executor), 1):
        if row_digests:
            (rows if key[0] == "a" else held)[key] = row_digests
        if progress is not None:
            progress(done, len(both))
    index: dict[Key, list[tuple[str, int]]] = defaultdict(list)
    for key, row_digests in held.items():
        tensor = there[key[1:]]
        width = matrix_shape(tensor.shape)[1]
        for row, digest in enumerate(row_digests):
            index[tensor.dtype, width, digest].append((key[1:], row))
    used: dict[str, set[int]] = defaultdict(set)
    found: dict[str, Assembly] = {}
    for name, tensor in wanted.items():
        runs = _cover(tensor, rows.get(f"a{name}", []), index, held, used)
        made = _made(tensor, runs, there) if runs else None
        if progress is not None:
            progress(len(both), len(both))
        if made is not None and runs is not None:
            found[name] = made
            for source, start, count in runs:
                used[source].update(range(start, start + count))
    explained = {name for name, taken in used.items() if len(taken) == len(held[f"b{name}"])}
    tensors = {name: t for name, t in stored.tensors.items() if name not in explained}
    note = f"no rule was used: {len(found)} of {len(wanted)} tensors were found by equal rows"
    return replace(stored, tensors={**tensors, **found}, notes=(*stored.notes, note))


def _digests(
    tensors: Mapping[str, Assembly], executor: Executor
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield a digest of every row of each tensor; none for one that does not lie in whole rows."""
    futures: dict[str, Future[list[bytes]]] = {}
    try:
        for name, tensor in tensors.items():
            views = _rows_of(tensor)
            if views is not None:
                futures[name] = executor.submit(digest_rows, views)
        for name, tensor in tensors.items():
            row_digests: list[bytes] = []
            if name in futures:
                # Where this fails, comparing it will say what is wrong.
                with suppress(CkptDiffError):
                    row_digests = futures[name].result()
            yield name, row_digests if len(row_digests) == matrix_shape(tensor.shape)[0] else []
    finally:
        for future in futures.values():
            future.cancel()


def _rows_of(tensor: Assembly) -> list[View] | None:
    """Return the parts of a tensor from top to bottom, if they are all as wide as it is."""
    try:
        placed = sorted((view_of(p, tensor.shape) for p in tensor.pieces), key=lambda p: p[0])
    except CkptDiffError:
        return None
    columns = matrix_shape(tensor.shape)[1]
    if all(at[1] == 0 and view.shape[1] == columns for at, view in placed):
        return [view for _, view in placed]
    return None


def digest_rows(views: Sequence[View]) -> list[bytes]:
    """Return a digest of each row. Runs in a worker process."""
    from ckptdiff.kernels.rows import row_digests

    return row_digests(views)


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
