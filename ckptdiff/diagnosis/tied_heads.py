"""Find heads that are stored and differ from the embedding to which the config ties them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.results import TensorDiff


_PROGRAMS = (
    "transformers 5 keeps the head of the file, transformers 4 and Megatron put the embedding in "
    "its place"
)


def tied_heads(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], ask: ContentQueries
) -> Iterator[Finding]:
    """Yield the finding of a Hugging Face side with such a head, of B first.

    Of A only where B differs from it: in its head, or in whether its config ties it.
    """
    differing = {r.name for r in results if r.status in ("differ", "shape")}
    if (head := _tied_head(b)) is not None and _is_other(b, head, ask):
        yield _finding("B", head, "")
    elif (
        (head := _tied_head(a)) is not None
        and (head in differing or _is_tied(a) != _is_tied(b))
        and _is_other(a, head, ask)
    ):
        held = b.tensors[head].pieces[0].part_of not in ("", head)
        yield _finding("A", head, "B has the embedding in its place. " if held else "")
    elif (head := _own_head(a, b)) in differing and not _is_other(a, head, ask):
        yield Finding(
            "TIED",
            "fault",
            f"A's head is its embedding, B's {head} is a matrix of its own",
            tensors=(head,),
            evidence="the config of A ties the head to the embedding, that of B does not",
            cause="one of the two configs does not say what was trained",
            fix=f'if B is right: its {head}, and "tie_word_embeddings": false, in A',
        )


def told_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings: A's of its head is one with B's of its own, if there is such."""
    of_a: Finding | None = None
    try:
        for finding in findings:
            if finding.kind == "TIED" and finding.letter == "A":
                of_a = finding
            elif finding.kind == "TIED" and of_a is not None:
                yield _of_both(of_a, finding)
                of_a = None
            else:
                yield finding
    except Exception:
        if of_a is not None:  # what was found is told, whatever came after it
            yield of_a
        raise
    if of_a is not None:
        yield of_a


def _of_both(of_a: Finding, of_b: Finding) -> Finding:
    return replace(
        of_b,
        title="the head is another matrix than the embedding, though both configs tie it",
        tensors=tuple(dict.fromkeys((*of_a.tensors, *of_b.tensors))),
        evidence=f"{_PROGRAMS}; {of_b.evidence}",
        cause=of_a.cause,
        fix=f"{of_a.fix}, and convert again",
    )


def _tied_head(side: Assembled) -> str | None:
    """Return the name of a head that is stored, though the config ties it."""
    rules, config = side.architecture, side.config
    if side.checkpoint.convention != "hf" or rules is None or config is None:
        return None
    name = rules.head_name()
    head = side.tensors.get(name)
    if not config.tied_embeddings or head is None or rules.embedding().hf[0] not in side.tensors:
        return None
    return name if head.pieces and head.pieces[0].part_of in ("", name) else None


def _own_head(a: Assembled, b: Assembled) -> str:
    """Return the name of the head if A's config ties it and B's does not; else an empty text."""
    rules = a.architecture
    name = None if rules is None else rules.head_name()
    if name is None or not _is_tied(a) or _is_tied(b) or b.config is None:
        return ""
    held = name in a.tensors and rules is not None and rules.embedding().hf[0] in a.tensors
    return name if held else ""


def _is_tied(side: Assembled) -> bool:
    return side.config is not None and side.config.tied_embeddings


def _is_other(side: Assembled, head: str, ask: ContentQueries) -> bool:
    """Return whether the head is another matrix than the embedding."""
    assert side.architecture is not None
    one, other = side.tensors[head], side.tensors[side.architecture.embedding().hf[0]]
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return True
    (equal,) = ask.are_equal([(one, other)])
    return not equal


def _finding(letter: Literal["A", "B"], head: str, more: str) -> Finding:
    return Finding(
        "TIED",
        "fault",
        f"the config of {letter} ties the head to the embedding, but {head} is another matrix",
        tensors=(head,),
        evidence=f"{more}{_PROGRAMS}",
        cause="the config does not say what the files hold",
        letter=letter,
        fix=f'if the head is right: "tie_word_embeddings": false in {letter}\'s config.json',
    )
