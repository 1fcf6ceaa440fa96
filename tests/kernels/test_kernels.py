"""The kernels against plain arithmetic: nearest codes by search, sums in long double."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile, UnreadableFile
from ckptdiff.kernels import compare as compare_module
from ckptdiff.kernels import fast, memory
from ckptdiff.kernels.compare import compare_blocks
from ckptdiff.kernels.inspect import summarise_tensor, window
from ckptdiff.kernels.stats import NO_NUMBER, Stats, block_size, level_value
from ckptdiff.kernels.views import Block, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

pytestmark = pytest.mark.mostly_slow(one_in=3)
Raw = Any  # an array of unsigned bit patterns

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3")  # from the widest
INTS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
TORCH = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
REAL: dict[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "BOOL": np.uint8, "U8": np.uint8, "I8": np.int8,
    "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32, "U64": np.uint64,
    "I64": np.int64,
}  # fmt: skip


# --- the oracle -------------------------------------------------------------------------------


def unsigned(dtype: str) -> np.dtype[Any]:
    return np.dtype(f"<u{ITEMSIZE[dtype]}")


def decoded(raw: Raw, dtype: str) -> NDArray[np.longdouble]:
    """Return exact values: a long double holds every 64-bit integer."""
    with np.errstate(invalid="ignore"):
        if dtype in TORCH:
            tensor = torch.from_numpy(np.ascontiguousarray(raw).view(np.uint8).reshape(-1).copy())
            wide = tensor.view(TORCH[dtype]).to(torch.float32).numpy()
            return wide.reshape(raw.shape).astype(np.longdouble)
        exact: NDArray[np.longdouble] = raw.view(REAL[dtype]).astype(np.longdouble)
        return exact


def encoded(values: NDArray[Any], dtype: str) -> Raw:
    """Return the codes nearest to the values: a search among all codes for the small formats."""
    if dtype in ("F32", "F64"):
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(REAL[dtype]).view(unsigned(dtype))
    if dtype in INTS:
        return values.astype(REAL[dtype]).view(unsigned(dtype))
    half = 1 << (8 * ITEMSIZE[dtype] - 1)
    table = decoded(np.arange(half).astype(unsigned(dtype)), dtype)
    last = int(np.flatnonzero(np.isfinite(table))[-1])
    ladder = table[: last + 2].copy()
    ladder[-1] = 2 * ladder[-2] - ladder[-3]  # where the next step would be, were there one
    size = np.abs(values).astype(np.longdouble)
    size = np.where(np.isnan(size), 0, size)
    above = np.clip(np.searchsorted(ladder, size), 1, len(ladder) - 1)
    to_above, to_below = ladder[above] - size, size - ladder[above - 1]
    up = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
    code = np.where(up, above, above - 1)
    code = np.where(np.isnan(values), half - 1, code)
    return (code + np.where(np.signbit(values), half, 0)).astype(unsigned(dtype))


def narrower(a: str, b: str) -> str:
    floats = [dtype for dtype in FLOATS if dtype in (a, b)]
    return floats[-1] if floats else a if a == b else "F32"


@dataclass
class Expected:
    stats: dict[str, Any]
    deltas: NDArray[Any]
    inexcusable: NDArray[np.bool_]


def expected(a: Raw, b: Raw, da: str, db: str) -> Expected:
    x, y = decoded(a, da), decoded(b, db)
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    both = np.isfinite(x) & np.isfinite(y)
    lone = (np.isfinite(x) != np.isfinite(y)) | (nan_x != nan_y)
    if da in INTS and db in INTS:
        steps = [abs(int(p) - int(q)) for p, q in zip(x.flat, y.flat, strict=True)]
        differing = unequal = np.array(steps).reshape(x.shape) > 0
        beyond = np.zeros_like(both)
    else:
        narrow = narrower(da, db)
        p = a if da == narrow else encoded(x, narrow)
        q = b if db == narrow else encoded(y, narrow)
        u, v = decoded(p, narrow), decoded(q, narrow)
        beyond = both & ~(np.isfinite(u) & np.isfinite(v))
        unequal = (u != v) & ~(nan_x & nan_y) | lone
        differing = (p != q) & ((da == db) | ~(nan_x & nan_y)) | lone
        half = 0 if narrow == "F8_E8M0" else 1 << (8 * ITEMSIZE[narrow] - 1)
        ladder = [
            [int(c) & ~half if int(c) < half or not half else -(int(c) & ~half) for c in codes.flat]
            for codes in (p, q)
        ]
        steps = [abs(i - j) for i, j in zip(*ladder, strict=True)]
    x, y = np.where(both, x, 0), np.where(both, y, 0)
    deltas = np.abs(x - y)
    if not {da, db} & {"F64", "I32", "U32", "I64", "U64"}:
        with np.errstate(over="ignore"):
            single = deltas.astype(np.float32)
        deltas = np.where(np.isinf(single), deltas, single)
    counted = [s for s, ok in zip(steps, (both & ~beyond).flat, strict=True) if ok]
    histogram = [0] * (max(counted, default=0).bit_length() + 1 if counted else 0)
    for step in counted:
        histogram[step.bit_length()] += 1
    inexcusable = (unequal & ~both) | beyond
    stats = {
        "numel": a.size,
        "differing": int(differing.sum()),
        "unequal": int(unequal.sum()),
        "inexcusable": int(inexcusable.sum()),
        "max_ulp": max(counted, default=0),
        "histogram": histogram,
        "nan_a": int(nan_x.sum()),
        "nan_b": int(nan_y.sum()),
        "inf_a": int(np.isinf(decoded(a, da)).sum()),
        "inf_b": int(np.isinf(decoded(b, db)).sum()),
        "sum_abs": deltas.sum(),
        "sum_dd": (deltas * deltas).sum(),
        "sum_aa": (x * x).sum(),
        "sum_bb": (y * y).sum(),
        "max_abs": float(deltas.max()) if deltas.size else 0.0,
        "max_at": divmod(int(deltas.argmax()), a.shape[1]) if deltas.any() else None,
    }
    return Expected(stats, deltas, inexcusable)


LADDER = [level_value(step) for step in range(NO_NUMBER)]


def level(distance: float) -> int:
    """Return the last level that begins at or below a distance; the first takes all small ones."""
    return max(1, bisect.bisect_right(LADDER, distance) - 1) if distance else 0


def expected_grid(shape: tuple[int, int], found: Expected) -> bytes:
    height, width = block_size(shape)
    levels = []
    for row, col in itertools.product(range(0, shape[0], height), range(0, shape[1], width)):
        part = np.s_[row : row + height, col : col + width]
        with np.errstate(over="ignore"):
            largest = found.deltas[part].astype(np.float32).max()
        levels.append(NO_NUMBER if found.inexcusable[part].any() else level(float(largest)))
    return bytes(levels)


SUMS = ("sum_abs", "sum_dd", "sum_aa", "sum_bb")


def check(stats: Stats, found: Expected, *, rel: float = 1e-6) -> None:
    for name, value in found.stats.items():
        measured = getattr(stats, name)
        if name not in SUMS:
            assert measured == value, name
        elif stats.normed or name in ("sum_abs", "sum_dd"):
            # The largest float64 itself may be passed by a sum of squares.
            within = value <= np.finfo(np.float64).max
            assert measured == (
                pytest.approx(float(value), rel=rel, abs=1e-320) if within else math.inf
            ), name


# --- data -------------------------------------------------------------------------------------


class Store:
    """Writes matrices into files, in whatever layout, and returns the views."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = itertools.count()

    def put(
        self, raw: Raw, dtype: str, *, gap: int = 0, lead: int = 0, transposed: bool = False
    ) -> View:
        """Write a matrix: `gap` other elements between rows, `lead` bytes before the first."""
        rows, cols = raw.shape
        across = rows if transposed else cols
        stored = raw.T if transposed else raw
        padded = np.full((stored.shape[0], across + gap), 0x55, raw.dtype)
        padded[:, :across] = stored
        file = self.folder / f"{next(self.number)}.bin"
        file.write_bytes(b"\x07" * lead + padded.tobytes())
        stride = (1, across + gap) if transposed else (across + gap, 1)
        return View(str(file), lead, (rows, cols), stride, dtype)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("views"))


