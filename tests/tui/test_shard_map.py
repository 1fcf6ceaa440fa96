"""The shard map's text, line by line, as it must be for a layout worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ckptdiff.assembly.recipe import Assembled, Assembly, Piece
from ckptdiff.assembly.shard_map import letters, stored_parts
from ckptdiff.checkpoint import Checkpoint, Parallelism, Rank, TensorRef, contiguous
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.storage import StoredSide, box_text, files_text, place_parts, rank_text
from ckptdiff.tui.widgets.shard_map import MapStyle, map_lines, stored_bar
from tests.support.tui.handmade import EMBED, NORM, O_PROJ, K, Q, V, huggingface, megatron

pytestmark = pytest.mark.mostly_slow(one_in=3)


def sides(name: str) -> list[StoredSide]:
    return [
        StoredSide(letter, side, side.tensors.get(name), tuple(side.tensors.values()))
        for letter, side in (("A", huggingface()), ("B", megatron()))
    ]


def drawn(name: str, look: MapStyle) -> list[str]:
    return plain(map_lines(sides(name), look))


def test_query_rows_lie_between_keys_and_values_of_each_rank() -> None:
    assert drawn(Q, MapStyle(76)) == [
        "A  model.safetensors  @6760  bf16 64x32  4.1 kB",
        "B  mp_rank_00..01  decoder.layers.0.self_attention.linear_qkv.weight",
        "   bf16 48x32 each",
        "   rank 0 |QQQQkv| rows 0:32    rank 1 |QQQQkv| rows 32:64",
        "   Q = this tensor  k = k_proj  v = v_proj",
    ]


def test_this_tensor_is_upper_case_wherever_it_lies() -> None:
    assert drawn(V, MapStyle(76))[3:] == [
        "   rank 0 |qqqqkV| rows 0:8    rank 1 |qqqqkV| rows 8:16",
        "   V = this tensor  q = q_proj  k = k_proj",
    ]


def test_a_narrow_map_shortens_names_and_puts_ranks_below_each_other() -> None:
    assert drawn(K, MapStyle(41)) == [
        "A  model.safetensors  @10856  bf16 16x32",
        "   1.02 kB",
        "B  mp_rank_00..01",
        "   decoder.layers.0.s…n.linear_qkv.weight",
        "   bf16 48x32 each",
        "   rank 0 |qqqqKv| rows 0:8",
        "   rank 1 |qqqqKv| rows 8:16",
        "   K = this tensor  q = q_proj",
        "   v = v_proj",
    ]


def test_column_slices_say_which_columns_they_are() -> None:
    assert drawn(O_PROJ, MapStyle(76))[3:] == [
        "   rank 0 |OOOOOOOO| columns 0:32    rank 1 |OOOOOOOO| columns 32:64",
        "   O = this tensor",
    ]


def test_copies_are_listed_with_their_ranks() -> None:
    assert drawn(NORM, MapStyle(76))[1:] == [
        "B  mp_rank_00/model_optim_rng.pt  decoder.layers.0.input_layernorm.weight",
        "   @64  bf16 32  64 B",
        "   copies on rank 1",
    ]


def test_the_whole_map_names_the_file_of_every_copy() -> None:
    assert drawn(NORM, MapStyle(76, whole=True))[2:] == [
        "B  mp_rank_00/model_optim_rng.pt  decoder.layers.0.input_layernorm.weight",
        "   @64  bf16 32  64 B",
        "   copy on rank 1  mp_rank_01/model_optim_rng.pt  @64",
    ]


def test_the_whole_map_gives_every_file_byte_row_and_padding() -> None:
    assert drawn(EMBED, MapStyle(76, whole=True)) == [
        "A  model.safetensors  @1000  bf16 90x32  5.76 kB",
        "",
        "B  mp_rank_00..01  embedding.word_embeddings.weight  bf16 48x32 each",
        "   rank 0  mp_rank_00/model_optim_rng.pt  @30000",
        "           |EEEEEEEE|",
        "           holds rows 0:48",
        "   rank 1  mp_rank_01/model_optim_rng.pt  @30000",
        "           |EEEEEEE.|",
        "           rows 0:42 hold rows 48:90",
        "           rows 42:48 are padding",
        "   E = this tensor  . = padding",
        "   +6 padding rows behind row 89",
    ]


def padded_vocabulary() -> StoredSide:
    """TP 2 with 256 rows on each rank, the last 12 of them padding."""
    refs = [
        TensorRef("we", (256, 4), "BF16", Path(f"/m/mp_rank_0{tp}/m.pt"), 0, contiguous((256, 4)))
        for tp in (0, 1)
    ]
    columns = (0, 4)

    def piece(tp: int, of: tuple[int, int], to: tuple[int, int]) -> Piece:
        return Piece(refs[tp], Rank(tp), (of, columns), (to, columns))

    pieces = piece(0, (0, 256), (0, 256)), piece(1, (0, 244), (256, 500))
    padding = (piece(1, (244, 256), (500, 512)),)
    tensor = Assembly(EMBED, (500, 4), "BF16", pieces, padding=padding)
    side = replace(megatron(), tensors={EMBED: tensor})
    return StoredSide("B", side, tensor, (tensor,))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("width", [44, 76, 120])
def test_ranks_that_hold_as_much_are_drawn_as_long(width: int, *, whole: bool) -> None:
    lines = plain(map_lines([padded_vocabulary()], MapStyle(width, whole=whole)))
    bars = [bar for text in lines for bar in re.findall(r"\|[E.]+\|", text)]
    assert len(bars) == 2
    assert len(bars[0]) == len(bars[1])
    assert "." in bars[1]


def test_a_tensor_that_one_side_lacks_is_said_to_be_missing() -> None:
    side = StoredSide("B", megatron(), None)
    assert plain(map_lines([side], MapStyle(76))) == ["B  not in B"]


@pytest.mark.parametrize(
    ("name", "index", "place"),
    [
        # A starts at byte 6760 and has 32 columns of two bytes.
        (Q, (40, 3), ("model.safetensors", Q, [40, 3], 6760 + (40 * 32 + 3) * 2)),
        (EMBED, (0, 0), ("model.safetensors", EMBED, [0, 0], 1000)),
    ],
)
def test_an_element_is_found_in_a_whole_tensor(
    name: str, index: tuple[int, ...], place: tuple[str, str, list[int], int]
) -> None:
    file, key, at, byte = place
    assert place_parts(sides(name)[0], index) == (file, f"{key}{at}", f"byte {byte}")


def test_an_element_is_found_in_its_shard() -> None:
    # Row 40 of q is row 8 of rank 1's query rows, which come first there.
    assert place_parts(sides(Q)[1], (40, 3)) == (
        "mp_rank_01/model_optim_rng.pt",
        "decoder.layers.0.self_attention.linear_qkv.weight[8, 3]",
        f"byte {5000 + (8 * 32 + 3) * 2}",
    )
    # Row 9 of k is row 1 of rank 1's key rows, which follow 32 query rows.
    assert place_parts(sides(K)[1], (9, 0))[1].endswith("linear_qkv.weight[33, 0]")
    # Column 40 of o_proj is column 8 of rank 1.
    file, key, _ = place_parts(sides(O_PROJ)[1], (2, 40))
    assert file == "mp_rank_01/model_optim_rng.pt"
    assert key.endswith("linear_proj.weight[2, 8]")


# ── many ranks, many groups, stacks ──────────────────────────────────────────────────────────────


def fused(ranks: int, groups: int) -> Assembled:
    """A q_proj of `groups` groups of two heads of four rows on each of `ranks` ranks."""
    tensors = {}
    rows = groups * 16
    for name, start, size in (("q", 0, 8), ("k", 8, 4), ("v", 12, 4)):
        pieces = []
        for tp in range(ranks):
            file = Path(f"/m/mp_rank_{tp:02}/model.pt")
            ref = TensorRef("qkv", (rows, 4), "F32", file, 0, contiguous((rows, 4)))
            for g in range(groups):
                of = (g * 16 + start, g * 16 + start + size)
                at = (tp * groups + g) * size
                pieces.append(Piece(ref, Rank(tp), (of, (0, 4)), ((at, at + size), (0, 4))))
        shape = (ranks * groups * size, 4)
        tensors[f"{name}.weight"] = Assembly(f"{name}.weight", shape, "F32", tuple(pieces))
    checkpoint = Checkpoint(Path("/m"), "megatron", "megatron", {}, Parallelism(tp=ranks), (), ())
    return Assembled(checkpoint, None, None, tensors, (), {})


def map_of(assembled: Assembled, name: str, look: MapStyle) -> list[str]:
    side = StoredSide("B", assembled, assembled.tensors[name], tuple(assembled.tensors.values()))
    return plain(map_lines([side], look))


def test_groups_are_told_apart_by_bars() -> None:
    lines = map_of(fused(2, 2), "q.weight", MapStyle(80))
    assert "   rank 0 |QQkv|QQkv| rows 0:16    rank 1 |QQkv|QQkv| rows 16:32" in lines


def test_ranks_beyond_the_space_are_counted_not_dropped() -> None:
    lines = map_of(fused(64, 1), "q.weight", MapStyle(60, most=3, hint="; m shows all"))
    assert lines[:2] == ["B  mp_rank_00..63  qkv  f32 16x4 each", "   rank 0  |QQQQkkvv| rows 0:8"]
    assert lines[2] == "   rank 1  |QQQQkkvv| rows 8:16"
    assert lines[3] == "   and 62 more ranks; m shows all"
    whole = map_of(fused(64, 1), "q.weight", MapStyle(60, whole=True))
    assert sum(line.startswith("   rank") for line in whole) == 64


def test_groups_beyond_the_space_are_cut_off_with_a_mark() -> None:
    assembled = fused(1, 40)
    part = stored_parts(assembled.tensors["q.weight"], assembled.tensors.values())[0]
    letter = letters("q.weight", ["k.weight", "v.weight"])
    spans = stored_bar(part, letter, "q.weight", 20)
    text = "".join(text for text, _ in spans)
    assert text == "|QQkv|QQkv|QQkv|~"
    assert len(text) <= 20


def test_one_layer_of_a_stack_shows_only_its_own_neighbours() -> None:
    ref = TensorRef("fc1", (3, 8, 4), "BF16", Path("/m/__0_0.distcp"), 0, contiguous((3, 8, 4)))

    def half(name: str, layer: int, rows: tuple[int, int]) -> Assembly:
        of = ((layer, layer + 1), rows, (0, 4))
        piece = Piece(ref, Rank(), of, ((0, 4), (0, 4)))
        return Assembly(name, (4, 4), "BF16", (piece,))

    tensors = {
        f"layers.{layer}.mlp.{name}.weight": half(f"layers.{layer}.mlp.{name}.weight", layer, rows)
        for layer in range(3)
        for name, rows in (("gate", (0, 4)), ("up", (4, 8)))
    }
    checkpoint = Checkpoint(Path("/m"), "torch_dist", "megatron", {}, Parallelism(), (), ())
    assembled = Assembled(checkpoint, None, None, tensors, (), {})
    assert map_of(assembled, "layers.1.mlp.gate.weight", MapStyle(70)) == [
        "B  __0_0.distcp  fc1  @0  [1] of bf16 3x8x4  32 B",
        "   rank 0 |GGGGuuuu| all of it",
        "   G = this tensor  u = up",
    ]


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_letters_tell_names_apart() -> None:
    assert letters("a.w1.weight", ["a.w3.weight"]) == {"a.w1.weight": "W", "a.w3.weight": "3"}
    assert letters("model.norm.weight", []) == {"model.norm.weight": "N"}


def test_many_files_are_named_by_the_first_and_the_last() -> None:
    folders = [f"mp_rank_{tp:02}_{pp:03}/model.pt" for tp in range(4) for pp in (1,)]
    assert files_text(folders) == "mp_rank_00_001..03_001"
    assert files_text(["a.bin"]) == "a.bin"
    assert files_text(["__0_0.distcp", "__1_0.distcp"]) == "2 files"


def test_a_rank_is_named_by_what_the_checkpoint_divides() -> None:
    def named(rank: Rank, sizes: Parallelism) -> str:
        return rank_text(rank, Checkpoint(Path("/m"), "megatron", "megatron", {}, sizes, (), ()))

    assert named(Rank(3), Parallelism(tp=4)) == "rank 3"
    assert named(Rank(3, 1), Parallelism(tp=4, pp=2)) == "tp 3 pp 1"
    assert named(Rank(0, 0, 5), Parallelism(ep=8)) == "ep 5"


def test_a_box_names_only_the_dimensions_it_cuts() -> None:
    assert box_text(((0, 4), (2, 3)), (4, 5)) == "columns 2:3"
    assert box_text(((1, 4), (2, 3)), (4, 5)) == "rows 1:4, columns 2:3"
    assert box_text(((1, 2), (0, 3), (0, 5)), (4, 3, 5)) == "dim 0 1:2"
    assert box_text(((0, 4),), (4,)) == "all of it"
