"""The view of files: what each file of a checkpoint holds, and how what it fills compares."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.recipe import Assembled, Assembly, Piece
from ckptdiff.checkpoint import Checkpoint, Parallelism, Rank, Shard, TensorRef
from ckptdiff.formats import open_checkpoint
from ckptdiff.tui.model.stored import HeldFile, HeldFiles, StoredRow, held_files, stored_files
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.text.stored import fills_words
from tests.support.tui.fakes import A, B, FakeEngine, layer
from tests.support.tui.handmade import session_of
from tests.support.tui.harness import lines, rows, settle, tensors, toasts
from tests.support.tui.held import may_go_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptdiff.tui.app import CkptDiffApp
    from ckptdiff.tui.model.session import Session

NARROW = (80, 24)
QKV = "decoder.layers.0.self_attention.linear_qkv.weight"


def opened(folder: Path) -> Assembled:
    return assemble(open_checkpoint(folder))


def show_files(session: Session) -> None:
    """Show the view of files, listed as the screen's worker lists them."""
    side = session.files.side
    assert side is not None
    session.show_view("files")
    assert session.files.rows == []
    session.show_files(held_files(side))


def named(held: HeldFile, name: str) -> StoredRow:
    return next(row for row in held.tensors if row.name == name)


def test_each_rank_says_what_it_holds(corpus: Path) -> None:
    side = opened(corpus / "llama2/megatron-tp2-pp2-core-local")
    session = session_of(side)
    files = {held.folder: held for held in stored_files(side)}
    assert list(files) == ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]
    last = files["mp_rank_01_001"]
    assert last.ranks == (Rank(tp=1, pp=1),)
    # The first layer of the second stage is layer 2 of the model.
    assert fills_words(session, named(last, QKV)) == "q k v of layer 2"
    assert fills_words(session, named(last, "decoder.layers.1.mlp.linear_fc1.weight")) == (
        "gate up of layer 3"
    )
    norm = "decoder.layers.0.input_layernorm.weight"
    assert fills_words(session, named(last, norm)) == "input_layernorm of layer 2, copy"
    assert fills_words(session, named(files["mp_rank_00_001"], norm)) == (
        "input_layernorm of layer 2"
    )
    assert last.nbytes == sum(row.ref.nbytes for row in last.tensors)


@pytest.mark.parametrize(
    "folder",
    [
        "mixtral/megatron-tp2-pp1-ep2-groupedmlp-torch",  # experts are views in one tensor
        "deepseek-v3/megatron-tp2-pp2-ep2-torch",
        "deepseek-v3/megatron-tp2-pp2-ep2-torch_dist",
        "gpt2/megatron-tp2-pp2-te-torch",
        "llama2-8l/megatron-tp2-pp2-vpp4-torch",
        "llama2/hf-bin",
    ],
)
def test_every_stored_tensor_fills_something_and_every_tensor_is_in_a_file(
    corpus: Path, folder: str
) -> None:
    side = opened(corpus / folder)
    held = [row for file in stored_files(side) for row in file.tensors]
    assert all(row.fills for row in held)
    assert {name for row in held for name in row.fills} == side.tensors.keys()


def test_experts_lie_in_the_file_of_their_rank(corpus: Path) -> None:
    side = opened(corpus / "mixtral/megatron-tp1-pp1-ep2-tegrouped-torch")
    session = session_of(side)
    first, second = stored_files(side)
    assert (first.ranks, second.ranks) == ((Rank(ep=0),), (Rank(ep=1),))
    words = {fills_words(session, row) for row in second.tensors}
    assert "w1 w3 of expert 2, layer 0" in words
    assert "w1 w3 of expert 0, layer 0" not in words


def test_a_grouped_tensor_is_counted_where_it_fills_many(corpus: Path) -> None:
    side = opened(corpus / "mixtral/megatron-tp2-pp1-ep2-groupedmlp-torch")
    words = [fills_words(session_of(side), row) for row in stored_files(side)[0].tensors]
    assert "4 tensors of layer 0" in words or any("w1" in each and "w3" in each for each in words)


