"""Numbers about two contents of one shape: are they equal, which rows differ, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptdiff.dtypes import FLOATS
from ckptdiff.kernels.dtypes import bits, rounded, values
from ckptdiff.kernels.memory import RAW, Reading, same_bits
from ckptdiff.kernels.write import Sum, gather
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptdiff.kernels.views import Span

    Values = NDArray[np.float64]

SAME_DIRECTION = 0.99  # cosine of blocks that a factor alone sets apart
FACTORS_DIFFER = 0.05  # standard deviation of the factors' logarithms
NARROW = 8  # columns of the smallest blocks
MOST_ROWS = 96  # of a content that are looked at more closely
LIKE, RIVAL = 0.4, 0.75  # cosine of rows that are like each other; of the next best, by the best
BLOCK = 1 << 16  # elements that are widened at once: they stay in the processor's cache
Content = tuple["Span", ...]  # a tensor, in spans that follow each other


@dataclass(frozen=True, slots=True)
class Residual:
    """How one content differs from the expected one, on a sample of the rows that differ."""

    cosine: float  # of the two contents
    relative: float  # |actual - expected| / |expected|
    constant: float | None = None  # all elements are this
    offset: float | None = None  # actual - expected, where that is everywhere the same
    scale: float | None = None  # actual / expected, where that is everywhere the same
    block: int = 0  # width of square blocks within which the ratio is the same
    rank: int = 0  # of the difference, where it is low
    cast: str | None = None  # the dtype through which the expected numbers went
    lost: int = 0  # elements that such a cast made infinite, or that are not finite here alone
    spread: float = 0.0  # standard deviation of the actual content

    @property
    def closeness(self) -> tuple[bool, float]:
        """Whether one relation explains it, and how near it is: the more of it, the likelier."""
        relation = (self.constant, self.offset, self.scale, self.cast)
        explained = any(x is not None for x in relation) or self.block > 0 or self.rank > 0
        return explained, abs(self.cosine)


def array(content: Content) -> NDArray[Any]:
    """Return a content as an array of `RAW` elements, one row after the other."""
    held = []
    with Reading() as reading:
        for span in content:
            total = Sum(0, [Loss()] * len(span.sources))
            box = tuple((0, n) for n in span.shape)
            block, parts = gather(span, box, total)
            # A copy, so that the pages of the file can be let go.
            copy = np.frombuffer(block, RAW[span.dtype]).copy()
            held.append(copy.reshape(span.shape))
            reading.done(*parts)
    return np.concatenate(held) if len(held) > 1 else held[0]


def content_digests(contents: Sequence[Content]) -> list[tuple[bytes, bool]]:
    """Return a digest of each content, and whether it is too poor to claim anything by."""
    found = []
    for content in contents:
        held = array(content)
        flat = held.reshape(-1)
        poor = flat.size == 0 or bool((flat == flat[0]).all())
        found.append((hashlib.blake2b(held.tobytes(), digest_size=16).digest(), poor))
    return found


def rows_that_differ(pairs: Sequence[tuple[Content, Content]]) -> list[tuple[int, int, list[int]]]:
    """Return of each pair how many rows there are, how many differ, and some of those."""
    found = []
    for one, other in pairs:
        count, differ, some = 0, 0, []
        for x, y in zip(one, other, strict=True):
            a, b = _codes(x), _codes(y)
            a, b = (v.reshape(v.shape[0] if v.ndim > 1 else 1, -1) for v in (a, b))
            changed = np.flatnonzero((a != b).any(axis=1))
            some += [count + int(i) for i in changed]
            count += len(a)
            differ += len(changed)
        step = max(1, len(some) // MOST_ROWS)
        found.append((count, differ, some[::step][:MOST_ROWS]))
    return found


def same_contents(pairs: Sequence[tuple[Content, Content]]) -> list[bool]:
    """Return of each pair whether every bit is the same."""
    return [
        all(
            x.nbytes == y.nbytes and same_bits(_bytes(x), _bytes(y))
            for x, y in zip(one, other, strict=True)
        )
        for one, other in pairs
    ]


def rows(pairs: Sequence[tuple[Content, Content]]) -> list[list[int]]:
    """Return for each row of each second content which row of the first it equals, or -1.

    Equal rows of the first make no claim: what is there twice gives -2.
    """
    return [_match(one, other) for one, other in pairs]


def tallies(contents: Sequence[Content]) -> list[int]:
    """Return sums over each content, modulo 2**64, that its elements' order does not change."""
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


