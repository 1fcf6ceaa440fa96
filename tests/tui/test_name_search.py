"""`/`: words and globs, and where nothing matches them, letters in order with the best first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ckptdiff.tui.model.name_search import best_first, can_be_letters, name_matcher
from tests.support.tui.handmade import settle
from tests.support.tui.harness import lines, rows, tensors

if TYPE_CHECKING:
    from ckptdiff.tui.app import CkptDiffApp

ATTN = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 2, 12) for p in "qkv"]
MLP = [f"model.layers.{i}.mlp.{p}_proj.weight" for i in (0, 2, 12) for p in ("up", "down")]
NAMES = ["model.embed_tokens.weight", *ATTN, *MLP, "blocks.0.Wqkv", "lm_head.weight"]


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("qproj", "model.layers.0.self_attn.q_proj.weight"),
        ("l2kp", "model.layers.2.self_attn.k_proj.weight"),
        ("12 vproj", "model.layers.12.self_attn.v_proj.weight"),
        ("dproj", "model.layers.0.mlp.down_proj.weight"),
        ("lmhead", "lm_head.weight"),
        ("wqkv", "blocks.0.Wqkv"),
        ("Wq", "blocks.0.Wqkv"),
        ("embtok", "model.embed_tokens.weight"),
    ],
)
def test_the_best_match_is_first(pattern: str, first: str) -> None:
    assert best_first(pattern, NAMES)[0] == first


def test_upper_case_is_told_from_lower_where_it_is_typed() -> None:
    assert best_first("WQKV", NAMES) == []
    assert best_first("wqkv", NAMES) == ["blocks.0.Wqkv"]


def test_names_without_all_the_letters_in_order_are_left_out() -> None:
    assert best_first("kproj q", NAMES) == []
    assert set(best_first("kproj", NAMES)) == {name for name in NAMES if "k_proj" in name}


def test_equal_matches_keep_the_order_of_the_model() -> None:
    assert best_first("qproj", NAMES) == [name for name in NAMES if "q_proj" in name]


def test_no_name_makes_it_slow() -> None:
    began = time.process_time()
    best_first("a" * 30 + "z", ["a." * 5000 + "xz", "a" * 10000])
    assert time.process_time() - began < 0.5


def test_stars_do_not_make_it_slow() -> None:
    began = time.process_time()
    assert not name_matcher("a*" * 20 + "b")("a" * 2000)
    assert time.process_time() - began < 0.5


def test_a_star_is_any_text_and_other_patterns_are_those_of_the_command_line() -> None:
    def found(pattern: str) -> list[str]:
        return list(filter(name_matcher(pattern), NAMES))

    assert found("layers.2.*q_proj") == ["model.layers.2.self_attn.q_proj.weight"]
    assert found("mlp* up*weight") == [name for name in NAMES if "up_proj" in name]
    assert found("layers.12 re") == []
    assert found("q_proj*layers") == found("weight*weight") == []
    assert found("re:^lm") == ["lm_head.weight"]
    assert [can_be_letters(each) for each in ("qp", "q*p", "re:qp", "")] == [True, *[False] * 3]


async def test_letters_make_a_flat_list_with_the_best_match_under_the_cursor(
    app: CkptDiffApp,
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("slash", *"l1dp")
        await settle(app, pilot)
        session = tensors(app).session
        assert session.tensors.by_letters
        assert session.tensors.rows[0] == "model.layers.1.mlp.down_proj.weight"
        assert rows(app).row == session.tensors.rows[0]
        assert all(isinstance(row, str) for row in session.tensors.rows)
        assert "letters in order" in str(rows(app).border_title)
        assert "best match first" in str(rows(app).border_subtitle)
        await pilot.press("escape")
        await settle(app, pilot)
        assert not session.tensors.by_letters
        assert len(session.tensors.order) == len(session.names)


async def test_words_that_occur_are_no_letters_and_a_bang_never_is(app: CkptDiffApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        session = tensors(app).session
        tensors(app).set_filter("q_proj")
        await settle(app, pilot)
        assert not session.tensors.by_letters
        assert not session.tensors.flat
        tensors(app).set_filter("!qproj")
        await settle(app, pilot)
        assert not session.tensors.by_letters
        assert len(session.tensors.order) == len(session.names)
        tensors(app).set_filter("zzz")
        await settle(app, pilot)
        assert "No tensor matches 'zzz'. Esc clears the filter." in lines(rows(app))[2]
