"""What a comparison of scores says: the verdict first, 80 columns, the JSON, a page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.formats import open_checkpoint
from ckptdiff.report.score_page import score_page
from ckptdiff.report.scores import score_document, score_lines
from ckptdiff.results import CauseShare
from ckptdiff.scores.paired import items_needed
from ckptdiff.scores.published import NVIDIA_LLAMA2
from ckptdiff.scores.results import Paired, ScoreDiff, TaskScore
from tests.support.program import parse
from tests.support.score_results import (
    RIGHT,
    ROWS,
    STEP,
    WRONG,
    faulty,
    found,
    item,
    marked,
    question,
    rolling,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled

    Make = Callable[..., Path]
    Said = Callable[..., list[str]]
    Document = Callable[..., dict[str, Any]]
    Page = Callable[..., str]


@pytest.fixture(scope="module")
def sides(tiny_hf: Make, tiny_megatron: Make) -> tuple[Assembled, Assembled]:
    return assemble_pair(open_checkpoint(tiny_hf()), open_checkpoint(tiny_megatron(tp=2)))


@pytest.fixture
def said(sides: tuple[Assembled, Assembled]) -> Said:
    """Return a function that gives the lines, those of A and B left out."""

    def lines(diff: ScoreDiff, **options: Any) -> list[str]:
        printed = score_lines(*sides, diff, seconds=1.23, **options)
        return [line for line in printed if not line.startswith(("A ", "B "))]

    return lines


@pytest.fixture
def document(sides: tuple[Assembled, Assembled]) -> Document:
    """Return a function that gives the document as strict JSON has it."""
    return lambda diff, *beside: parse(
        json.dumps(score_document(*sides, diff, *beside), allow_nan=False)
    )


@pytest.fixture
def page(sides: tuple[Assembled, Assembled]) -> Page:
    return lambda diff, *beside: score_page(*sides, diff, *beside)


def joined(lines: list[str]) -> str:
    """Return lines as one text, however they are wrapped."""
    return " ".join(" ".join(lines).split())


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def test_the_verdict_comes_first_and_last(said: Said) -> None:
    lines = said(found())
    assert lines[0].startswith("=  Only arithmetic for these items: ")
    assert lines[-2:] == ["1 item, 2 answers in fp32 on cpu in 1.2 s", "verdict: arithmetic"]
    assert said(faulty())[0].startswith("✗  Weights or config differ: ")
    assert said(faulty())[-1] == "verdict: weights-or-config"
    assert said(found(verdict="undecided"))[0].startswith("?  ")


def test_what_was_stopped_says_so_before_anything(said: Said) -> None:
    lines = said(faulty(complete=False))
    assert lines[0] == "!  Stopped: all that follows is of 12 items, 24 answers."
    assert lines[1].startswith("✗  ")
    assert lines[-1] == "verdict: weights-or-config, of what was answered"


def test_a_step_that_bf16_leaves_open_says_how_to_decide(said: Said) -> None:
    lines = said(found(verdict="undecided", sentence="Not decided.", dtype="bf16", step=STEP))
    assert lines[1] == "   --dtype fp32 tells which"
    assert "     model.layers.2.self_attn.k_proj.weight" in lines
    assert "   --dtype fp32 tells which" not in said(found(verdict="undecided"))


def test_the_table_is_in_groups(said: Said) -> None:
    lines = said(found())
    at = next(n for n, line in enumerate(lines) if "|A-B|/A" in line)
    assert [line.split() for line in lines[at : at + 7]] == [
        ["task", "metric", "items", "A", "B", "|A-B|/A"],
        ["bigbench"],
        ["date_understanding", "acc", "369", "0.5000", "0.5000", "0.00%"],
        ["multilingual"],
        ["xcopa_et", "acc", "100", "0.5600", "0.5500", "1.79%"],
        ["lm-eval"],
        ["hellaswag", "acc", "100", "0.3000", "0.3000", "0.00%"],
    ]
    text = joined(lines)
    assert "MMLU stem [1] acc 152 0.0000 0.1000 - other [2] acc 301 0.3000 0.3050 1.67%" in text
    # What is not equal is never shown as nothing.
    assert "wikitext word_perplexity 62 20.5000 20.5000 <0.01%" in text


def test_the_mean_says_what_it_is_over(said: Said) -> None:
    text = joined(said(found()))
    # (0 + 0.01 / 0.56 + 0 + 0.0003 / 0.62 + 0.01 / 0.25 + 0) / 6
    assert (
        "mean of |A-B|/A over 6 tasks: 0.97%; without wikitext (the metric is no share of right "
        "answers); without mmlu_astronomy (A has none right)"
    ) in text
    text = joined(said(found(tasks=ROWS[-1:], mean=None)))
    assert "no task has a part in a mean of |A-B|/A; without wikitext" in text
    assert "no task has a score" in joined(said(found(tasks=(), mean=None)))


def test_items_tell_what_the_table_does_not(said: Said) -> None:
    lines = said(faulty())
    text = joined(lines[lines.index("   What the table does not show") :])
    paired, unpaired = items_needed(10 / 12, 2 / 12)
    for words in (
        "at most 5.50 nats apart, median 0; by the floor",
        "choose the same in 10 of 12 items: 2 flips, 0 within the margin that the floor can close, "
        "2 beyond it.",
        "At distances like these, 12 of 12 could flip at all.",
        "Right on one side alone: 2 in A, 0 in B. McNemar's exact test: p = 0.5.",
        "A's accuracy less B's: +0.1667, standard error 0.1124 paired, 0.1812 unpaired",
        "makes these items worth 31 unpaired ones.",
        f"(0.8333) 4 times of 5: {paired:,} items asked of both, with 16.67% of the items right "
        f"on one side alone, as here; {unpaired:,} a side unpaired. Here: 12.",
        "acc_norm divides by the answer's length first",
    ):
        assert words in text
    assert (
        "Of rounding alone, by the floor, 0 flips and a mean of |A-B|/A over tasks of 0.00%" in text
    )
    moved = [item((-1.0, -1.5), floor=(-1.0, -0.5)), *marked(5, 0, 0, 4)]
    # Half of a tenth of the moves is 1, the margins that it closes are 0.5 and nine of 1.
    assert "by the floor, 0.05 flips and" in joined(said(found(moved)))
    without = joined(said(faulty(tasks=ROWS[:2])))
    assert "acc_norm" not in without


def test_no_difference_at_all_is_no_proof(said: Said) -> None:
    text = joined(said(found(marked(60, 0, 0, 40))))
    # 0.9705^100 = 0.05
    assert "if up to 2.95% of all such items did, 100 items may still show none (95 %)" in text
    assert "worth" not in text
    assert "0 flips." in text


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([rolling((-9.0,), (-9.5,))], "No item has choices"),
        ([item(RIGHT, WRONG, target=None)], "No right answer is known"),
        ([item(RIGHT, WRONG)], "One item has no standard error"),
        ([item(RIGHT, (math.nan, math.nan))], "at most inf nats apart"),
        (
            [item(RIGHT, (math.nan, -1.0)), item(RIGHT)],
            "B's log-likelihoods are no numbers in 1 of 2 items: its choices and scores there mean",
        ),
    ],
)
def test_what_cannot_be_told_is_said(said: Said, items: list[Any], words: str) -> None:
    text = joined(said(found(items)))
    assert words in text
    assert "nan" not in text


def test_without_items_there_is_nothing_to_tell(said: Said) -> None:
    text = joined(said(found([], sentence="Not decided: no item was answered.")))
    assert "does not show" not in text
    assert "0 items, 0 answers" in text


def test_the_first_item_that_shows_it_comes_with_its_command(
    said: Said, sides: tuple[Assembled, Assembled]
) -> None:
    lines = said(faulty())
    at = lines.index("   The first item that shows it")
    assert lines[at + 1] == "   item 12 of boolq: Is the sky blue?"
    assert [line.split() for line in lines[at + 3 : at + 5]] == [
        ["A", "yes", "-1.0000", "-6.5000"],
        ["B", "no", "-2.0000", "-3.0000"],
    ]
    a, b = (side.checkpoint.root for side in sides)
    assert lines[at + 5] == f"   ckptdiff logits {a} {b} --ids 1,5,7"
    assert "The first item" not in "\n".join(said(found()))


def test_a_text_of_thousands_of_tokens_is_no_command(said: Said) -> None:
    long = rolling((-9.0,), (-1.0,), questions=(question(*range(5000)),))
    lines = said(found([long], shown_by=long))
    assert "   --json FILE has its token ids, for `ckptdiff logits A B --ids`" in lines
    assert not any(line.startswith("   ckptdiff logits") for line in lines)


def test_figures_of_others_stand_beside_with_their_source(said: Said) -> None:
    lines = said(faulty(), beside=NVIDIA_LLAMA2)
    boolq = next(line for line in lines if line.split()[:1] == ["boolq"])
    assert boolq.split()[-3:] == ["0.04%", "0.04%", "0.07%"]
    wikitext = next(line for line in lines if line.split()[:1] == ["wikitext"])
    assert wikitext.split()[-3:] == ["-", "-", "-"]
    piqa = next(line for line in lines if line.split()[:1] == ["piqa"])
    assert lines.index(piqa) > lines.index("   published, but not asked here")
    assert piqa.split()[1:] == ["0.00%", "0.00%", "0.07%"]
    text = joined(lines)
    assert f"They are no part of the verdict. Source: {NVIDIA_LLAMA2.source}" in text
    assert "7b" not in "\n".join(said(faulty()))
    # All 27 rows are there, beside ours or below.
    shown = [line for line in lines if re.search(r"\d%\s+\d\.\d\d%\s+\d\.\d\d%$", line)]
    assert len(shown) == 27


def test_attribution_conditions_and_notes_are_said(said: Said) -> None:
    lines = said(
        found(
            attribution=(CauseShare("norm rounding", 0.065), CauseShare("fused QKV", 0.0)),
            conditions=("A is run with the same mask as B",),
            notes=("no BOS",),
        )
    )
    assert "        6.5%  norm rounding" in lines
    assert "   exactly 0  fused QKV" in lines
    assert "   This holds if A is run with the same mask as B." in lines
    assert "   no BOS" in lines


def hostile() -> ScoreDiff:
    long = "a_very_long_task_name_" * 3
    shown = item(
        RIGHT, WRONG, task=long, text="\x1b[31m| `x` <b>" * 99, choices=("\x1b[2J|", "`" * 90)
    )
    return found(
        [shown],
        tasks=(*ROWS, row(long, 1e9, math.nan), row("\x1b[31m|x|", math.inf, 0.0, "f1\n")),
        sentence="words of a sentence " * 20,
        step=STEP,
        shown_by=shown,
        notes=("\x1b[31mred", "words of a note " * 20),
        complete=False,
    )


@pytest.mark.parametrize("beside", [None, NVIDIA_LLAMA2])
def test_lines_have_80_columns_and_nothing_steers_the_terminal(said: Said, beside: Any) -> None:
    for line in said(hostile(), beside=beside):
        assert len(line) <= 80 or "ckptdiff logits" in line, line
        assert line.isprintable()


def test_columns_stand_below_each_other_whatever_the_script(said: Said) -> None:
    shown = item(RIGHT, WRONG, text="東京は" * 60, choices=("東京", "no"))
    lines = said(found([shown], shown_by=shown))
    at = lines.index("   The first item that shows it")
    shown_lines = [line for line in lines if "ckptdiff logits" not in line]
    assert all(sum(2 if ord(c) > 0x2E7F else 1 for c in line) <= 80 for line in shown_lines)
    head, first, second = (
        next(line for line in lines[at:] if line.startswith(start))
        for start in ("        log-likelihood", "     A ", "      B")
    )
    assert first.index("-1.0000") + 2 == second.index("-2.0000") == head.index("A") - 6


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_document_has_every_field_by_its_name(document: Document) -> None:
    told = document(faulty(complete=False), NVIDIA_LLAMA2)
    assert told["schema"] == "ckptdiff.scores/1"
    assert {one.name for one in fields(ScoreDiff)} <= set(told)
    assert set(told["paired"]) == {one.name for one in fields(Paired)}
    assert {one.name for one in fields(TaskScore)} <= set(told["tasks"][0])
    assert (told["verdict"], told["complete"]) == ("weights-or-config", False)
    assert len(told["tasks"]) == len(ROWS)  # every metric; `main` says which one is in the table
    assert [one["main"] for one in told["tasks"] if one["task"] == "hellaswag"] == [False, True]
    assert [one["group"] for one in told["groups"]][-2:] == ["MMLU", "other"]
    assert told["groups"][3]["rows"][1]["task"] == "other [2]"
    assert told["step"] == {
        "layer": 2, "name": "k", "rel": 1.4, "reads": ["model.layers.2.self_attn.k_proj.weight"],
    }  # fmt: skip
    assert told["shown_by"]["ids"] == [1, 5, 7]
    assert told["shown_by"]["command"].endswith(" --ids 1,5,7")
    last = told["items"][-1]
    assert (last["doc"], last["chosen_a"], last["chosen_b"], last["flip"]) == (12, 0, 1, True)
    assert last["answers"][0]["a"] == {"loglik": -1.0, "is_greedy": False}
    assert last["answers"][0]["weights_apart"] == 0.5
    assert told["needed"]["relative"] == 0.0015
    assert told["expected"] == {"flips": 0, "relative": 0}
    assert told["beside"]["source"] == NVIDIA_LLAMA2.source
    assert told["a"]["format"] == "hf"


def test_what_does_not_apply_is_null_and_what_is_not_finite_is_text(document: Document) -> None:
    told = document(
        found([rolling((-1.0,), (math.nan,))], tasks=(row("boolq", 0.0, math.nan),), mean=None)
    )
    for name in ("paired", "needed", "expected", "step", "shown_by", "mean", "budget", "beside"):
        assert told[name] is None
    assert told["tasks"][0]["b"] == "nan"
    assert told["tasks"][0]["relative"] is None
    assert told["distances"]["largest"] == "inf"
    assert told["items"][0]["chosen_a"] is None
    one = document(found(marked(3, 0, 0, 1)))
    assert one["paired"]["effective_items"] == "inf"
    assert document(found([]))["distances"] is None


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_says_what_the_terminal_does(page: Page) -> None:
    text = page(faulty(complete=False, notes=("no BOS",)), NVIDIA_LLAMA2)
    assert text.startswith("# ckptdiff scores: weights-or-config\n\n**Stopped: ")
    assert (
        "| `boolq` | `acc` | `100` | `0.6200` | `0.6197` | `0.05%` | 0.04% | 0.04% | 0.07% |"
        in text
    )
    assert "| `piqa` | 0.00% | 0.00% | 0.07% |" in text
    assert f"<{NVIDIA_LLAMA2.source}>" in text
    assert "- Right on one side alone: 2 in A, 0 in B." in text
    assert "```sh\nckptdiff logits " in text
    assert "- no BOS" in text


def test_rows_of_a_table_have_as_many_cells_as_its_head(page: Page) -> None:
    for diff, beside in ((hostile(), NVIDIA_LLAMA2), (faulty(), None)):
        counts: list[int] = []
        for line in page(diff, beside).splitlines():
            if not line.startswith("|"):
                counts = []
                continue
            counts.append(len(re.findall(r"(?<!\\)\|", line)))
            assert counts[-1] == counts[0], line


def test_nothing_in_a_page_is_markup_of_a_task(page: Page) -> None:
    text = page(hostile())
    assert "\x1b" not in text
    assert "<b>" not in text.replace("\\<b\\>", "")