def random_bits(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> Raw:
    return rng.integers(0, 256, (*shape, ITEMSIZE[dtype]), np.uint8).view(unsigned(dtype))[..., 0]


SPECIAL = (
    0.0,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e-45,
    -6e-8,
    6e-5,
    65504.0,
    7e4,
    3.4e38,
    448.0,
)


def make(
    rng: np.random.Generator, kind: str, shape: tuple[int, int], da: str, db: str
) -> tuple[Raw, Raw]:
    """Return the two sides of a pair of some kind."""
    if kind == "bits":
        return random_bits(rng, shape, da), random_bits(rng, shape, db)
    if da in INTS or db in INTS:
        whole = rng.integers(0, 100, shape)
        return encoded(whole, da), encoded(whole + (rng.random(shape) < 0.3), db)
    scale = {"weights": 0.02, "large": 300.0, "tiny": 1e-22, "huge": 1e18}.get(kind, 1.0)
    values: NDArray[np.float64] = rng.standard_normal(shape) * scale
    near: NDArray[np.float64] = values * (1 + 1e-3 * rng.standard_normal(shape))
    if kind == "cast":
        near = decoded(encoded(values, da), da).astype(np.float64)
    elif kind == "flips":
        near = np.where(rng.random(shape) < 0.1, -values * rng.lognormal(0, 6, shape), values)
    elif kind == "sparse":
        near = np.where(rng.random(shape) < 0.01, near, values)
    elif kind == "specials":
        for side in (values, near):
            where = rng.random(shape) < 0.05
            side[where] = rng.choice(SPECIAL, int(where.sum()))
    return encoded(values, da), encoded(near, db)


KINDS = ("bits", "weights", "large", "tiny", "huge", "cast", "flips", "sparse", "specials")
PAIRS = list(itertools.combinations_with_replacement((*FLOATS, "F8_E8M0", "I64", "U8"), 2))
FAST_PAIRS = list(itertools.product(("BF16", "F16", "F32"), repeat=2))
shapes = st.tuples(st.integers(1, 40), st.integers(1, 150))
calm = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize(("da", "db"), FAST_PAIRS)
@settings(calm, max_examples=30)
@given(
    shape=shapes, seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), layout=st.integers(0, 5)
)
def test_floats_of_16_and_32_bits_are_measured_right(
    store: Store, da: str, db: str, shape: tuple[int, int], seed: int, kind: str, layout: int
) -> None:
    a, b = make(np.random.default_rng(seed), kind, shape, da, db)
    gap, lead = (0, 0) if layout < 2 else (layout % 3, layout)
    block = Block((0, 0), store.put(a, da, gap=gap), store.put(b, db, gap=2 * gap, lead=lead))
    found = expected(a, b, da, db)
    stats = compare_blocks(shape, [block])
    check(stats, found)
    assert stats.grid == expected_grid(shape, found)


