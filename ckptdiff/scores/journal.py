"""Answers are kept on disk batch by batch, so that a comparison that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.results import Answer, Answers, StepApart
from ckptdiff.system.folders import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptdiff.scores.results import Question

VERSION = 1  # of the file format
JOURNALS = 30  # kept, one file each; the least recently written are deleted


def journal_folder() -> Path | None:
    """Return `ckptdiff/scores` in the user's cache folder; None if the user has no home."""
    folder = cache_folder()
    return None if folder is None else folder / "scores"


@dataclass(frozen=True, slots=True)
class FoundStep:
    """A step that gives another value with B's weights, and the question that shows it most."""

    step: StepApart
    question: str  # its `question_key`


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """What one batch gave: it is kept as a whole, or not at all."""

    answers: Mapping[str, Answers]  # by `question_key`
    steps: tuple[FoundStep, ...]


def question_key(question: Question) -> str:
    """Return what stands for a question in a journal."""
    digest = hashlib.blake2b(question.ids, digest_size=15)
    return f"{digest.hexdigest()}-{question.answer}"


class Journal:
    """The answers of one pair, computed in one way, in one file of JSON lines.

    Each line is a batch. One that was not written to its end is left out, and computed again.
    Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        """Find the file of a fingerprint: that of the pair, and of how it is computed."""
        self._fingerprint = fingerprint
        self.file = None if folder is None else folder / f"{fingerprint[:32]}.jsonl"
        self.keeps = folder is not None  # all that was added so far

    def load(self) -> list[KeptBatch]:
        """Return the batches that are kept; none if the file is of something else."""
        if self.file is None:
            return []
        try:
            with self.file.open("rb") as lines:
                if self._is_header(next(lines, b"")):
                    found = [_batch(line) for line in lines]
                    return [batch for batch in found if batch is not None]
        except OSError:
            pass
        return []

    def add(self, answers: Mapping[Question, Answers], steps: Sequence[FoundStep]) -> None:
        """Keep what a batch gave. If that fails, as on a full disk, it is not kept."""
        if self.file is None:
            return
        values = {
            "steps": [[*astuple(one.step), one.question] for one in steps],
            "answers": {question_key(one): _values(given) for one, given in answers.items()},
        }
        try:
            self._append(json.dumps(values).encode())
        except OSError:
            self.keeps = False

    def forget(self) -> None:
        """Delete the file, so that everything is computed again."""
        if self.file is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        """Append a line, behind a header if the file has none. Raises OSError."""
        assert self.file is not None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _prune(self.file)
        with self.file.open("a+b") as out:
            out.seek(0)
            if not self._is_header(out.readline()):  # new, or damaged from its first line on
                out.truncate(0)
                header = {"version": VERSION, "fingerprint": self._fingerprint}
                line = json.dumps(header).encode() + b"\n" + line
            elif not _ends_line(out):  # the program was killed while it wrote
                line = b"\n" + line
            out.write(line + b"\n")

    def _is_header(self, line: bytes) -> bool:
        try:
            header = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return (
            isinstance(header, dict)
            and header.get("version") == VERSION
            and header.get("fingerprint") == self._fingerprint
        )


def _ends_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def _values(given: Answers) -> list[float]:
    """Return the numbers of an answer, to be read by `_answers`."""
    sides = (given.a, given.floor, given.b)
    distances = [given.floor_apart, given.weights_apart, given.apart]
    return [*(value for one in sides for value in (one.loglik, int(one.is_greedy))), *distances]


def _answers(values: Sequence[float]) -> Answers:
    """Return the answers of what `_values` returned. Raises TypeError or an error of a number."""
    if not all(type(value) in (int, float) for value in values):
        raise TypeError
    a, a_greedy, floor, floor_greedy, b, b_greedy, *distances = values
    floor_apart, weights_apart, apart = map(float, distances)
    return Answers(
        _answer(a, a_greedy), _answer(floor, floor_greedy), _answer(b, b_greedy),
        floor_apart, weights_apart, apart,
    )  # fmt: skip


def _answer(loglik: float, is_greedy: float) -> Answer:
    return Answer(float(loglik), is_greedy=bool(int(is_greedy)))


def _batch(line: bytes) -> KeptBatch | None:
    """Return the batch of a line; None for an incomplete line."""
    try:
        values = json.loads(line)
        answers = {str(key): _answers(one) for key, one in values["answers"].items()}
        steps = tuple(_step(*fields) for fields in values["steps"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return KeptBatch(answers, steps)


def _step(layer: Any, name: Any, rel: Any, sequence: Any, reads: Any, question: Any) -> FoundStep:
    """Return a step of what `add` wrote. Raises TypeError for anything else."""
    is_place = (layer is None or type(layer) is int) and type(sequence) is int
    texts = [name, question, *reads]
    if not is_place or type(rel) not in (int, float) or not all(type(x) is str for x in texts):
        raise TypeError
    return FoundStep(StepApart(layer, name, float(rel), sequence, tuple(reads)), question)


def _prune(keep: Path) -> None:
    """Delete the least recently written files of a folder beyond `JOURNALS`, but not `keep`."""
    files = [file for file in keep.parent.glob("*.jsonl") if file != keep]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[JOURNALS - 1 :]:
        file.unlink(missing_ok=True)