def _match(one: Content, other: Content) -> list[int]:
    keys, wanted = _row_keys(one), _row_keys(other)
    places: dict[int, int] = {}
    for i, key in enumerate(keys):
        places[key] = -2 if key in places else i
    return [places.get(key, -1) for key in wanted]


def _row_keys(content: Content) -> list[int]:
    """Return a number for each row that hardly any other content of a row has."""
    keys: list[int] = []
    weights = np.empty(0, np.uint64)
    for span in content:
        held = _codes(span)
        held = held.reshape(held.shape[0], -1)
        if held.shape[1] != len(weights):
            rng = np.random.default_rng(7)
            weights = rng.integers(1, 1 << 63, held.shape[1], dtype=np.uint64) * 2 + 1
        for widened in _widened(held):
            widened *= weights
            keys += widened.sum(axis=1).tolist()
    return keys


def _codes(span: Span) -> NDArray[Any]:
    """Return the bit patterns of a span, as wide as they are stored."""
    held = array((span,))
    return held.view(f"<u{held.itemsize}")


def _bytes(span: Span) -> NDArray[np.uint8]:
    """Return the bytes of a span as one row."""
    return array((span,)).reshape(1, -1).view(np.uint8)


def _widened(codes: NDArray[Any]) -> Iterator[NDArray[np.uint64]]:
    """Yield bit patterns in numbers of 64 bits, some rows at a time."""
    rows = max(1, BLOCK // max(1, codes[:1].size))
    for start in range(0, len(codes), rows):
        yield codes[start : start + rows].astype(np.uint64)


def nearest(items: Sequence[tuple[Sequence[Content], str, Content, str]]) -> list[list[int]]:
    """Return for each row of the last content which row of the first ones it is most like, or -1.

    The first ones are counted through, one below the other; a dtype goes with each. Rows of
    opposite sign are like each other too.
    """
    return [_nearest(*item) for item in items]


def _nearest(pool: Sequence[Content], dtype: str, rows: Content, of: str) -> list[int]:
    wanted = _directions(array(rows), of)
    best, second = (np.zeros(len(wanted), np.float32) for _ in range(2))
    at = np.full(len(wanted), -1)
    before = 0
    for span in (span for content in pool for span in content):
        held = _directions(array((span,)), dtype)
        near = np.abs(held @ wanted.T)
        if len(near) > 1:
            order = np.partition(near, -2, axis=0)[-2:]
        else:
            order = np.concatenate([np.zeros_like(near), near])
        is_best = order[1] > best
        second = np.maximum(np.where(is_best, best, order[1]), np.maximum(second, order[0]))
        at = np.where(is_best, before + near.argmax(axis=0), at)
        best = np.maximum(best, order[1])
        before += len(held)
    return [int(i) for i in np.where((best >= LIKE) & (second <= RIVAL * best), at, -1)]


def _directions(content: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return rows of length one; those that are not finite, or zero, are zero."""
    held = values(content, dtype).astype(np.float32)
    held = held.reshape(held.shape[0], -1)
    largest = np.abs(held).max(axis=1, keepdims=True, initial=0)  # its square may be infinite
    held[~np.isfinite(largest[:, 0])] = 0
    np.divide(held, largest, out=held, where=largest > 0)
    length = np.linalg.norm(held, axis=1, keepdims=True)
    np.divide(held, length, out=held, where=length > 0)
    return held


def residuals(items: Sequence[tuple[Content, Content, str]]) -> list[Residual]:
    """Return how an actual content differs from the expected one: expected, actual, dtype."""
    return [_residual(array(e), array(a), dtype) for e, a, dtype in items]


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
    found = Residual(cosine, relative, lost=lost, spread=float(y.std()))
    flat = actual.reshape(-1)
    if flat.size > 1 and bool((flat == flat[0]).all()):
        return replace(found, constant=float(a.reshape(-1)[0]))
    for name in ("F16", "BF16", "F8_E4M3"):
        if name != dtype and _went_through(expected, actual, dtype, name):
            return replace(found, cast=name)
    step = FLOATS[dtype if dtype in ("F32", "F16") else "BF16"].epsilon
    return _explained(found, e, a, x, y, step)


def _explained(
    found: Residual, e: Values, a: Values, x: Values, y: Values, step: float
) -> Residual:
    """Say of two contents, and of their finite elements, what relation explains the second."""
    d = y - x
    middle = float(np.median(d))
    room = step * np.maximum(np.abs(x), np.abs(y)).max()
    if middle and bool((np.abs(d - middle) <= room).all()):
        return replace(found, offset=middle)
    strong = np.abs(x) > 0.05 * np.abs(x).max()
    scale = float(np.median(y[strong] / x[strong])) if strong.any() else 1.0
    if bool((np.abs(y - scale * x) <= 2 * step * np.maximum(np.abs(y), np.abs(scale * x))).all()):
        return replace(found, scale=scale)
    if e.ndim == 2:
        block, ratio = _blocks_of_one_ratio(e, a)
        if block:
            return replace(found, block=block)
        if ratio is not None:
            return replace(found, scale=ratio)
        return replace(found, rank=_low_rank(a - e))
    return found


def _went_through(expected: NDArray[Any], actual: NDArray[Any], dtype: str, name: str) -> bool:
    """Return whether the actual numbers are the expected ones, rounded to another dtype first."""
    codes = rounded(expected, dtype, name)
    there = codes.astype(f"<u{RAW[name].itemsize}").view(RAW[name])
    back = rounded(there, name, dtype)
    return bool((back == bits(actual)).all())


def _blocks_of_one_ratio(e: Values, a: Values) -> tuple[int, float | None]:
    """Return the width of blocks of columns each with a ratio of its own, or the one ratio.

    Codes of eight bits may have been rounded: within a block the ratio is nearly one.
    """
    if not (np.isfinite(e).all() and np.isfinite(a).all()) or e.shape[1] < NARROW:
        return 0, None
    near, logs = _ratios(e, a, NARROW)
    if near < SAME_DIRECTION:
        return 0, None
    if logs.std() <= FACTORS_DIFFER:
        ratio = float(np.exp(np.median(logs)))
        return 0, ratio if abs(np.log(ratio)) > 2 * FACTORS_DIFFER else None
    wider = [w for w in (128, 64, 32, 16) if w <= e.shape[1]]
    return next((w for w in wider if _ratios(e, a, w)[0] >= near - 0.002), NARROW), None


def _ratios(e: Values, a: Values, width: int) -> tuple[float, Values]:
    """Return how nearly blocks of a row are multiples, and the logarithms of their ratios."""
    count = e.shape[1] // width
    x, y = (v[:, : count * width].reshape(-1, width) for v in (e, a))
    xx, yy, xy = ((p * q).sum(axis=1) for p, q in ((x, x), (y, y), (x, y)))
    real = (xx > 0) & (yy > 0)
    if real.sum() < 4:
        return 0.0, xx
    near = float(np.quantile(xy[real] / np.sqrt(xx[real] * yy[real]), 0.05))
    return near, np.log(np.maximum(xy[real], 1e-300) / xx[real])


def _low_rank(d: NDArray[Any]) -> int:
    """Return the rank of a difference, where a few directions are nearly all of it; or 0."""
    # Where a few rows alone differ, their number is no rank.
    part = d[:MOST_ROWS, :512]
    part = part[(part != 0).any(axis=1)][:, (part != 0).any(axis=0)]
    if min(part.shape) < 12 or not np.isfinite(part).all():
        return 0
    singular = np.linalg.svd(part, compute_uv=False)
    energy = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    rank = int(np.searchsorted(energy, 0.97)) + 1
    return rank if rank <= 0.4 * min(part.shape) else 0
