"""What the parser says of a command line that makes no sense: one line, and what was meant."""

from __future__ import annotations

import pytest

from ckptdiff.cli.main import main

SAID = {
    "diff a b --tolerence cast": "diff: there is no option --tolerence. Is --tolerance meant?",
    "diff --jsn=- a b": "diff: there is no option --jsn. Is --json meant?",
    "--tolerance cast a b": "there is no option --tolerance here: it is one of `ckptdiff diff`",
    "logits a b --promt x": "logits: there is no option --promt. Is --prompt meant?",
    "diff a b --nonsense": "diff: there is no option --nonsense (usage",
    "ls a -x": "ls: there is no option -x (usage",
    "diff": "diff: A, B are missing",
    "diff a": "diff: B is missing (usage: ckptdiff diff [OPTION]... A B;",
    "diff a b c": "diff: c is too much: two at most",
    "ls a b c": "ls: b c is too much: one at most",
    "convert a b": "convert: --to is missing (usage: ckptdiff convert [OPTION]... SRC OUT --to hf|",
    "convert a b --to megatorn": "convert: --to: invalid choice: 'megatorn' (choose from hf, "
    "megatron, torch_dist). Is megatron meant?",
    "logits a b": "logits: one of the arguments --prompt --ids is required",
    "logits a b --prompt x --ids 1": "logits: --ids: not allowed with argument --prompt",
    "diff a b --jobs 0": "diff: --jobs: invalid positive number value: '0'",
    "diff a b --json": "diff: --json needs a value",
    "diff a b --no-diagnose=3": "diff: --no-diagnose takes no value: '3' is too much",
}


@pytest.mark.parametrize("line", SAID)
def test_what_is_wrong_is_said_in_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"ckptdiff: {SAID[line]}")
    assert err.endswith("; --help tells more)\n")


def test_an_abbreviation_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "/no/a", "/no/b", "--tol", "cast"]) == 2
    assert "/no/a" in capsys.readouterr().err


def test_a_prompt_may_begin_with_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logits", "/no/a", "/no/b", "--prompt=--tolerence"]) == 2
    assert main(["logits", "--prompt", "-- a b", "--", "/no/a", "--b"]) == 2
    assert "there is no option" not in capsys.readouterr().err


def test_three_paths_are_too_many_whether_they_are_there_or_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["a", "b", "c"]) == 2
    said = "ckptdiff: 3 paths: two at most. Give one to browse it, or two to compare\n"
    assert capsys.readouterr().err == said


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["diff", "a", "b", "--\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err
