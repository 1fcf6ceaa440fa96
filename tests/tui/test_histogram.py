"""Histograms as text, with counts that add up to every element."""

from __future__ import annotations

import pytest

from ckptdiff.kernels.stats import TensorSummary
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.widgets.histogram import (
    Bin,
    Bins,
    count_bar,
    histogram_lines,
    merged,
    percent,
    ulp_bins,
    value_bins,
)


def test_bins_are_named_by_their_distances() -> None:
    bins = ulp_bins([5, 0, 1, 2, 0], numel=8)
    assert bins.bins == (Bin("0", 5), Bin("1", 0), Bin("2-3", 1), Bin("4-7", 2))
    assert bins.without == ()


def test_elements_that_have_no_distance_are_counted() -> None:
    assert ulp_bins([5], numel=8).without == (Bin("no distance", 3),)


def test_long_distances_are_shortened() -> None:
    labels = [b.label for b in ulp_bins([1] * 33, numel=33).bins]
    assert labels[13:16] == ["4096-8191", "8192-16k", "16k-32k"]
    assert labels[20:22] == ["512k-1M", "1M-2M"]
    assert labels[32] == "2G-4G"


def test_counts_are_exact_and_bars_in_proportion() -> None:
    drawn = plain(histogram_lines(ulp_bins([600, 300, 75], numel=1000), 40, 10))
    # 40 columns less 12 of labels, 5 of counts, 5 of shares and 3 blanks leave 15 for bars.
    assert drawn == [
        "ULP distance count",
        "           0   600 60.0% ███████████████",
        "           1   300 30.0% ███████▌",
        "         2-3    75  7.5% █▉",
        " no distance    25  2.5%",
    ]


def test_ascii_bars_have_whole_cells_only() -> None:
    drawn = plain(histogram_lines(ulp_bins([600, 300, 75], numel=975), 40, 10, ascii_only=True))
    assert drawn[1:] == [
        "           0   600 61.5% ###############",
        "           1   300 30.8% #######",
        "         2-3    75  7.7% #",
    ]


def test_counts_give_way_to_bars_in_a_narrow_space() -> None:
    drawn = plain(histogram_lines(ulp_bins([600_000_000, 300_000_000], numel=900_000_000), 32, 10))
    assert drawn[1] == "           0 66.7% █████████████"


def test_neighbours_are_added_up_where_lines_are_few_but_zero_stays_alone() -> None:
    bins = ulp_bins([9, 1, 2, 3, 4], numel=19)
    assert merged(bins, 3) == [Bin("0", 9), Bin("1-3", 3), Bin("4-15", 7)]
    assert merged(bins, 5) == list(bins.bins)


def test_values_are_named_by_where_their_bins_begin() -> None:
    summary = TensorSummary(
        11, -1.0, 1.0, 0, 1, 1, 0, nan=3, inf=1, histogram=(1, 2, 0, 4), magnitudes=()
    )
    bins = value_bins(summary)
    assert bins == Bins(
        "values from",
        (Bin("-1.0e+00", 1), Bin("-5.0e-01", 2), Bin("0", 0), Bin("5.0e-01", 4)),
        (Bin("NaN", 3), Bin("Inf", 1)),
        edges=True,
    )
    assert merged(bins, 2) == [Bin("-1.0e+00", 3), Bin("0", 4)]


def test_a_tensor_of_nan_alone_has_no_bars() -> None:
    nan = float("nan")
    summary = TensorSummary(
        2, nan, nan, nan, nan, nan, 0, nan=2, inf=0, histogram=(), magnitudes=()
    )
    assert plain(histogram_lines(value_bins(summary), 40, 10)) == ["values from: no values"]


@pytest.mark.parametrize(
    ("count", "total", "words"),
    [
        (0, 10, "0%"),
        (10, 10, "100%"),
        (1, 10**6, "<0.01%"),
        (10**6 - 1, 10**6, ">99.99%"),
        (5, 1000, "0.50%"),
        (995, 1000, "99.50%"),
        (123, 1000, "12.3%"),
    ],
)
def test_a_share_is_0_or_100_only_if_it_is_exactly(count: int, total: int, words: str) -> None:
    assert percent(count, total) == words


def test_what_is_not_zero_has_a_bar() -> None:
    assert count_bar(1, 10**9, 20, ascii_only=False) == "▏"
    assert count_bar(1, 10**9, 20, ascii_only=True) == "#"
    assert count_bar(0, 10**9, 20, ascii_only=False) == ""
