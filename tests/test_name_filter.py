"""Choosing tensors by words, or by a regular expression."""

from __future__ import annotations

import pytest

from ckptdiff.errors import BadArgument
from ckptdiff.name_filter import matcher

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.10.self_attn.q_proj.weight",
    "model.layers.10.mlp.up_proj.weight",
]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", [0, 1, 2, 3]),
        ("   ", [0, 1, 2, 3]),
        ("q_proj", [1, 2]),
        ("q_proj layers.10", [2]),
        ("layers.10 q_proj", [2]),
        ("layers.1", [1, 2, 3]),
        ("layers.1.", [1]),
        ("  proj\tup  ", [3]),
        ("Q_PROJ", []),
        ("q_proj up", []),
        ("re:", [0, 1, 2, 3]),
        ("re:layers\\.1\\.", [1]),
        ("re:^model\\.layers.*(up|q)_proj", [1, 2, 3]),
        ("re:weight$", [0, 1, 2, 3]),
        ("re:^weight", []),
        ("re:Q_PROJ", []),
        ("re:(?i)Q_PROJ", [1, 2]),
        ("re: q_proj", []),
        ("a.b*", []),
        (".*", []),
    ],
)
def test_a_pattern_chooses_these_names(pattern: str, found: list[int]) -> None:
    wanted = matcher(pattern)
    assert [n for n, name in enumerate(NAMES) if wanted(name)] == found


@pytest.mark.parametrize("pattern", ["re:(", "re:[", "re:*", "re:(?P<a>x)(?P<a>y)", "re:\\"])
def test_what_is_no_expression_is_refused_as_it_was_given(pattern: str) -> None:
    with pytest.raises(BadArgument) as caught:
        matcher(pattern)
    assert f"'{pattern}' is not a regular expression" in str(caught.value)


def test_brackets_among_words_are_taken_as_they_are() -> None:
    assert matcher("a(b")("xa(by")
    assert not matcher("a(b")("ab")


def test_an_expression_that_would_take_years_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptdiff.name_filter.MOST_SECONDS", 0.05)
    wanted = matcher("re:(a+)+$")
    with pytest.raises(BadArgument, match="takes too long on a name of 61 characters"):
        wanted("a" * 60 + "x")
    assert wanted("aaa")
