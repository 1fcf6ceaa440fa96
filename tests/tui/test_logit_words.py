"""The outcome of a prompt in words, where the two programs are not given the same ids."""

from __future__ import annotations

from dataclasses import replace

from ckptdiff.logits.prompt import Prompt
from ckptdiff.tui.model.prompt_run import PromptRun
from ckptdiff.tui.text.lines import plain
from ckptdiff.tui.text.logits import outcome_lines
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