@pytest.mark.mostly_slow(one_in=15)
@pytest.mark.parametrize(("da", "db"), PAIRS)
@settings(calm, max_examples=6)
@given(shape=shapes, seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS))
def test_every_pair_of_dtypes_is_measured_right(
    store: Store, da: str, db: str, shape: tuple[int, int], seed: int, kind: str
) -> None:
    a, b = make(np.random.default_rng(seed), kind, shape, da, db)
    if {da, db} == {"F8_E8M0", "I64"}:
        a = a % 2**7  # no oracle for a float32 beyond a long double's 64 bits
    for x, y, one, other in ((a, b, da, db), (b, a, db, da)):
        found = expected(x, y, one, other)
        stats = compare_blocks(shape, [Block((0, 0), store.put(x, one), store.put(y, other))])
        check(stats, found)
        assert stats.grid == expected_grid(shape, found)


@pytest.mark.parametrize(("da", "db"), list(itertools.product(INTS, repeat=2)))
def test_integers_are_compared_exactly(store: Store, da: str, db: str) -> None:
    rng = np.random.default_rng(1)
    a, b = random_bits(rng, (7, 9), da), random_bits(rng, (7, 9), db)
    if {da, db} == {"I64", "U64"}:
        a, b = a >> np.uint64(1), b >> np.uint64(1)  # a distance of more than 64 bits saturates
    b[0] = a[0].astype(b.dtype)
    found = expected(a, b, da, db)
    check(compare_blocks((7, 9), [Block((0, 0), store.put(a, da), store.put(b, db))]), found)


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize("to", ["F32", "F16", "BF16", "F8_E5M2", "F8_E4M3"])
def test_values_between_two_codes_round_to_nearest_even(store: Store, to: str) -> None:
    codes = np.arange(0, 1 << (8 * ITEMSIZE[to] - 1), 1 if ITEMSIZE[to] < 4 else 0x10001)
    ladder = decoded(codes.astype(unsigned(to)), to).astype(np.float64)
    ladder = ladder[np.isfinite(ladder)]
    middle = (ladder[1:] + ladder[:-1]) / 2
    near = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 1e300)])
    values = np.concatenate([near, -near]).reshape(2, -1)
    a = values.view(np.uint64)
    b = encoded(np.roll(values, 1), to)
    found = expected(a, b, "F64", to)
    check(compare_blocks(a.shape, [Block((0, 0), store.put(a, "F64"), store.put(b, to))]), found)
    if to in TORCH:
        single = values.astype(np.float32)
        rounded = torch.from_numpy(single).to(TORCH[to]).view(torch.uint8).numpy()
        stats = compare_blocks(
            a.shape,
            [
                Block(
                    (0, 0),
                    store.put(single.view(np.uint32), "F32"),
                    store.put(rounded.reshape(-1).view(unsigned(to)).reshape(a.shape), to),
                )
            ],
        )
        assert stats.differing == stats.inexcusable  # only what no code holds


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_sign_flip_is_never_hidden(store: Store, dtype: str) -> None:
    # 512 in F16 has the code 0x6000: -512 less 512 is 0x4000 in 16-bit arithmetic.
    values = np.array(
        [[512.0, 513.0, 1.0, 2.0, 1.999, 3.0, 65504.0, 1e-7, 0.0, 2.0, 2.0, 1e-4, 24.0, 0.5]]
    )
    other = np.array(
        [
            [
                -512.0,
                -1.0,
                -1.0,
                -2.0,
                -1.999,
                -1e-7,
                -65504.0,
                -1e-7,
                -0.0,
                0.0,
                -0.0,
                -0.0,
                -3.0,
                0.5,
            ]
        ]
    )
    for keep in range(values.shape[1]):
        a, b = encoded(np.full((4, 32), 0.25), dtype), encoded(np.full((4, 32), 0.25), dtype)
        a[2, 7], b[2, 7] = encoded(values, dtype)[0, keep], encoded(other, dtype)[0, keep]
        block = Block((0, 0), store.put(a, dtype), store.put(b, dtype))
        check(compare_blocks((4, 32), [block]), expected(a, b, dtype, dtype))


