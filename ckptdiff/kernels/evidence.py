"""Jobs of the diagnosis: are two contents of one shape equal, which rows differ, and how.

A content is a tensor in spans, joined along its first dimension. Its rows are what that dimension
counts, each flattened: a content of (n, …) has n rows. All functions that take contents read files
and raise CorruptFile and UnreadableFile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS
from ckptdiff.kernels.dtypes import bits, rounded, values
from ckptdiff.kernels.memory import RAW, PageReleaser, same_bits
from ckptdiff.kernels.write import WrittenSpan, gather
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptdiff.kernels.views import Span

    Values = NDArray[np.float64]  # of the shape of the content, or flat

SAME_DIRECTION = 0.99  # cosine from which two blocks are taken as equal but for a factor
FACTORS_DIFFER = 0.05  # standard deviation of the factors' natural logarithms
SMALLEST_BLOCK = 8  # columns
MOST_ROWS = 96  # rows of a content in a sample
MOST_RANK_ROWS, MOST_RANK_COLUMNS = 256, 512  # by which the rank of a difference is taken
# Times the bound of rounding's singular values that others must reach. Measured: up to 1.05 for
# rounding, 1.26 and more for adapters.
ABOVE_ROUNDING = 1.15
# Norm of what a change of low rank leaves, as a fraction of the expected content's. Measured: 0.06
# for an adapter of 30 times the weight's norm in BF16; 1 where a few huge numbers are the change.
MAX_LEFT = 0.2
MIN_COSINE = 0.4  # |cosine| of two rows, from which one may be the other's origin
MAX_RIVAL = 0.75  # |cosine| of the second best origin, as a fraction of the best one's
BLOCK = 1 << 16  # elements widened at once: they stay in the processor's cache
Content = tuple["Span", ...]  # joined along the first dimension


@dataclass(frozen=True, slots=True)
class Residual:
    """How an actual content differs from the expected one. Non-finite elements are left out."""

    cosine: float  # of the two contents, flattened: -1 to 1
    relative: float  # |actual - expected| / |expected|, Euclidean norms
    constant: float | None = None  # the one value of all actual elements
    offset: float | None = None  # actual - expected, where all elements have the same
    scale: float | None = None  # actual / expected, where all elements have the same
    block: int = 0  # columns of blocks that each have one ratio; 0: there are no such blocks
    # Of actual - expected, where it is low; 0: it is not; None: too few rows or columns to tell.
    rank: int | None = None
    cast: str | None = None  # the dtype that the expected numbers were cast to and back from
    lost: int = 0  # elements that are finite in the expected content alone
    spread: float = 0.0  # standard deviation of the actual content
    count: int = 0  # elements that were compared

    @property
    def is_related(self) -> bool:
        """Whether all elements, or all of a block, follow from the expected ones alike."""
        relation = (self.constant, self.offset, self.scale, self.cast)
        return any(x is not None for x in relation) or self.block > 0

    @property
    def closeness(self) -> tuple[bool, float]:
        """Whether one relation explains the difference, and |cosine|. The larger, the likelier."""
        return self.is_related or bool(self.rank), abs(self.cosine)


def load(content: Content) -> NDArray[Any]:
    """Return a copy of a content, (rows, …), in the numpy dtype `RAW` of its dtype."""
    arrays = []
    with PageReleaser() as pages:
        for span in content:
            written = WrittenSpan(0, [Loss()] * len(span.sources))
            box = tuple((0, n) for n in span.shape)
            block, parts = gather(span, box, written)
            # A copy, so that the pages of the file can be unmapped.
            copy = np.frombuffer(block, RAW[span.dtype]).copy()
            arrays.append(copy.reshape(span.shape))
            pages.done(*parts)
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def content_digests(contents: Sequence[Content]) -> list[tuple[bytes, bool]]:
    """Return a BLAKE2b digest of each content, 16 bytes, and whether it proves nothing.

    A content that is empty, or whose elements are all equal, may be found in many places.
    """
    found = []
    for content in contents:
        elements = load(content)
        flat = elements.reshape(-1)
        poor = flat.size == 0 or bool((flat == flat[0]).all())
        found.append((hashlib.blake2b(elements.tobytes(), digest_size=16).digest(), poor))
    return found


def rows_that_differ(pairs: Sequence[tuple[Content, Content]]) -> list[tuple[int, int, list[int]]]:
    """Return for each pair how many rows there are, how many differ, and the indices of some.

    Both contents of a pair are split into spans at the same rows. At most `MOST_ROWS` indices of
    rows that differ are returned, evenly spread. A span of one dimension is a single row.
    """
    found = []
    for expected, actual in pairs:
        count, differing, indices = 0, 0, []
        for x, y in zip(expected, actual, strict=True):
            a, b = _codes(x), _codes(y)
            a, b = (v.reshape(v.shape[0] if v.ndim > 1 else 1, -1) for v in (a, b))
            changed = np.flatnonzero((a != b).any(axis=1))
            indices += [count + int(i) for i in changed]
            count += len(a)
            differing += len(changed)
        step = max(1, len(indices) // MOST_ROWS)
        found.append((count, differing, indices[::step][:MOST_ROWS]))
    return found


def same_contents(pairs: Sequence[tuple[Content, Content]]) -> list[bool]:
    """Return for each pair whether every bit is equal. Both have as many spans."""
    return [
        all(
            x.nbytes == y.nbytes and same_bits(_bytes(x), _bytes(y))
            for x, y in zip(one, other, strict=True)
        )
        for one, other in pairs
    ]


def rows(pairs: Sequence[tuple[Content, Content]]) -> list[list[int]]:
    """Return for each row of the second content the index of the equal row of the first.

    -1: no row is equal. -2: several are, so the index is not known. Both have rows of one length.
    """
    return [_match(one, other) for one, other in pairs]


def tallies(contents: Sequence[Content]) -> list[int]:
    """Return for each content a hash, below 2**64, that does not depend on the elements' order.

    Each bit pattern is mixed by the constants of splitmix64, and the results are added up.
    """
    found = []
    for content in contents:
        total = 0
        for span in content:
            for mixed in _widened(_codes(span).reshape(-1)):
                mixed += np.uint64(0x9E3779B97F4A7C15)
                mixed *= np.uint64(0xBF58476D1CE4E5B9)
                mixed ^= mixed >> np.uint64(29)
                mixed *= np.uint64(0x94D049BB133111EB)
                total += int(mixed.sum())
        found.append(total % 2**64)
    return found


def _match(first: Content, second: Content) -> list[int]:
    keys, wanted = _row_keys(first), _row_keys(second)
    row_of: dict[int, int] = {}
    for i, key in enumerate(keys):
        row_of[key] = -2 if key in row_of else i
    return [row_of.get(key, -1) for key in wanted]


def _row_keys(content: Content) -> list[int]:
    """Return a 64-bit hash of each row: its bit patterns times random odd weights, added up."""
    keys: list[int] = []
    weights = np.empty(0, np.uint64)
    for span in content:
        codes = _codes(span)
        codes = codes.reshape(codes.shape[0], -1)
        if codes.shape[1] != len(weights):
            rng = np.random.default_rng(7)
            weights = rng.integers(1, 1 << 63, codes.shape[1], dtype=np.uint64) * 2 + 1
        for widened in _widened(codes):
            widened *= weights
            keys += widened.sum(axis=1).tolist()
    return keys


def _codes(span: Span) -> NDArray[Any]:
    """Return the bit patterns of a span in its own shape, unsigned, of the stored width."""
    elements = load((span,))
    return elements.view(f"<u{elements.itemsize}")


def _bytes(span: Span) -> NDArray[np.uint8]:
    """Return the bytes of a span as one row: (1, bytes)."""
    return load((span,)).reshape(1, -1).view(np.uint8)


def _widened(codes: NDArray[Any]) -> Iterator[NDArray[np.uint64]]:
    """Yield bit patterns as uint64, some rows at a time: `codes` in parts along dimension 0."""
    step = max(1, BLOCK // max(1, codes[:1].size))
    for start in range(0, len(codes), step):
        yield codes[start : start + step].astype(np.uint64)


def nearest(items: Sequence[tuple[Sequence[Content], str, Content, str]]) -> list[list[int]]:
    """Return for each row of a content which row of a pool of contents has the largest |cosine|.

    An item is the pool, its dtype, the content and its dtype. Rows of the pool are numbered through
    all its contents. -1: no |cosine| reaches `MIN_COSINE`, or the second best row is too near. All
    rows have one length.
    """
    return [_nearest(*item) for item in items]


def _nearest(pool: Sequence[Content], pool_dtype: str, rows: Content, rows_dtype: str) -> list[int]:
    wanted = _unit_rows(load(rows), rows_dtype)  # (wanted rows, elements)
    best, second = (np.zeros(len(wanted), np.float32) for _ in range(2))
    best_row = np.full(len(wanted), -1)
    start = 0  # the first row of a span in the pool
    for span in (span for content in pool for span in content):
        candidates = _unit_rows(load((span,)), pool_dtype)
        cosines = np.abs(candidates @ wanted.T)  # (rows of the span, wanted rows)
        if len(cosines) > 1:
            top_two = np.partition(cosines, -2, axis=0)[-2:]
        else:
            top_two = np.concatenate([np.zeros_like(cosines), cosines])
        is_best = top_two[1] > best
        second = np.maximum(np.where(is_best, best, top_two[1]), np.maximum(second, top_two[0]))
        best_row = np.where(is_best, start + cosines.argmax(axis=0), best_row)
        best = np.maximum(best, top_two[1])
        start += len(candidates)
    is_clear = (best >= MIN_COSINE) & (second <= MAX_RIVAL * best)
    return [int(i) for i in np.where(is_clear, best_row, -1)]


def _unit_rows(content: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return (rows, elements), each row of norm 1; one with NaN or infinity, or of zeros, is 0."""
    rows = values(content, dtype).astype(np.float32)
    rows = rows.reshape(rows.shape[0], -1)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)  # its square may be infinite
    rows[~np.isfinite(largest[:, 0])] = 0
    np.divide(rows, largest, out=rows, where=largest > 0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.divide(rows, norms, out=rows, where=norms > 0)
    return rows


def residuals(items: Sequence[tuple[Content, Content, str]]) -> list[Residual]:
    """Return how each actual content differs from the expected one.

    An item is the expected content, the actual one of the same shape, and the dtype of both.
    """
    return [_residual(load(e), load(a), dtype) for e, a, dtype in items]


def _residual(expected: NDArray[Any], actual: NDArray[Any], dtype: str) -> Residual:
    e, a = values(expected, dtype), values(actual, dtype)
    finite = np.isfinite(e) & np.isfinite(a)
    lost = int(np.count_nonzero(np.isfinite(e) & ~np.isfinite(a)))
    x, y = e[finite], a[finite]
    if x.size == 0:
        return Residual(0.0, 1.0, lost=lost)
    norm_x, norm_y = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    relative = float(np.linalg.norm(y - x)) / norm_x if norm_x else float("inf")
    cosine = float(x @ y) / (norm_x * norm_y) if norm_x and norm_y else 0.0
    found = Residual(cosine, relative, lost=lost, spread=float(y.std()), count=x.size)
    flat = actual.reshape(-1)
    if flat.size > 1 and bool((flat == flat[0]).all()):
        return replace(found, constant=float(a.reshape(-1)[0]))
    for name in ("F16", "BF16", "F8_E4M3"):
        if name != dtype and _was_cast(expected, actual, dtype, name):
            return replace(found, cast=name)
    step = FLOATS[dtype if dtype in ("F32", "F16") else "BF16"].epsilon
    return _explained(found, e, a, x, y, step)


def _explained(
    found: Residual, e: Values, a: Values, x: Values, y: Values, step: float
) -> Residual:
    """Return `found` with the relation that makes `a` out of `e`, if there is one.

    `e` and `a` are the expected and actual values, (rows, …); `x` and `y` those that are finite in
    both, flat. `step` is the dtype's epsilon.
    """
    difference = y - x
    offset = float(np.median(difference))
    tolerance = step * np.maximum(np.abs(x), np.abs(y)).max()
    if offset and bool((np.abs(difference - offset) <= tolerance).all()):
        return replace(found, offset=offset)
    large = np.abs(x) > 0.05 * np.abs(x).max()
    scale = float(np.median(y[large] / x[large])) if large.any() else 1.0
    if bool((np.abs(y - scale * x) <= 2 * step * np.maximum(np.abs(y), np.abs(scale * x))).all()):
        return replace(found, scale=scale)
    if e.ndim == 2:
        block, ratio = _blocks_of_one_ratio(e, a)
        if block:
            return replace(found, block=block)
        if ratio is not None:
            return replace(found, scale=ratio)
        return replace(found, rank=_rank_of_change(e, a, step))
    return found


def _was_cast(expected: NDArray[Any], actual: NDArray[Any], dtype: str, name: str) -> bool:
    """Return whether the actual numbers are the expected ones cast to the dtype `name` and back."""
    codes = rounded(expected, dtype, name)
    narrow = codes.astype(f"<u{RAW[name].itemsize}").view(RAW[name])
    back = rounded(narrow, name, dtype)
    return bool((back == bits(actual)).all())


def _blocks_of_one_ratio(e: Values, a: Values) -> tuple[int, float | None]:
    """Return the columns of blocks that each have one ratio a / e, or the ratio of the whole.

    `e` and `a` are (rows, columns). 0 and None: there is neither. Values of 8 bits may have been
    rounded since, so the ratio within a block is only nearly the same.
    """
    if not (np.isfinite(e).all() and np.isfinite(a).all()) or e.shape[1] < SMALLEST_BLOCK:
        return 0, None
    cosine, logs = _ratios(e, a, SMALLEST_BLOCK)
    if cosine < SAME_DIRECTION:
        return 0, None
    if logs.std() <= FACTORS_DIFFER:
        ratio = float(np.exp(np.median(logs)))
        return 0, ratio if abs(np.log(ratio)) > 2 * FACTORS_DIFFER else None
    wider = [w for w in (128, 64, 32, 16) if w <= e.shape[1]]
    block = next((w for w in wider if _ratios(e, a, w)[0] >= cosine - 0.002), SMALLEST_BLOCK)
    return block, None


def _ratios(e: Values, a: Values, width: int) -> tuple[float, Values]:
    """Return the cosine that 95 % of the blocks of a row, `width` columns each, reach, and ratios.

    `e` and `a` are (rows, columns). Ratios a / e are natural logarithms, one per non-zero block.
    """
    count = e.shape[1] // width
    x, y = (v[:, : count * width].reshape(-1, width) for v in (e, a))
    xx, yy, xy = ((p * q).sum(axis=1) for p, q in ((x, x), (y, y), (x, y)))
    nonzero = (xx > 0) & (yy > 0)
    if nonzero.sum() < 4:
        return 0.0, xx
    cosine = float(np.quantile(xy[nonzero] / np.sqrt(xx[nonzero] * yy[nonzero]), 0.05))
    return cosine, np.log(np.maximum(xy[nonzero], 1e-300) / xx[nonzero])


def _rank_of_change(e: Values, a: Values, step: float) -> int | None:
    """Return the rank of a - e, both (rows, columns), if it is low; 0 if it is not.

    None if too little differs to tell. `step` is the dtype's epsilon. Without the change, `a` must
    be nearly `e`. If `e` is of low rank too, that of `a` must be higher: two unrelated contents of
    low rank differ by one as well.
    """
    change = a - e
    rows, columns = np.flatnonzero(change.any(axis=1)), np.flatnonzero(change.any(axis=0))
    # Rows and columns without a difference are left out: a few rows that differ are no low rank.
    box = np.ix_(rows[:MOST_RANK_ROWS], columns[:MOST_RANK_COLUMNS])
    e, a, change = e[box], a[box], change[box]
    # The change itself may have been computed in BF16.
    rounded_by = step * np.maximum(np.abs(e), np.abs(a)) + FLOATS["BF16"].epsilon * np.abs(change)
    rank = _low_rank(change, rounded_by, MAX_LEFT * float(np.linalg.norm(e)))
    if rank and _low_rank(e, step * np.abs(e)):
        is_higher = (_low_rank(a, step * np.abs(a)) or min(a.shape)) > rank
        return rank if is_higher else 0
    return rank


def _low_rank(matrix: Values, step: Values, most_left: float = np.inf) -> int | None:
    """Return the rank of a matrix but for rounding, if it is low, or 0; None if it is too small.

    `step` is between which numbers each element was rounded. The rank is low if few singular
    values make 97 % of the sum of their squares. It is the number of those that rounding, with a
    variance of step² / 12, does not make: its singular values are at most about the largest norm
    of a row and of a column together. What the rank leaves has at most the norm `most_left`.
    """
    smaller = min(matrix.shape)
    if smaller < 12 or not np.isfinite(matrix).all():
        return None
    singular = np.linalg.svd(matrix, compute_uv=False)
    energy = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    variance = step**2 / 12
    bound = np.sqrt(variance.sum(axis=0).max()) + np.sqrt(variance.sum(axis=1).max())
    rank = int(np.count_nonzero(singular > ABOVE_ROUNDING * bound))
    is_low = max(rank, int(np.searchsorted(energy, 0.97)) + 1) <= 0.4 * smaller
    is_low = is_low and float(np.linalg.norm(singular[rank:])) <= most_left
    return rank if is_low else 0