def test_a_distributed_file_says_its_chunks(corpus: Path) -> None:
    side = opened(corpus / "llama2/megatron-tp2-pp2-torch_dist")
    session = session_of(side)
    files = stored_files(side)
    assert [held.name for held in files][:2] == ["__0_0.distcp", "__0_1.distcp"]
    assert all(not held.ranks for held in files)
    found = [row for row in files[-1].tensors if row.name == QKV.replace(".0.", ".2.")]
    assert [row.box for row in found] == [((96, 192), (0, 64))]
    assert fills_words(session, found[0]) == "q k v of layer 2, rows 96:192"


def test_files_of_a_stage_with_several_chunks_say_the_chunk(corpus: Path) -> None:
    side = opened(corpus / "llama2-8l/megatron-tp2-pp2-vpp4-torch")
    session = session_of(side)
    words = [fills_words(session, row) for row in stored_files(side)[-1].tensors if row.name == QKV]
    assert words == [f"q k v of layer {2 * n + 1}, chunk {n}" for n in range(4)]


def test_the_next_difference_is_the_next_stored_tensor(corpus: Path) -> None:
    b = "broken/mixtral-tp1-ep2-core_r0.12-converter-bug-expert-weights-garbage"
    session = session_of(opened(corpus / "mixtral/hf"), opened(corpus / b))
    show_files(session)
    files = session.files
    assert [files.is_unfolded(held) for held in files.files] == [True, False]
    assert session.tensors.in_sight(files.rows) == ()
    differing = [row for held in files.files for row in held.tensors if files.differs(row)]
    assert sum("experts" in row.name for row in differing) == 2 * 4 * 2 * 2  # all of them
    seen = []
    row = None
    for _ in differing:
        row = files.next_difference(row)
        assert isinstance(row, StoredRow)
        seen.append(row)
    assert seen == differing
    assert files.next_difference(row) is seen[0]
    assert files.next_difference(seen[0], -1) is seen[-1]
    last = seen[-1]
    index = files.reveal(last)
    assert index is not None
    assert files.rows[index] is last
    held = files.files[1]
    counts, worst = files.tally(held)
    assert counts["differ"] == 16
    assert counts.total() == len(held.tensors)
    assert worst == max(files.worst(row) or 0 for row in held.tensors)
    session.sort = "max"
    session.arrange()
    first = [row for row in files.shown if row.file is files.shown[0].file]
    assert files.status(first[0]) == "shape"  # worse than any number
    figures = [worst for row in first if (worst := files.worst(row)) is not None]
    assert figures == sorted(figures, reverse=True)


def test_the_filter_is_of_stored_names(corpus: Path) -> None:
    side = opened(corpus / "llama2/megatron-tp2-pp2-core-local")
    session = session_of(side)
    show_files(session)
    files = session.files
    assert all(isinstance(row, HeldFile) for row in files.rows)  # none differs: all are folded
    session.set_filter("linear_fc1")
    assert {row.name.rpartition("mlp.")[2] for row in files.shown} == {"linear_fc1.weight"}
    assert len(files.rows) == len(files.shown) + 4
    session.set_filter("gate_proj")
    assert files.rows == []


@pytest.mark.slow
def test_ninety_thousand_tensors_are_quick() -> None:
    refs, tensors = {}, {}
    for number in range(90_000):
        name = f"model.layers.{number // 800}.mlp.experts.{number % 800}.up_proj.weight"
        file = Path(f"/ckpt/model-{number // 600:05}.safetensors")
        ref = TensorRef(name, (8, 8), "BF16", file, number * 128, (8, 1))
        box = ((0, 8), (0, 8))
        refs[name] = ref
        tensors[name] = Assembly(name, (8, 8), "BF16", (Piece(ref, Rank(), box, box),))
    shard = Shard(Rank(), 0, refs)
    root = Path("/ckpt")
    checkpoint = Checkpoint(root, "hf", "hf", {}, Parallelism(), (shard,), ())
    session = session_of(Assembled(checkpoint, None, None, tensors, (), {}))
    started = time.process_time()
    show_files(session)
    assert len(session.files.rows) == 150
    assert session.files.reveal(name) is not None
    assert time.process_time() - started < 3
    started = time.process_time()
    session.files.fold_all(unfolded=True)
    assert len(session.files.rows) == 90_150
    assert time.process_time() - started < 1