def test_zeros_of_two_signs_differ_in_bits_and_not_in_value(store: Store) -> None:
    a, b = np.zeros((3, 5), np.uint16), np.full((3, 5), 0x8000, np.uint16)
    stats = compare_blocks((3, 5), [Block((0, 0), store.put(a, "BF16"), store.put(b, "BF16"))])
    assert (stats.differing, stats.unequal, stats.max_ulp, stats.max_abs) == (15, 0, 0, 0.0)
    assert stats.max_at is None
    assert stats.histogram == [15]
    assert set(stats.grid) == {0}


def test_a_number_that_the_narrower_dtype_cannot_hold_is_no_cast(store: Store) -> None:
    a = np.array([[70000.0, 65519.0, 1.0]], np.float32)
    b = encoded(np.array([[math.inf, 65504.0, 1.0]]), "F16")
    stats = compare_blocks(
        (1, 3), [Block((0, 0), store.put(a.view(np.uint32), "F32"), store.put(b, "F16"))]
    )
    assert (stats.differing, stats.unequal, stats.inexcusable) == (1, 1, 1)
    clamped = encoded(np.array([[65504.0, 65504.0, 1.0]]), "F16")
    stats = compare_blocks(
        (1, 3), [Block((0, 0), store.put(a.view(np.uint32), "F32"), store.put(clamped, "F16"))]
    )
    assert (stats.differing, stats.inexcusable, sum(stats.histogram)) == (1, 1, 2)
    assert stats.grid[0] == NO_NUMBER


def test_nan_and_infinity_are_counted_in_equal_data(store: Store) -> None:
    for dtype in (*FLOATS, "F8_E8M0"):
        a = encoded(np.full((64, 64), 0.5), "F32" if dtype == "F8_E8M0" else dtype)
        if dtype == "F8_E8M0":
            a = np.full((64, 64), 126, np.uint8)
            a[3, 3] = 255
        else:
            a[3, 3], a[60, 1], a[0, 0] = encoded(np.array([math.nan, -math.inf, math.inf]), dtype)
        for gap in (0, 3):
            block = Block((0, 0), store.put(a, dtype, gap=gap), store.put(a, dtype))
            stats = compare_blocks((64, 64), [block])
            infinities = 2 if dtype not in ("F8_E8M0", "F8_E4M3") else 0
            nans = 3 if dtype == "F8_E4M3" else 1
            assert (stats.nan_a, stats.nan_b) == (nans, nans), dtype
            assert (stats.inf_a, stats.inf_b) == (infinities, infinities), dtype
            assert stats.differing == 0
            assert stats.histogram == [64 * 64 - nans - infinities]
            assert not stats.normed


