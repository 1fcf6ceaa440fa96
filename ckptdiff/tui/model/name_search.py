"""What `/` finds among names: words and globs, regular expressions, or letters in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.name_filter import matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORD_START = 8  # points of a letter that begins a word, as q and p do in `q_proj`
NEXT = 6  # of one right after the letter before
REGEX = "re:"


def name_matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a name matches a pattern.

    That is one of the command line's, or words of which some have a `*`: any text. Raises
    BadArgument if a regular expression cannot be compiled.
    """
    if "*" not in pattern or pattern.startswith(REGEX):
        return matcher(pattern)
    words = [word.split("*") for word in pattern.split()]
    return lambda name: all(_has_in_order(name, word) for word in words)


def _has_in_order(name: str, parts: Iterable[str]) -> bool:
    """Return whether a name has all parts, each behind the one before. It is read once.

    A regular expression would try all ways to lay them, which takes for ever in a long name.
    """
    end = 0
    for part in parts:
        at = name.find(part, end)
        if at < 0:
            return False
        end = at + len(part)
    return True


def can_be_letters(pattern: str) -> bool:
    """Return whether a pattern that no name matches may be meant as letters in order."""
    return bool(pattern) and "*" not in pattern and not pattern.startswith(REGEX)


def best_first(
    pattern: str, names: Iterable[str], is_cancelled: Callable[[], bool] = lambda: False
) -> list[str]:
    """Return the names that hold the letters of each word in order, the best match first.

    Letters that begin words and letters next to each other count most, then a short match; of
    equals the first in `names` is first. Upper case is told from lower only where it is typed. An
    empty list if cancelled.
    """
    scorers = [_Letters(word) for word in pattern.split()]
    found: list[tuple[int, int, str]] = []
    for number, name in enumerate(names):
        if is_cancelled():
            return []
        points = 0
        for scorer in scorers:
            score = scorer.score(name)
            if score is None:
                break
            points += score
        else:
            found.append((-points, number, name))
    return [name for _, _, name in sorted(found)]


class _Letters:
    """Scores names for the letters of one word. It reads a name once forward and once back."""

    def __init__(self, word: str) -> None:
        self._is_cased = word != word.lower()
        self._word = word

    def score(self, name: str) -> int | None:
        """Return how well a name matches; None if it does not hold the letters in order."""
        text = name if self._is_cased else name.lower()
        end = 0
        for letter in self._word:
            end = text.find(letter, end) + 1
            if not end:
                return None
        # Back from where the match ends first, each letter is as near to the next as it can be.
        points, after, last = 0, -1, end - 1
        for letter in reversed(self._word):
            place = text.rfind(letter, 0, end)
            if place + 1 == after:
                points += NEXT
            if place == 0 or not text[place - 1].isalnum():
                points += WORD_START
            end = after = place
        return 100 * points - (last - end)
