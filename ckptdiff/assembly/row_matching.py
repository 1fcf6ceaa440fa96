"""Pair tensors by content where no rule knows their names: by rows that are equal bit by bit."""

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
    Progress = Callable[[int, int], object]  # (tensors read, tensors in all)

_MAX_CANDIDATES = 32  # equal rows that are tried for one row: rows of zeros occur everywhere


def can_match(a: Assembled, b: Assembled) -> bool:
    """Return whether there are tensors to pair by equal rows.

    There are if a side has no rules and both sides have tensors without a partner by name.
    """
    if a.architecture is not None and b.architecture is not None:
        return False
    if "megatron" not in (a.checkpoint.convention, b.checkpoint.convention):
        return False  # both use canonical names, so equal names are the only pairs
    if any(side.adapter is not None and side.adapter.is_alone for side in (a, b)):
        return False  # an adapter has no rows of the model
    return bool(_unpaired(a, b) and _unpaired(b, a))


def match_by_content(
    a: Assembled, b: Assembled, executor: Executor, progress: Progress | None = None
) -> tuple[Assembled, Assembled]:
    """Return both sides, with tensors that have no partner by name paired by equal rows.

    Only where a side has no rules. Shards that are split along columns share no whole row with the
    tensor that they come from, so they stay unpaired. `progress` is called with the number of
    tensors read and of all; an exception that it raises ends the matching.
    """
    if not can_match(a, b):
        return a, b
    if b.checkpoint.convention != "megatron" or b.architecture is not None:
        return _match_in(a, b, executor, progress), b
    return a, _match_in(b, a, executor, progress)


def _unpaired(side: Assembled, other: Assembled) -> dict[str, Assembly]:
    return {n: t for n, t in side.tensors.items() if n not in other.tensors and 0 not in t.shape}


def _match_in(
    stored: Assembled, named: Assembled, executor: Executor, progress: Progress | None
) -> Assembled:
    """Return `stored` with tensors of `named` assembled from its rows."""
    wanted, available = _unpaired(named, stored), _unpaired(stored, named)
    # One name may be on both sides: `a` or `b` in front keeps them apart.
    both = {**{f"a{n}": t for n, t in wanted.items()}, **{f"b{n}": t for n, t in available.items()}}
    rows: dict[str, list[bytes]] = {}
    stored_rows: dict[str, list[bytes]] = {}
    if progress is not None:
        progress(0, len(both))
    for done, (key, row_digests) in enumerate(_digests(both, executor), 1):
        if row_digests:
            (rows if key[0] == "a" else stored_rows)[key] = row_digests
        if progress is not None:
            progress(done, len(both))
    index: dict[Key, list[tuple[str, int]]] = defaultdict(list)
    for key, row_digests in stored_rows.items():
        tensor = available[key[1:]]
        width = matrix_shape(tensor.shape)[1]
        for row, digest in enumerate(row_digests):
            index[tensor.dtype, width, digest].append((key[1:], row))
    used: dict[str, set[int]] = defaultdict(set)
    found: dict[str, Assembly] = {}
    for name, tensor in wanted.items():
        runs = _cover(tensor, rows.get(f"a{name}", []), index, stored_rows, used)
        assembly = _assembled_from(tensor, runs, available) if runs else None
        if progress is not None:
            progress(len(both), len(both))
        if assembly is not None and runs is not None:
            found[name] = assembly
            for source, start, count in runs:
                used[source].update(range(start, start + count))
    explained = {
        name for name, rows_used in used.items() if len(rows_used) == len(stored_rows[f"b{name}"])
    }
    tensors = {name: t for name, t in stored.tensors.items() if name not in explained}
    note = f"no rule was used: {len(found)} of {len(wanted)} tensors were found by equal rows"
    return replace(stored, tensors={**tensors, **found}, notes=(*stored.notes, note))


def _digests(
    tensors: Mapping[str, Assembly], executor: Executor
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each tensor's name and a digest of every row; none if its pieces are not whole rows."""
    futures: dict[str, Future[list[bytes]]] = {}
    try:
        for name, tensor in tensors.items():
            views = _rows_of(tensor)
            if views is not None:
                futures[name] = executor.submit(digest_rows, views)
        for name, tensor in tensors.items():
            row_digests: list[bytes] = []
            if name in futures:
                # A failure here is reported when the tensor is compared.
                with suppress(CkptDiffError):
                    row_digests = futures[name].result()
            yield name, row_digests if len(row_digests) == matrix_shape(tensor.shape)[0] else []
    finally:
        for future in futures.values():
            future.cancel()


def _rows_of(tensor: Assembly) -> list[View] | None:
    """Return the pieces of a tensor from top to bottom, or None if one is not of whole rows."""
    try:
        placed = sorted((view_of(p, tensor.shape) for p in tensor.pieces), key=lambda p: p[0])
    except CkptDiffError:
        return None
    columns = matrix_shape(tensor.shape)[1]
    if all(at[1] == 0 and view.shape[1] == columns for at, view in placed):
        return [view for _, view in placed]
    return None


def digest_rows(views: Sequence[View]) -> list[bytes]:
    """Return a digest of each row of the views. Runs in a worker process."""
    from ckptdiff.kernels.rows import row_digests

    return row_digests(views)


def _cover(
    tensor: Assembly,
    rows: list[bytes],
    index: Mapping[Key, list[tuple[str, int]]],
    held: Mapping[str, list[bytes]],
    used: Mapping[str, set[int]],
) -> list[Run] | None:
    """Return runs of stored rows that make up all rows in order; None if a row is nowhere.

    At each row the longest run is taken.
    """
    width = matrix_shape(tensor.shape)[1]
    runs: list[Run] = []
    at = 0
    while at < len(rows):
        best: tuple[int, bool, str, int] | None = None
        for name, row in index.get((tensor.dtype, width, rows[at]), ())[:_MAX_CANDIDATES]:
            source = held[f"b{name}"]
            count = 1
            while (
                at + count < len(rows)
                and row + count < len(source)
                and source[row + count] == rows[at + count]
            ):
                count += 1
            # Of equally long runs, one that is not used yet: norms are often identical.
            fresh = row not in used.get(name, ())
            if best is None or (count, fresh) > best[:2]:
                best = (count, fresh, name, row)
        if best is None:
            return None
        runs.append((best[2], best[3], best[0]))
        at += best[0]
    return runs


def _assembled_from(
    tensor: Assembly, runs: list[Run], available: Mapping[str, Assembly]
) -> Assembly | None:
    """Return the tensor as pieces of the stored ones; None if these are not plain matrices."""
    pieces: list[Piece] = []
    at = 0
    for name, start, count in runs:
        source = available[name]
        if source.shape == tensor.shape and len(runs) == 1:
            pieces += source.pieces
        elif len(tensor.shape) == len(source.shape) == 2:
            for piece in source.pieces:
                (first, last), columns = piece.box
                low, high = max(first, start), min(last, start + count)
                if low < high:
                    row = piece.of[0][0] + low - first
                    of = ((row, row + high - low), piece.of[1])
                    box = ((at + low - start, at + high - start), columns)
                    pieces.append(Piece(piece.ref, piece.rank, of, box))
        else:
            return None
        at += count
    shown = ", ".join(f"{name}[{row}:{row + count}]" for name, row, count in runs[:4])
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    note = f"no rule was used: its rows were found in {shown}{more}"
    return Assembly(tensor.name, tensor.shape, tensor.dtype, tuple(pieces), note=note)
