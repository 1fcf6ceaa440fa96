"""Packed weights on the screen: what is said of them, and what is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from ckptdiff.comparison.verdict import summarise
from ckptdiff.report.diff import side_document, side_line
from ckptdiff.tui.screens.detail import DetailScreen
from ckptdiff.tui.text.figures import meaning
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.list import why_not
from ckptdiff.tui.text.progress import outcome, state_words
from ckptdiff.tui.text.sides import title
from ckptdiff.tui.widgets.painted import Painted
from tests.support.pairs import open_pair, write_plain
from tests.support.tui.handmade import Host, session_of, settle

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.tui.model.session import Session

WEIGHT = "model.layers.0.mlp.up_proj.weight"
HQQ = {f"{WEIGHT.removesuffix('weight')}{end}": torch.ones(1) for end in ("W_q", "scale", "zero")}
WORDS = "HQQ (groups with a factor and a zero point)"


def sides(folder: Path, *, broken: bool = False) -> tuple[Path, Path]:
    norm = {"model.norm.weight": torch.ones(32)}
    a = write_plain(folder / "a", {WEIGHT: torch.ones(8, 32), **norm})
    b = write_plain(folder / "b", {**HQQ, **norm})
    (b / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "hqq"}}))
    if broken:  # another norm, so that there is a difference as well
        write_plain(folder / "b", {**HQQ, "model.norm.weight": torch.zeros(32)})
    return a, b


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return compared(*sides(tmp_path))


def compared(a: Path, b: Path) -> Session:
    pair = open_pair(a, b)
    session = session_of(*pair)
    session.summary = summarise(session.results, *pair)
    return session


def test_the_verdict_says_how_many_were_not_compared(session: Session) -> None:
    verdict, words = outcome(session)
    assert verdict == "packed"
    assert words.startswith(
        "% 1 of 2 tensors is packed on a side, so not compared: dequantise it first. "
        "Compared every byte of the others in "
    )


def test_what_differs_is_counted_apart_from_what_is_packed(tmp_path: Path) -> None:
    verdict, words = outcome(compared(*sides(tmp_path, broken=True)))
    assert verdict == "differ"
    assert words.startswith("! 1 of 2 tensors differs. 1 of 2 tensors is packed on a side")


def test_a_packed_weight_is_a_tensor_and_its_parts_are_its_bytes(tmp_path: Path) -> None:
    a, b = open_pair(*sides(tmp_path))
    document = side_document(b)
    held = 3 * 4 + 32 * 4  # three parts of a value each, and a norm
    counted = [document[key] for key in ("tensors", "packed_tensors", "bytes")]
    assert counted == [2, 1, held]
    assert side_line(b).partition("  (")[0].endswith(f"2 tensors, 1 of them packed  {held} B")
    assert "(2 tensors, 1 packed)" in title(session_of(a, b), 120)
    assert session_of(a, b).nbytes(WEIGHT) == 8 * 32 * 4 + 3 * 4


def test_there_is_no_cause_to_look_for(session: Session) -> None:
    assert not session.has_faults
    assert why_not(session, "findings") == (
        "No findings: nothing differs but what is packed, and that was not compared."
    )


def test_a_status_that_nobody_has_met_is_explained(session: Session) -> None:
    assert meaning(session.result(WEIGHT), "packed") == (
        "Packed on a side, or of a dtype without numbers: its values were not compared."
    )


def test_one_checkpoint_says_how_it_is_packed(tmp_path: Path) -> None:
    _, b = open_pair(*[sides(tmp_path)[1]] * 2)
    assert f"1 weight is packed as {WORDS}." in state_words(session_of(b))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_detail_says_where_the_parts_are(session: Session, size: tuple[int, int]) -> None:
    app = Host(DetailScreen(session, WEIGHT))
    async with app.run_test(size=size) as pilot:
        await settle(app, pilot)
        shown = [
            " ".join("\n".join(plain(w.lines(*w.content_size))).split())
            for w in app.screen.query(Painted)
        ]
        assert any(f"B packed as {WORDS}; stored as W_q, scale, zero" in text for text in shown)
        assert any(f"B is packed as {WORDS}, and was not multiplied out" in text for text in shown)
        assert not any("not in B" in text for text in shown)
