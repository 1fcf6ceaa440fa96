"""Answers that are kept: read back bit by bit, whatever became of the file."""

from __future__ import annotations

import math
import os
from array import array
from typing import TYPE_CHECKING

import pytest

from ckptdiff.results import Answer, Answers, StepApart
from ckptdiff.scores import journal as journals
from ckptdiff.scores.journal import FoundStep, Journal, question_key
from ckptdiff.scores.results import Question

if TYPE_CHECKING:
    from pathlib import Path

HERE = "f" * 64
STEP = StepApart(3, "k", 0.1 + 0.2, 7, ("model.layers.3.k.weight",))


def question(*ids: int, answer: int = 1) -> Question:
    return Question(array("i", ids).tobytes(), answer)


def answers(loglik: float, *, is_greedy: bool = False) -> Answers:
    a = Answer(loglik, is_greedy)
    return Answers(a, Answer(loglik / 3, True), Answer(-loglik, False), 1e-7, math.inf, 2 / 3)


ONE, TWO = question(1, 2, 3), question(1, 2, 3, answer=2)
GIVEN = {ONE: answers(-1 / 3, is_greedy=True), TWO: answers(-7e-9)}


def test_what_is_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    found = FoundStep(STEP, question_key(ONE))
    Journal(tmp_path / "new", HERE).add(GIVEN, [found])
    (batch,) = Journal(tmp_path / "new", HERE).load()
    assert batch.answers == {question_key(one): given for one, given in GIVEN.items()}
    assert batch.steps == (found,)


def test_questions_of_other_ids_or_another_answer_have_other_keys() -> None:
    asked = [ONE, TWO, question(1, 2, 4), question(1, 2), question(2, 1, 3)]
    assert len({question_key(one) for one in asked}) == len(asked)


@pytest.mark.parametrize("lost", [1, 10, 60])
def test_a_batch_that_was_not_written_to_its_end_is_left_out(tmp_path: Path, lost: int) -> None:
    journal = Journal(tmp_path, HERE)
    journal.add({ONE: GIVEN[ONE]}, [])
    journal.add({TWO: GIVEN[TWO]}, [])
    assert journal.file is not None
    content = journal.file.read_bytes()
    journal.file.write_bytes(content[:-lost])
    # Without the line feed alone, the line is whole.
    kept = [list(batch.answers) for batch in journal.load()]
    assert kept == [[question_key(ONE)], [question_key(TWO)]][: 2 if lost == 1 else 1]
    third = question(9, 9)
    journal.add({third: answers(-5.0)}, [])
    kept = [list(batch.answers) for batch in journal.load()]
    assert kept[-1] == [question_key(third)]
    assert len(kept) == (3 if lost == 1 else 2)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe", b"[]", b"null", b"{}", b'{"answers": {}}', b'{"answers": [1], "steps": []}',
        b'{"answers": {"k": [1, 0, 2, 0, 3]}, "steps": []}',
        b'{"answers": {"k": [1, 0, 2, 0, "x", 0, 1, 1, 1]}, "steps": []}',
        b'{"answers": {"k": [1, 0, 2, 0, null, 0, 1, 1, 1]}, "steps": []}',
        b'{"answers": {}, "steps": [[1, 2]]}',
        b'{"answers": {"k": [1, 0, 2, 0, "3", 0, 1, 1, 1]}, "steps": []}',
        b'{"answers": {"k": [1, Infinity, 2, 0, 3, 0, 1, 1, 1]}, "steps": []}',
        b'{"answers": {"k": [1%s, 0, 2, 0, 3, 0, 1, 1, 1]}, "steps": []}' % (b"0" * 400),
        b'{"answers": {}, "steps": [["x", "k", 0.1, 0, [], "q"]]}',
        b'{"answers": {}, "steps": [[{}, "k", 0.1, 0, [], "q"]]}',
        b'{"answers": {}, "steps": [[1, "k", 0.1, 0, [[]], "q"]]}',
        b'{"answers": {}, "steps": [[1, "k", 0.1, Infinity, [], "q"]]}',
        b"[" * 200_000, b'{"a":' * 200_000,
    ],
)  # fmt: skip
def test_a_damaged_line_costs_its_batch_alone(tmp_path: Path, line: bytes) -> None:
    journal = Journal(tmp_path, HERE)
    journal.add({ONE: GIVEN[ONE]}, [])
    assert journal.file is not None
    with journal.file.open("ab") as out:
        out.write(line + b"\n")
    journal.add({TWO: GIVEN[TWO]}, [])
    kept = [list(batch.answers) for batch in journal.load()]
    assert kept == [[question_key(ONE)], [question_key(TWO)]]


@pytest.mark.parametrize(
    "header",
    [b"", b"odd\n", b'{"version": 0, "fingerprint": "f"}\n', b"\n", b"[" * 200_000 + b"\n"],
)
def test_a_file_of_something_else_is_begun_anew(tmp_path: Path, header: bytes) -> None:
    journal = Journal(tmp_path, HERE)
    journal.add({ONE: GIVEN[ONE]}, [])
    assert journal.file is not None
    rest = journal.file.read_bytes().split(b"\n", 1)[1]
    journal.file.write_bytes(header + rest)
    assert journal.load() == []
    journal.add({TWO: GIVEN[TWO]}, [])
    assert [list(batch.answers) for batch in journal.load()] == [[question_key(TWO)]]


def test_another_pair_has_another_file(tmp_path: Path) -> None:
    Journal(tmp_path, HERE).add(GIVEN, [])
    other = Journal(tmp_path, "e" * 64)
    assert other.load() == []
    other.add({ONE: GIVEN[ONE]}, [])
    assert len(Journal(tmp_path, HERE).load()[0].answers) == 2


def test_a_fingerprint_that_begins_alike_is_told_apart(tmp_path: Path) -> None:
    Journal(tmp_path, HERE).add(GIVEN, [])
    assert Journal(tmp_path, HERE[:-1] + "e").load() == []


def test_without_a_folder_nothing_is_kept() -> None:
    journal = Journal(None, HERE)
    journal.add(GIVEN, [])
    assert journal.load() == []


def test_where_nothing_can_be_written_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "folder", HERE)
    journal.add(GIVEN, [])
    assert journal.load() == []


def test_it_is_known_whether_all_that_was_added_is_kept(tmp_path: Path) -> None:
    assert not Journal(None, HERE).keeps
    journal = Journal(tmp_path / "new", HERE)
    journal.add(GIVEN, [])
    assert journal.keeps
    assert journal.file is not None
    journal.file.unlink()
    journal.file.mkdir()
    journal.add(GIVEN, [])
    assert not journal.keeps


def test_the_oldest_files_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "JOURNALS", 3)
    for number in range(5):
        journal = Journal(tmp_path, f"{number}" * 64)
        journal.add(GIVEN, [])
        assert journal.file is not None
        os.utime(journal.file, (number, number))
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == ["2", "3", "4"]
