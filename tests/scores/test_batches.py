"""Questions laid into batches: each token is run once, and each answer is found where it is."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ckptdiff.scores.batches import batches
from ckptdiff.scores.results import Question

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.scores.batches import QuestionBatch


def question(*ids: int, answer: int = 1) -> Question:
    return Question(array("i", ids).tobytes(), answer)


def numbers(ids: bytes) -> list[int]:
    return list(array("i", ids))


def sequences(batch: QuestionBatch) -> list[list[int]]:
    return [numbers(one.ids) for one in batch.sequences]


def check(questions: Iterable[Question], made: Iterable[QuestionBatch]) -> None:
    """Check that each question is answered once, by its own tokens behind its own context."""
    answered = []
    for batch in made:
        for asked, number, span in batch.places:
            answered.append(asked)
            start, following = batch.sequences[number].spans[span]
            run, whole = numbers(batch.sequences[number].ids), numbers(asked.ids)
            assert numbers(following) == whole[-asked.answer :]
            assert len(following) == 4 * asked.answer
            # The logits of position `start` tell the answer's first token.
            assert run[: start + 1] == whole[: -asked.answer]
            assert run[: len(whole) - 1] == whole[:-1]
    assert answered == list(questions)


def test_choices_of_one_token_are_one_sequence() -> None:
    asked = [question(5, 6, 7, last) for last in (1, 2, 3, 4)]
    (batch,) = batches(asked, 100)
    assert sequences(batch) == [[5, 6, 7]]
    assert batch.tokens == 3
    check(asked, [batch])


def test_a_sequence_that_begins_another_is_not_run() -> None:
    asked = [question(5, 6, 1), question(5, 6, 7, 8, 9, answer=2), question(5, 9)]
    (batch,) = batches(asked, 100)
    assert sequences(batch) == [[5, 6, 7, 8]]
    check(asked, [batch])
    (apart,) = batches(asked, 100, shares_prefixes=False)
    assert sequences(apart) == [[5, 6], [5, 6, 7, 8], [5]]
    check(asked, [apart])


def test_a_token_that_begins_with_the_bytes_of_another_does_not_begin_with_it() -> None:
    asked = [question(1, 2, 9), question(1, 2 + 256, 3, 9)]
    (batch,) = batches(asked, 100)
    assert sequences(batch) == [[1, 2], [1, 258, 3]]


def test_batches_are_even_and_in_order() -> None:
    asked = [question(*range(10 * n, 10 * n + 11)) for n in range(9)]  # 10 tokens are run of each
    made = list(batches(asked, 70))
    assert [batch.tokens for batch in made] == [50, 40]
    check(asked, made)


def test_a_question_that_is_longer_than_a_batch_has_one_of_its_own() -> None:
    asked = [question(1, 2), question(*range(100, 200)), question(3, 4)]
    made = list(batches(asked, 10))
    assert [batch.tokens for batch in made] == [1, 99, 1]
    check(asked, made)


def test_nothing_gives_no_batch() -> None:
    assert list(batches([], 10)) == []


@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=2, max_size=7).flatmap(
            lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))
        ),
        max_size=30,
    ),
    st.integers(1, 40),
    st.booleans(),
)
def test_every_question_finds_its_answer(
    drawn: list[tuple[list[int], int]], most: int, shares: bool
) -> None:
    asked = list(dict.fromkeys(question(*ids, answer=answer) for ids, answer in drawn))
    made = list(batches(asked, most, shares_prefixes=shares))
    check(asked, made)
    for batch in made:
        assert batch.tokens <= most or len(batch.sequences) == 1
        run = sequences(batch)
        for one in run:
            others = [other for other in run if other is not one]
            assert one not in others
            assert not shares or not any(other[: len(one)] == one for other in others)