@pytest.mark.parametrize("value", [0.5, 3.0, 1e5])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -math.nan])
def test_one_odd_number_is_found_wherever_it_lies(store: Store, value: float, odd: float) -> None:
    shape = (33, 1000)
    for place in ((0, 0), (32, 999), (17, 500)):
        for dtype in ("BF16", "F32"):
            a = encoded(np.full(shape, value), dtype)
            a[place] = encoded(np.array([odd]), dtype)[0]
            stats = compare_blocks(shape, [Block((0, 0), store.put(a, dtype), store.put(a, dtype))])
            assert stats.nan_a + stats.inf_a == 1


def test_payloads_of_nan_count_in_one_dtype_only(store: Store) -> None:
    a = np.array([[0x7FC0, 0x7FC1, 0x3F80]], np.uint16)
    b = np.array([[0x7FC0, 0xFFC2, 0x3F80]], np.uint16)
    stats = compare_blocks((1, 3), [Block((0, 0), store.put(a, "BF16"), store.put(b, "BF16"))])
    assert (stats.differing, stats.unequal, stats.inexcusable) == (1, 0, 0)
    wide = np.array([[0x7FC00001, 0xFFC00000, 0x3F800000]], np.uint32)
    stats = compare_blocks((1, 3), [Block((0, 0), store.put(a, "BF16"), store.put(wide, "F32"))])
    assert (stats.differing, stats.nan_a, stats.nan_b) == (0, 2, 2)


@pytest.mark.slow
def test_norms_of_equal_data_are_taken_when_something_differs_or_when_asked(store: Store) -> None:
    rng = np.random.default_rng(5)
    a = encoded(rng.standard_normal((600, 1024)) * 0.02, "BF16")
    a[7, 7] = 0x7F80
    b = a.copy()
    one, other = store.put(a, "BF16"), store.put(b, "BF16")
    stats = compare_blocks(a.shape, [Block((0, 0), one, other)])
    assert (stats.normed, stats.sum_aa) == (False, 0.0)
    found = expected(a, b, "BF16", "BF16")
    stats = compare_blocks(a.shape, [Block((0, 0), one, other)], norms=True)
    assert stats.normed
    check(stats, found)
    b[599, 1023] ^= 1
    stats = compare_blocks(a.shape, [Block((0, 0), one, store.put(b, "BF16"))])
    check(stats, expected(a, b, "BF16", "BF16"))


# --- blocks -----------------------------------------------------------------------------------


def cut(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[slice, slice]]:
    rows = sorted({0, shape[0], *rng.integers(0, shape[0], 3).tolist()})
    cols = sorted({0, shape[1], *rng.integers(0, shape[1], 2).tolist()})
    for down, across in itertools.product(itertools.pairwise(rows), itertools.pairwise(cols)):
        yield slice(*down), slice(*across)


def crop(view: View, part: tuple[slice, slice]) -> View:
    first = part[0].start * view.stride[0] + part[1].start * view.stride[1]
    shape = (part[0].stop - part[0].start, part[1].stop - part[1].start)
    offset = view.offset + first * ITEMSIZE[view.dtype]
    return View(view.file, offset, shape, view.stride, view.dtype)


def split(a: View, b: View, rng: np.random.Generator) -> list[Block]:
    return [
        Block((part[0].start, part[1].start), crop(a, part), crop(b, part))
        for part in cut(a.shape, rng)
    ]


def same_but_for_rounding(one: Stats, other: Stats) -> None:
    for name in Stats.__slots__:
        x, y = getattr(one, name), getattr(other, name)
        assert x == (pytest.approx(y, rel=1e-6) if name in SUMS else y), name


def merged(parts: Sequence[Stats]) -> Stats:
    total = Stats()
    for part in parts:
        total.merge(pickle.loads(pickle.dumps(part)))
    return total


