"""Questions as batches of sequences: what is asked twice, or is part of another, is run once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdiff.forward.plan import PackedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptdiff.scores.results import Question

ID = 4  # bytes of a token id in `Question.ids`


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Sequences that go through both models together, and which span answers which question."""

    sequences: tuple[PackedSequence, ...]
    places: tuple[tuple[Question, int, int], ...]  # question, its sequence, its span in that

    @property
    def tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences) // ID

    def question_of(self, sequence: int) -> Question:
        """Return the first question that a sequence answers."""
        return next(question for question, number, _ in self.places if number == sequence)


def batches(
    questions: Iterable[Question], most: int, *, shares_prefixes: bool = True
) -> Iterator[QuestionBatch]:
    """Yield the questions in batches of about equal size, `most` tokens at the most.

    Their order is kept, so that tasks end one after another; a longer sequence has its own batch.
    The last token is not run: nothing follows it. With `shares_prefixes`, a sequence that another
    one begins with is not run either.
    """
    groups = list(_groups(questions, most))
    total = sum(map(_tokens, groups))
    if len(groups) > 1:  # none is to be a small rest
        even = -(-total // len(groups))
        groups = list(_groups((one for group in groups for one in group), most, enough=even))
    for group in groups:
        yield _packed(group, shares_prefixes=shares_prefixes)


def _groups(
    questions: Iterable[Question], most: int, *, enough: int | None = None
) -> Iterator[list[Question]]:
    """Yield consecutive questions whose distinct sequences have at most `most` tokens.

    Those that have `enough` take no further sequence.
    """
    group: list[Question] = []
    seen: set[bytes] = set()
    tokens = 0
    for question in questions:
        sequence = _sequence(question)
        more = 0 if sequence in seen else len(sequence) // ID
        if group and more and (tokens + more > most or (enough and tokens >= enough)):
            yield group
            group, seen, tokens, more = [], set(), 0, len(sequence) // ID
        group.append(question)
        seen.add(sequence)
        tokens += more
    if group:
        yield group


def _packed(questions: Sequence[Question], *, shares_prefixes: bool) -> QuestionBatch:
    distinct = dict.fromkeys(map(_sequence, questions))
    whole = _wholes(distinct) if shares_prefixes else {one: one for one in distinct}
    numbers = {one: i for i, one in enumerate(dict.fromkeys(whole[one] for one in distinct))}
    spans: list[list[tuple[int, bytes]]] = [[] for _ in numbers]
    places: list[tuple[Question, int, int]] = []
    for question in questions:
        number = numbers[whole[_sequence(question)]]
        start = len(question.ids) // ID - question.answer
        places.append((question, number, len(spans[number])))
        # The logits that tell the first token of the answer are those of the position before it.
        spans[number].append((start - 1, question.ids[start * ID :]))
    sequences = tuple(PackedSequence(ids, tuple(spans[i])) for ids, i in numbers.items())
    return QuestionBatch(sequences, tuple(places))


def _wholes(sequences: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return, for each sequence, the longest one that begins with it; itself if there is none."""
    found: dict[bytes, bytes] = {}
    following: bytes | None = None
    # What begins with a sequence comes directly behind it: in the order of bytes, none is between.
    for one in sorted(sequences, reverse=True):
        is_part = following is not None and following.startswith(one)
        found[one] = found[following] if is_part and following is not None else one
        following = one
    return found


def _sequence(question: Question) -> bytes:
    """Return the ids that are run: all but the last."""
    return question.ids[:-ID]


def _tokens(questions: Sequence[Question]) -> int:
    return sum(map(len, dict.fromkeys(map(_sequence, questions)))) // ID