@pytest.mark.slow
async def test_a_key_shows_the_files_and_the_cursor_stays_on_its_tensor(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("n")
        name = rows(app).name_here
        await pilot.press("vertical_line")
        await settle(app, pilot)
        assert tensors(app).session.view == "files"
        shown = lines(rows(app))
        assert shown[0].split() == ["St", "Stored", "tensor", "Shape", "Fills", "max|d|"]
        assert "rank 0" in shown[1]
        assert "St, max|d| of whole tensors" in str(rows(app).border_title)
        assert rows(app).name_here == name
        row = rows(app).row
        assert isinstance(row, StoredRow)
        await pilot.press("n")
        assert rows(app).row is not row
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, DetailScreen)
        await pilot.press("escape", "h")
        assert isinstance(rows(app).row, HeldFile)
        assert len(rows(app).rows) == 1
        await pilot.press("l", "d")
        assert len(tensors(app).session.files.shown) == 4
        await pilot.press("d", "slash", *"k_proj", "enter")
        assert [r.name for r in tensors(app).session.files.shown] == [
            layer(number, "self_attn.k_proj.weight") for number in range(3)
        ]
        assert "3 of 14" in str(rows(app).border_title)


@pytest.mark.slow
async def test_a_tensor_without_a_rule_says_so(
    make_app: Callable[..., CkptDiffApp], engine: FakeEngine
) -> None:
    engine.unmapped = ("odd.weight",)
    app = make_app(A, B)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("vertical_line")
        await settle(app, pilot)
        await pilot.press("slash", *"odd", "enter", "G")
        (line,) = [line for line in lines(rows(app)) if "odd.weight" in line]
        assert "no rule" in line
        await pilot.press("enter")
        assert "No rule of this model family knows odd.weight of B" in toasts(app)[-1]


async def test_one_checkpoint_alone_has_files_too(make_app: Callable[..., CkptDiffApp]) -> None:
    app = make_app(A)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("vertical_line")
        await settle(app, pilot)
        shown = lines(rows(app))
        assert shown[0].split() == ["Stored", "tensor", "Shape", "Size", "Fills"]
        assert "model.safetensors" in shown[1]
        assert "embed_tokens" in shown[2]


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have the worker that lists the files wait until this is set."""
    gate = threading.Event()

    def held(side: Assembled) -> HeldFiles:
        may_go_on(gate)
        return held_files(side)

    monkeypatch.setattr("ckptdiff.tui.workers.files.held_files", held)
    yield gate
    gate.set()


async def test_keys_are_answered_while_the_files_are_listed(
    app: CkptDiffApp, listing: threading.Event
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("n")
        name = rows(app).name_here
        assert name is not None
        await pilot.press("vertical_line")
        await pilot.pause()
        assert "Reading what each file holds ..." in lines(rows(app))[2]
        assert rows(app).border_title == "B's files  St, max|d| of whole tensors, not of one file"
        await pilot.press("j", "n", "d", "d", "enter", "vertical_line")
        assert tensors(app).session.view != "files"
        assert rows(app).name_here == name
        await pilot.press("vertical_line")
        await pilot.pause()
        assert not listing.is_set()  # all this while the files are being listed
        listing.set()
        await settle(app, pilot)
        assert isinstance(rows(app).row, StoredRow)
        assert rows(app).name_here == name


async def test_files_that_are_read_again_are_listed_again(app: CkptDiffApp) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("n", "vertical_line")
        await settle(app, pilot)
        before, name = rows(app).row, rows(app).name_here
        assert isinstance(before, StoredRow)
        await pilot.press("r")
        await settle(app, pilot)
        assert rows(app).row is not before
        assert rows(app).name_here == name


async def test_a_bug_in_listing_is_called_one_and_the_names_come_back(
    app: CkptDiffApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Assembled) -> HeldFiles:
        raise KeyError("x")

    monkeypatch.setattr("ckptdiff.tui.workers.files.held_files", broken)
    async with app.run_test(size=NARROW) as pilot:
        await settle(app, pilot)
        await pilot.press("vertical_line")
        await settle(app, pilot)
        assert toasts(app) == ["KeyError: 'x'. This is a bug in ckptdiff."]
        assert tensors(app).session.view == "names"
        assert rows(app).rows