@pytest.mark.mostly_slow(one_in=24)
@pytest.mark.parametrize(
    ("da", "db"), [("BF16", "BF16"), ("F32", "F16"), ("F16", "F16"), ("F32", "F64")]
)
@pytest.mark.parametrize("kind", ["weights", "specials", "sparse", "flips"])
@pytest.mark.parametrize("shape", [(300, 900), (3, 100_001), (5000, 6), (1, 300_000)])
def test_blocks_and_their_order_have_no_influence(
    store: Store, da: str, db: str, kind: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(7)
    a, b = make(rng, kind, shape, da, db)
    one, other = store.put(a, da), store.put(b, db)
    whole = compare_blocks(shape, [Block((0, 0), one, other)], norms=True)
    blocks = split(one, other, rng)
    same_but_for_rounding(compare_blocks(shape, blocks, norms=True), whole)
    parts = [compare_blocks(shape, [block], norms=True) for block in blocks]
    same_but_for_rounding(merged(parts), whole)
    rng.shuffle(parts)
    same_but_for_rounding(merged(parts), whole)


@pytest.mark.slow
def test_sizes_of_chunks_have_no_influence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    a, b = make(rng, "specials", (700, 500), "BF16", "BF16")
    a[100:300], b[100:300] = 0x3E80, 0x3E80
    block = Block((0, 0), store.put(a, "BF16", gap=12), store.put(b, "BF16"))
    whole = compare_blocks((700, 500), [block])
    check(whole, expected(a, b, "BF16", "BF16"))
    for elements, stretch, span in ((1000, 5000, 20_000), (4096, 1 << 14, 1 << 15)):
        monkeypatch.setattr(fast, "ELEMENTS", elements)
        monkeypatch.setattr(compare_module, "MEMCMP_BYTES", stretch)
        monkeypatch.setattr(compare_module, "READ_BYTES", span)
        same_but_for_rounding(compare_blocks((700, 500), [block]), whole)


@pytest.mark.slow
def test_constant_data_is_summed_as_well_as_random_data(store: Store) -> None:
    for value in (0.1, 0.019, 3.3e-5):
        a = np.full((512, 520), value, np.float32).view(np.uint32)
        b = np.full((512, 520), value * 1.01, np.float32).view(np.uint32)
        stats = compare_blocks(a.shape, [Block((0, 0), store.put(a, "F32"), store.put(b, "F32"))])
        check(stats, expected(a, b, "F32", "F32"))


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F8_E4M3"])
def test_a_transposed_side_is_compared_as_it_lies(store: Store, dtype: str) -> None:
    rng = np.random.default_rng(11)
    a, b = make(rng, "sparse", (300, 700), dtype, dtype)
    straight = compare_blocks(a.shape, [Block((0, 0), store.put(a, dtype), store.put(b, dtype))])
    turned = store.put(b, dtype, transposed=True)
    same_but_for_rounding(
        compare_blocks(a.shape, [Block((0, 0), store.put(a, dtype), turned)]), straight
    )
    both = Block((0, 0), store.put(a, dtype, transposed=True), turned)
    same_but_for_rounding(compare_blocks(a.shape, [both]), straight)
    equal = Block((0, 0), store.put(b, dtype), turned)
    assert compare_blocks(a.shape, [equal]).differing == 0


@pytest.mark.parametrize("cols", [3, 600, 2048])
@pytest.mark.parametrize("lead", [0, 1, 6, 8])
def test_one_bit_is_found_in_rows_that_lie_apart(store: Store, cols: int, lead: int) -> None:
    a = np.random.default_rng(3).integers(0, 0x4000, (40, cols)).astype(np.uint16)
    for row, col in ((0, 0), (39, cols - 1), (20, cols // 2)):
        b = a.copy()
        b[row, col] ^= 1
        for gap in (0, 1, 4):
            one, other = store.put(a, "BF16", gap=gap, lead=lead), store.put(b, "BF16", gap=8)
            assert compare_blocks(a.shape, [Block((0, 0), one, other)]).differing == 1
            assert compare_blocks(a.shape, [Block((0, 0), one, one)]).differing == 0


def test_nothing_is_nothing(store: Store) -> None:
    empty = View("/nowhere", 0, (0, 8), (8, 1), "BF16")
    stats = compare_blocks((0, 8), [Block((0, 0), empty, empty)])
    assert (stats.numel, stats.differing, stats.grid, stats.grid_shape) == (0, 0, b"", (0, 8))
    assert compare_blocks((5, 5), []).numel == 0


def test_one_element_is_enough(store: Store) -> None:
    a, b = np.array([[0x3F80]], np.uint16), np.array([[0x3F81]], np.uint16)
    stats = compare_blocks((1, 1), [Block((0, 0), store.put(a, "BF16"), store.put(b, "BF16"))])
    check(stats, expected(a, b, "BF16", "BF16"))


# --- copies, levels, files --------------------------------------------------------------------


def test_copies_that_drift_are_listed_with_their_differing_elements(store: Store) -> None:
    rng = np.random.default_rng(2)
    raw = random_bits(rng, (50, 300), "BF16")
    drifted = raw.copy()
    drifted[3, 4:7] ^= 1
    original = store.put(raw, "BF16")
    copies = [
        (original, store.put(raw, "BF16", gap=5)),
        (original, store.put(drifted, "BF16")),
        (original, store.put(raw, "F16")),
    ]
    stats = compare_blocks(raw.shape, [Block((0, 0), original, original)], copies)
    assert stats.copies_differ == [(1, 3), (2, 50 * 300)]
    again = compare_blocks(raw.shape, [], copies[:2])
    stats.merge(again)
    assert stats.copies_differ == [(1, 6), (2, 50 * 300)]


def test_levels_rise_in_quarter_octaves() -> None:
    values = [level_value(step) for step in range(256)]
    assert values == sorted(set(values))
    assert (values[0], values[1], values[255]) == (0.0, 2.0**-48, math.inf)
    assert values[1:6] == [2.0**-48 * quarter for quarter in (1, 1.25, 1.5, 1.75, 2)]
    assert values[NO_NUMBER - 1] == 1.25 * 2**15


def test_levels_of_a_grid_are_those_of_its_differences(store: Store) -> None:
    a = np.zeros((1, 64), np.float32)
    b = np.geomspace(1e-18, 1e7, 64).astype(np.float32).reshape(1, 64)
    b[0, 0] = 1e-45
    block = Block((0, 0), store.put(a.view(np.uint32), "F32"), store.put(b.view(np.uint32), "F32"))
    assert list(compare_blocks((1, 64), [block]).grid) == [level(float(value)) for value in b[0]]


def test_a_file_that_ends_early_is_corrupt(store: Store) -> None:
    good = store.put(np.zeros((10, 10), np.uint16), "BF16")
    file = Path(store.put(np.zeros((10, 10), np.uint16), "BF16").file)
    os.truncate(file, 199)
    short = View(str(file), 0, (10, 10), (10, 1), "BF16")
    with pytest.raises(CorruptFile, match=r"ends at byte 200, but the file has 199 bytes"):
        compare_blocks((10, 10), [Block((0, 0), good, short)])
    os.truncate(file, 0)
    with pytest.raises(CorruptFile, match="empty"):
        compare_blocks((10, 10), [Block((0, 0), good, short)])


def test_a_file_that_is_not_there_is_unreadable(tmp_path: Path) -> None:
    view = View(str(tmp_path / "gone"), 0, (1, 1), (1, 1), "U8")
    with pytest.raises(UnreadableFile, match="gone: No such file"):
        compare_blocks((1, 1), [Block((0, 0), view, view)])
    with pytest.raises(UnreadableFile, match="is not a regular file"):
        memory.matrix(View(str(tmp_path), 0, (1, 1), (1, 1), "U8"))


def test_a_path_that_names_a_new_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"\x01\x02")
    view = View(str(file), 0, (1, 2), (2, 1), "U8")
    assert memory.matrix(view).tolist() == [[1, 2]]
    (tmp_path / "new").write_bytes(b"\x03\x04\x05")
    (tmp_path / "new").rename(file)
    assert memory.matrix(view).tolist() == [[3, 4]]


def test_many_files_are_not_all_kept_open(tmp_path: Path) -> None:
    arrays = []
    for number in range(2 * memory.MAX_MAPPED):
        file = tmp_path / str(number)
        file.write_bytes(bytes([number]))
        arrays.append(memory.matrix(View(str(file), 0, (1, 1), (1, 1), "U8")))
    assert len(memory._mapped) <= memory.MAX_MAPPED
    assert [int(array[0, 0]) for array in arrays] == list(range(2 * memory.MAX_MAPPED))


FIRST_ROWS = (slice(0, 100), slice(0, 2000))


def resident() -> int:
    """Return the bytes of mapped files in this process's memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["equal", "near"])
def test_pages_that_were_read_are_let_go(tmp_path: Path, kind: str) -> None:
    shape = (12_000, 2000)  # 48 MB a side
    rng = np.random.default_rng(0)
    a = rng.integers(0x3C00, 0x3D00, shape).astype(np.uint16)
    a.tofile(tmp_path / "a")
    (a ^ 1 if kind == "near" else a).tofile(tmp_path / "b")
    one, other = (View(str(tmp_path / x), 0, shape, (2000, 1), "BF16") for x in "ab")
    compare_blocks((100, 2000), [Block((0, 0), crop(one, FIRST_ROWS), crop(other, FIRST_ROWS))])
    summarise_tensor([crop(one, FIRST_ROWS)])
    before = resident()
    compare_blocks(shape, [Block((0, 0), one, other)], norms=True)
    # Less than a hundredth: what stays, however little, would grow with the file.
    assert resident() - before < 1 << 19
    summarise_tensor([one])
    assert resident() - before < 1 << 19


# --- one tensor by itself ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, "F8_E8M0", "I64", "U8", "BOOL"])
@pytest.mark.parametrize("kind", ["bits", "weights"])
def test_a_summary_is_that_of_plain_numpy(store: Store, dtype: str, kind: str) -> None:
    rng = np.random.default_rng(6)
    raw, _ = make(rng, kind, (60, 90), dtype, dtype)
    if dtype == "F64":  # squares that a float64 holds
        raw = encoded(rng.standard_normal((60, 90)), dtype)
        raw[0, :3] = encoded(np.array([math.nan, math.inf, -math.inf]), dtype)
    raw[5] = 0
    values = decoded(raw, dtype)
    finite = values[np.isfinite(values)].astype(np.float64)
    summary = summarise_tensor([store.put(raw[:20], dtype), store.put(raw[20:], dtype, gap=3)])
    assert summary.numel == raw.size
    assert (summary.nan, summary.inf) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert summary.zeros == (finite == 0).sum()
    assert (summary.min, summary.max) == (finite.min(), finite.max())
    assert summary.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * np.abs(finite).max())
    assert summary.std == pytest.approx(finite.std(), rel=1e-9)
    assert summary.rms == pytest.approx(math.sqrt((finite**2).mean()), rel=1e-9)
    assert sum(summary.histogram) == len(finite)
    if kind == "weights" and dtype in ("F32", "BF16"):
        assert summary.histogram == tuple(np.histogram(finite, 32)[0])
    powers = np.frexp(np.abs(finite[finite != 0]))[1] - 1
    assert summary.magnitudes == tuple(
        (int(p), int(n)) for p, n in zip(*np.unique(powers, return_counts=True), strict=True)
    )


def test_a_summary_of_nothing_finite_is_nan(store: Store) -> None:
    summary = summarise_tensor([store.put(np.full((2, 2), 0x7FC0, np.uint16), "BF16")])
    assert (summary.numel, summary.nan, summary.histogram, summary.magnitudes) == (4, 4, (), ())
    assert math.isnan(summary.mean)
    assert math.isnan(summary.max)


def test_a_summary_of_one_value_has_one_bin(store: Store) -> None:
    summary = summarise_tensor([store.put(np.full((2, 3), 0x3F80, np.uint16), "BF16")])
    assert (summary.min, summary.max, summary.std) == (1.0, 1.0, 0.0)
    assert summary.histogram[0] == 6
    assert summary.magnitudes == ((0, 6),)


def test_a_window_straddles_views_and_leaves_gaps(store: Store) -> None:
    raw = encoded(np.arange(12.0).reshape(3, 4), "BF16")
    views = [
        ((0, 0), store.put(raw[:, :2], "BF16")),
        ((0, 2), store.put(raw[:2, 2:], "BF16", gap=1)),
    ]
    seen = window(views, range(1, 4), range(1, 4))
    assert seen.values == ((5.0, 6.0, 7.0), (9.0, None, None), (None, None, None))
    assert seen.bits[0] == tuple(int(code) for code in raw[1, 1:])
    assert seen.bits[1] == (int(raw[2, 1]), None, None)
