"""Both sides side by side: each under its own names, what is fused in a bracket."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.formats import open_checkpoint
from ckptdiff.tui.widgets.detail_slot import DetailSlot
from ckptdiff.tui.widgets.pair_row import PairRows
from tests.support.tui.handmade import K, Q, huggingface, megatron, session_of
from tests.support.tui.harness import lines, rows, settle, tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.tui.app import CkptDiffApp

pytestmark = pytest.mark.mostly_slow(one_in=4)


def panes(*sides: Assembled, width: int = 150, ascii_only: bool = False) -> list[list[str]]:
    """Return what stands left, between and right, row by row."""
    session = session_of(*sides, ascii_only=ascii_only, compare=False)
    session.tensors.fold_all(unfolded=True)
    drawn = PairRows(session)
    layout = drawn.columns(width)
    found = []
    for at in range(len(session.tensors.rows)):
        line = "".join(text for text, _ in drawn.row(at, layout))
        assert len(line) == width
        a = layout.a.width
        b = a + 2 + layout.middle
        found.append([line[:a].rstrip(), line[a + 1 : b - 1].strip(), line[b:].rstrip()])
    return found


def _as(held: Assembly, name: str) -> Assembly:
    """Return a tensor as it would be stored under another name."""
    (piece,) = held.pieces
    return replace(held, pieces=(replace(piece, ref=replace(piece.ref, name=name)),))


def test_each_side_stands_under_its_own_names_and_fused_ones_in_a_bracket() -> None:
    shown = [[a.split(), b.split()] for a, _, b in panes(huggingface(), megatron())]
    linear_qkv = "self_attention.linear_qkv.weight"
    assert shown == [
        [
            ["model.embed_tokens.weight", "90x32"],
            ["embedding.word_embeddings.weight", "+6", "padding", "rows", "48x32", "0-1"],
        ],
        [["-", "model.layers.0", "5", "tensors"], ["-", "decoder.layers.0"]],
        [
            ["self_attn.q_proj.weight", "64x32"],
            ["┌", linear_qkv, "q", "rows", "0:32", "48x32", "0-1"],
        ],
        [["self_attn.k_proj.weight", "16x32"], ["│", "k", "rows", "32:40"]],
        [["self_attn.v_proj.weight", "16x32"], ["└", "v", "rows", "40:48"]],
        [
            ["self_attn.o_proj.weight", "32x64"],
            ["self_attention.linear_proj.weight", "32x32", "0-1"],
        ],
        [["input_layernorm.weight", "32"], ["input_layernorm.weight", "32", "0-1"]],
    ]


def test_brackets_without_box_characters() -> None:
    gutters = [b[1] for _, _, b in panes(huggingface(), megatron(), ascii_only=True)]
    assert gutters == [" ", "-", "/", "|", "\\", " ", " "]


def test_a_narrow_bracket_keeps_the_end_of_its_name() -> None:
    shown = [b for _, _, b in panes(huggingface(), megatron(), width=100)]
    assert "linear_qkv" in shown[2]


def test_behind_a_name_that_takes_the_column_the_rows_of_the_others_are_still_told() -> None:
    shown = [b for _, _, b in panes(huggingface(), megatron(), width=110)]
    assert "rows" not in shown[2]  # the name takes its place
    assert shown[3].split() == ["│", "k", "rows", "32:40"]
    assert shown[4].split() == ["└", "v", "rows", "40:48"]


def test_a_name_that_is_too_long_loses_its_weight_first() -> None:
    a = huggingface()
    names = [f"model.layers.0.mlp.{'x' * 22}.{end}" for end in ("weight", "bias")]
    more = {name: replace(_as(a.tensors[K], name), name=name) for name in names}
    shown = panes(replace(a, tensors={**a.tensors, **more}), megatron(), width=110)
    assert [left.split()[0] for left, _, _ in shown if "xx" in left] == [
        f"mlp.{'x' * 22}",
        f"mlp.{'x' * 22}.bias",
    ]


def test_gate_and_up_of_an_expert_stand_in_one_bracket(
    tiny_hf: Callable[..., Path], tiny_megatron: Callable[..., Path]
) -> None:
    model = {"family": "mixtral", "experts": 4, "layers": 1}
    folders = tiny_hf(**model), tiny_megatron(model=model, tp=1)
    a, b = (assemble(open_checkpoint(folder)) for folder in folders)
    shown = [(left, right) for left, _, right in panes(a, b, width=120)]
    at = next(n for n, (left, _) in enumerate(shown) if "experts.0.w1" in left)
    for expert in range(4):
        gate, up = shown[at + 2 * expert : at + 2 * expert + 2]
        assert f"experts.{expert}.w1" in gate[0]
        assert f"experts.{expert}.w3" in up[0]
        assert gate[1].split()[0] == "┌"
        assert "linear_fc1" in gate[1]
        assert up[1].split()[:3] == ["└", f"{expert}.w3", "rows"]


def test_what_one_side_lacks_is_a_gap() -> None:
    b = megatron()
    b = replace(b, tensors={name: held for name, held in b.tensors.items() if name != K})
    shown = panes(huggingface(), b)
    assert [b.strip() for _, _, b in shown[3:4]] == ["not in B"]
    assert shown[2][2][1] == shown[4][2][1] == " "  # apart, they have no bracket
    assert "linear_qkv.weight" in shown[2][2]
    assert "linear_qkv.weight" in shown[4][2]


def test_a_tied_copy_says_so() -> None:
    b = megatron()
    embed = next(iter(b.tensors.values()))
    tied = replace(
        embed,
        name="lm_head.weight",
        padding=(),
        pieces=tuple(replace(piece, part_of=embed.name) for piece in embed.pieces),
    )
    b = replace(b, tensors={**b.tensors, tied.name: tied})
    shown = panes(b)
    assert "tied" in shown[-1][2]
    assert "tied" not in shown[0][2]


def test_one_checkpoint_stands_beside_its_canonical_names() -> None:
    shown = panes(megatron())
    assert shown[3][0].split() == ["self_attn.k_proj.weight", "16x32"]
    assert shown[3][1].split() == ["BF16", "1.02", "kB"]
    assert shown[2][2].split()[:2] == ["┌", "self_attention.linear_qkv.weight"]


def test_the_name_that_is_copied_is_that_of_the_side() -> None:
    pair = PairRows(session_of(huggingface(), megatron(), compare=False)).pair
    assert pair.stored_name("a", Q) == Q
    assert pair.stored_name("b", Q) == "decoder.layers.0.self_attention.linear_qkv.weight"
    assert not PairRows(session_of(huggingface(), compare=False)).pair.has_two
    assert PairRows(session_of(megatron(), compare=False)).pair.has_two


async def test_tab_changes_the_side_and_the_bar_changes_the_view(app: CkptDiffApp) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        shown = rows(app)
        assert shown.cells.has_panes
        assert lines(shown)[0].split()[0] == "A"
        slot = tensors(app).query_one(DetailSlot)
        assert slot.region.y > shown.region.y
        sides = []
        for key in ("tab", "tab", "shift+tab"):
            await pilot.press(key)
            sides.append(shown.cells.pane)
        assert sides == ["b", "a", "b"]
        assert shown.has_focus
        await pilot.press("vertical_line")
        assert tensors(app).session.view == "names"
        await settle(app, pilot)
        assert lines(shown)[0].split()[:2] == ["St", "Tensor"]
        assert slot.region.y == shown.region.y


async def test_a_narrow_terminal_has_one_pane(app: CkptDiffApp) -> None:
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        assert not rows(app).cells.has_panes
        await pilot.resize_terminal(110, 24)
        await settle(app, pilot)
        assert rows(app).cells.has_panes
        assert not tensors(app).query_one(DetailSlot).display
