"""The outcome of a prompt in words, where the two programs are not given the same ids."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.logits.prompt import Prompt
from ckptdiff.results import Candidate, Next, Tap
from ckptdiff.tui.model.prompt_run import PromptRun
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.logits import (
    metric_items,
    outcome_lines,
    position_head,
    position_line,
    top_lines,
)
from ckptdiff.tui.text.taps import tap_words
from tests.support.tui.logits_made import IDS, clean

LOST = "A's tokenizer puts BOS (1 '<s>') before this text, B's does not: A's ids are used"
CHAT = "Chat template: 14 characters in A, none in B. A chat becomes another text"


def test_other_ids_are_marked_and_never_cut() -> None:
    run = PromptRun(1, "text", attribute=False, clock=lambda: 0.0)
    run.start(Prompt(IDS, ()))
    run.end("done", replace(clean(), fed=(LOST, CHAT), same_ids=False))
    lines = plain(outcome_lines(run, 60, roomy=False, ascii_only=True))
    start = next(number for number, text in enumerate(lines) if text.startswith("! "))
    assert " ".join(lines[start : start + 2]) == f"! {LOST}"
    assert lines[start + 2].startswith("Note: Chat template: 14 characters")


def test_a_probability_keeps_its_column_and_its_digits() -> None:
    after = Next(3, (Candidate(5, 0.25),), (Candidate(7, 0.000123),))
    for width in (60, 80, 120, 200):
        head, row = plain(top_lines(after, width, 4))
        assert [head[at - 1] for at in (row.index("0.250") + 5, row.index("1.2e-04") + 7)] == [
            "p",
            "p",
        ]
        assert len(row) <= width
        (head,) = plain([position_head(width)])
        (row,) = plain([position_line(after, "id 4", width)])
        assert [head[at - 1] for at in (row.index("0.250") + 5, row.index("1.2e-04") + 7)] == [
            "p",
            "p",
        ]
        assert len(row) <= width


def test_on_a_wide_screen_a_probability_stays_near_its_token() -> None:
    after = Next(3, (Candidate(5, 0.25),), (Candidate(7, 0.125),))
    for row in (*plain(top_lines(after, 200, 4))[1:], *plain([position_line(after, "x", 200)])):
        assert row.index("0.250") - row.index("id 5") < 50
        assert row.index("0.125") - row.index("id 7") < 50


def test_the_loss_with_padding_says_that_it_is_a_loss() -> None:
    metrics = replace(clean().metrics, nll_padded_b=6.27891)
    assert metric_items(metrics, 5)[-1] == "NLL with the vocabulary's padding B 6.2789"


def test_the_distance_of_a_step_has_the_form_of_every_number() -> None:
    tap = Tap(2, "k", 1.5, 3e-7, rest=0.02)
    found = tap_words(tap, 6e-6, first=True, reads=(), width=120, ascii_only=False)
    assert "relative difference 1.5e+00, 2.0e-02 without the cast" in plain(found)[0]
