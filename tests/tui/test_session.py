"""What the screens show, without a screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.errors import BadArgument
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.model.inventory import Layer, take_inventory
from ckptdiff.tui.model.progress import Progress
from ckptdiff.tui.model.session import Session
from ckptdiff.tui.text.sides import title
from ckptdiff.tui.words import format_ago, format_duration, format_eta, short_name, shorten
from tests.support.tui.fakes import Clock, assembled, checkpoint, layer, names, result


def opened(*wanted: str) -> Session:
    session = Session([Path("a"), Path("b")], make_executor=InlineExecutor, clock=Clock())
    side = assembled(checkpoint(Path("/a"), wanted or names()))
    session.open(take_inventory(side.tensors, side, side), side, side)
    return session


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "model.layers.12"),
        ("h.3.attn.weight", "h.3"),
        ("7.weight", "7"),
        ("model.layers.2.mlp.experts.11.w1.weight", "model.layers.2"),
        ("transformer.blocks.0.1.weight", "transformer.blocks.0"),
        ("lm_head.weight", ""),
        ("layer1.weight", ""),
        ("model.layers.3", ""),
    ],
)
def test_a_layer_is_what_comes_before_the_first_number_and_that_number(
    name: str, title: str
) -> None:
    session = opened(name)
    assert session.layers[0].title == title


def test_names_outside_of_layers_keep_their_place() -> None:
    session = opened("a.weight", "layers.0.x", "layers.1.x", "norm.weight", "layers.0.y")
    assert [layer.title for layer in session.layers] == ["", "layers.0", "layers.1", ""]
    assert session.layers[1].names == ["layers.0.x", "layers.0.y"]


def test_counts_follow_results_and_forgetting_them() -> None:
    session = opened()
    session.start(session.names)
    session.add(result(layer(0, "self_attn.q_proj.weight"), "differ"))
    session.add(result(layer(0, "self_attn.q_proj.weight"), "same"))
    assert +session.counts == {"to_do": 13, "same": 1}
    head = session.layer_of(layer(0, "self_attn.q_proj.weight"))
    assert head is not None
    assert +head.counts == {"to_do": 3, "same": 1}
    session.forget()
    assert +session.counts == {"to_do": 14}
    assert +head.counts == {"to_do": 4}


def test_the_title_says_where_no_rules_are_used() -> None:
    plain = checkpoint(Path("/a"), names())
    ends = {}
    for config in (None, {"model_type": "unheard_of"}):
        session = opened()
        session.a = assembled(replace(plain, config=config))
        ends[config is None] = title(session, 80)
    assert ends[False].endswith("   no rules")
    assert not ends[True].endswith("no rules")


def test_a_bad_filter_leaves_the_old_one() -> None:
    session = opened()
    session.set_filter("norm")
    with pytest.raises(BadArgument):
        session.set_filter("re:(")
    assert session.filter == "norm"
    assert len(session.tensors.order) == 3


def test_folds_of_a_filtered_list_do_not_touch_those_of_the_whole() -> None:
    session = opened()
    before = list(session.tensors.rows)
    session.set_filter("norm")
    head = session.tensors.rows[0]
    assert isinstance(head, Layer)
    session.tensors.fold(head, unfolded=False)
    assert len(session.tensors.rows) == 5
    session.set_filter("")
    assert session.tensors.rows == before


def test_the_command_line_quotes_paths_and_names_the_tolerance() -> None:
    session = opened()
    session.paths = (Path("/a b"), Path("/c"))
    session.tolerance = "ulp:2"
    assert session.command_line("x y") == (
        "ckptdiff diff '/a b' /c --tolerance ulp:2 --filter 'x y'"
    )


def test_progress_without_a_byte_done_has_no_rate_and_no_time_left() -> None:
    clock = Clock()
    progress = Progress(clock)
    assert (progress.fraction, progress.rate, progress.eta) == (0.0, None, None)
    progress.start(100, 2)
    clock.at += 2
    assert (progress.rate, progress.eta) == (None, None)
    progress.add(50)
    assert (progress.fraction, progress.rate, progress.eta) == (0.5, 25.0, 2.0)
    progress.finish()
    clock.at += 60
    assert progress.seconds == 2


@pytest.mark.parametrize(
    ("seconds", "duration", "eta", "ago"),
    [
        (0.04, "0.0 s", "1 s", "just now"),
        (9.94, "9.9 s", "10 s", "just now"),
        (41, "41 s", "41 s", "just now"),
        (60, "1 min", "1 min", "1 min ago"),
        (200, "3 min 20 s", "3 min 20 s", "3 min ago"),
        (7500, "2 h 5 min", "2 h 5 min", "2 h ago"),
        (90_000, "25 h", "25 h", "yesterday"),
        (260_000, "72 h 13 min", "72 h 13 min", "3 days ago"),
    ],
)
def test_times_are_said_as_people_say_them(
    seconds: float, duration: str, eta: str, ago: str
) -> None:
    assert (format_duration(seconds), format_eta(seconds), format_ago(seconds)) == (
        duration,
        eta,
        ago,
    )


@given(st.text(max_size=60), st.integers(0, 40), st.booleans())
def test_a_shortened_text_fits(text: str, width: int, ascii_only: bool) -> None:
    from rich.cells import cell_len

    assert cell_len(shorten(text, width, ascii_only=ascii_only)) <= max(width, 0)
    if cell_len(text) <= width:
        assert shorten(text, width) == text


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("model.layers.12.self_attn.q_proj.weight", 39, "model.layers.12.self_attn.q_proj.weight"),
        ("model.layers.12.self_attn.q_proj.weight", 32, "model.layers.12.self_attn.q_proj"),
        ("model.layers.12.self_attn.q_proj.weight", 31, "…layers.12.self_attn.q_proj"),
        ("model.layers.12.self_attn.q_proj.weight", 26, "…12.self_attn.q_proj"),
        ("model.layers.12.self_attn.q_proj.weight", 19, "…12…q_proj"),
        ("model.layers.12.mlp.experts.103.down_proj.weight", 26, "…12…experts.103.down_proj"),
        ("decoder.layers.2.self_attention.linear_qkv.weight", 24, "…2…linear_qkv"),
        ("model.layers.12.mlp.down_proj.bias", 20, "…12…down_proj.bias"),
        ("optimizer.exp_avg_sq.model.layers.2.mlp.up_proj.weight", 26, "exp_avg_sq…2.mlp.up_proj"),
        ("model.embed_tokens.weight", 20, "model.embed_tokens"),
        ("visual.merger.projector.weight", 20, "vis…merger.projector"),
    ],
)
def test_a_short_name_keeps_the_layer_and_the_role(name: str, width: int, short: str) -> None:
    assert short_name(name, width) == short


@given(
    st.from_regex(r"[a-z]{1,9}(\.([a-z_]{1,9}|[0-9]{1,3})){0,6}", fullmatch=True),
    st.integers(1, 60),
)
def test_a_short_name_fits(name: str, width: int) -> None:
    for ascii_only in (False, True):
        short = short_name(name, width, ascii_only=ascii_only)
        assert len(short) <= width
        assert short.isascii() or not ascii_only


def test_once_settled_what_differs_is_unfolded_and_the_rest_shares_headings() -> None:
    names = [f"model.layers.{number}.{part}.weight" for number in range(6) for part in "ab"]
    session = opened(*names)
    for name in names:
        session.add(result(name, "differ" if name == names[5] else "same"))
    session.tensors.settle(room=10)
    titles = [row if isinstance(row, str) else row.name for row in session.tensors.rows]
    assert titles == ["model.layers.0-1", "model.layers.2", *names[4:6], "model.layers.3-5"]
    run = session.tensors.rows[0]
    assert isinstance(run, Layer)
    assert +run.counts == {"same": 4}
    session.tensors.fold(run, unfolded=True)
    assert [row.name for row in session.tensors.rows[:2] if isinstance(row, Layer)] == [
        "model.layers.0",
        "model.layers.1",
    ]
    assert session.tensors.reveal("model.layers.4.a.weight") is not None


def test_a_settled_list_is_unfolded_whole_where_there_is_room() -> None:
    names = [f"model.layers.{number}.a.weight" for number in range(4)]
    session = opened(*names)
    for name in names:
        session.add(result(name, "same"))
    session.tensors.settle(room=10)
    assert [row for row in session.tensors.rows if isinstance(row, str)] == names
