"""The prompt of a comparison of logits: from text or ids, by the tokenizer of either side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError, CorruptFile, WorkerDied
from ckptdiff.logits.tokenizer import Bos, Encoded, encode_text, find_tokenizer, token_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.results import Candidate, LogitDiff


@dataclass(frozen=True, slots=True)
class Prompt:
    """What both sides are given."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # of the ids; empty without a tokenizer
    notes: tuple[str, ...] = ()
    tokenizer: Path | None = None


def token_ids(text: str) -> tuple[int, ...]:
    """Return the ids of `1,2,3`. Raises ValueError for any other text."""
    ids = tuple(int(part) for part in text.split(","))
    if min(ids) < 0:
        raise ValueError
    return ids


# So argparse names it when it refuses a text.
token_ids.__name__ = "list of token ids such as 1,2,3"


def encode(
    text: str, a: Assembled, b: Assembled, executor: Executor, *, bos: Bos = "auto"
) -> Prompt:
    """Return a text's ids by A's tokenizer, or by B's where A has none.

    Where both have one and they disagree, a note says where. Raises BadArgument if there is none,
    or if nothing is left of the text. Whether the model has a row for each id is not looked at.
    """
    _check_unicode(text)
    files = [find_tokenizer(side.checkpoint.root) for side in (a, b)]
    file = files[0] or files[1]
    if file is None:
        raise BadArgument(
            f"{a.checkpoint.root} and {b.checkpoint.root} have no tokenizer: put tokenizer.json "
            "beside config.json",
            hint="ids",
        )
    found = _encode(file, text, bos, a if files[0] else b, executor)
    if not found.ids:
        raise BadArgument("the prompt is empty, and no BOS is added: there is nothing to compute")
    notes = []
    if files[0] is None:
        notes.append("the ids are by B's tokenizer: A has none")
    if found.bos is not None and found.ids[:2] == (found.bos, found.bos):
        notes.append(
            f"the ids begin with BOS ({found.bos} '{found.texts[0]}') twice: "
            "leave it out of the text"
        )
    if files[0] and files[1] and files[0] != files[1]:
        notes += _disagreement(found, files[1], text, bos, b, executor)
    return Prompt(found.ids, found.texts, tuple(notes), file)


def prompt_of_ids(ids: Sequence[int], a: Assembled, b: Assembled, executor: Executor) -> Prompt:
    """Return ids as a prompt, with their texts where a side has a tokenizer that works."""
    if not ids:
        raise BadArgument("there are no ids: there is nothing to compute")
    file = find_tokenizer(a.checkpoint.root) or find_tokenizer(b.checkpoint.root)
    if file is None:
        return Prompt(tuple(ids), ())
    try:
        texts = _ask(executor, token_texts, file, tuple(ids))
    except CkptDiffError as error:
        return Prompt(tuple(ids), (), (f"tokens are shown without text: {error}",))
    return Prompt(tuple(ids), tuple(text or "" for text in texts), (), file)


def with_texts(found: LogitDiff, prompt: Prompt, executor: Executor) -> LogitDiff:
    """Return a finished comparison with the prompt's notes and the texts of all its tokens."""
    found = replace(found, texts=prompt.texts, notes=(*prompt.notes, *found.notes))
    if prompt.tokenizer is None:
        return found
    ids = sorted({one.id for place in found.top for one in (*place.a, *place.b)})
    try:
        texts = dict(zip(ids, _ask(executor, token_texts, prompt.tokenizer, ids), strict=True))
    except CkptDiffError as error:
        return replace(found, notes=(*found.notes, f"tokens are shown without text: {error}"))

    def named(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        return tuple(replace(one, text=texts[one.id]) for one in candidates)

    top = tuple(replace(place, a=named(place.a), b=named(place.b)) for place in found.top)
    return replace(found, top=top)


def _encode(file: Path, text: str, bos: Bos, side: Assembled, executor: Executor) -> Encoded:
    checkpoint = side.checkpoint
    default = (
        (checkpoint.config or {}).get("bos_token_id") if checkpoint.convention == "hf" else None
    )
    default = default if type(default) is int and default >= 0 else None
    found: Encoded = _ask(executor, encode_text, file, text, bos, default)
    return found


def _ask(executor: Executor, job: Callable[..., Any], file: Path, *arguments: object) -> Any:
    try:
        return executor.submit(job, file, *arguments).result()
    except WorkerDied as error:
        raise CorruptFile(
            f"{file}: the library that reads tokenizers crashed on it, or took too much memory or "
            "time; take the file from its source again",
            hint="ids",
        ) from error


def _disagreement(
    found: Encoded, file: Path, text: str, bos: Bos, b: Assembled, executor: Executor
) -> list[str]:
    """Return what there is to say of B's own tokenizer."""
    try:
        other = _encode(file, text, bos, b, executor)
    except CkptDiffError as error:
        return [f"the ids are by A's tokenizer; B's does not work: {error}"]
    if other.ids == found.ids:
        return []
    both = zip(found.ids, other.ids, strict=False)
    at = next((i for i, (x, y) in enumerate(both) if x != y), min(len(found.ids), len(other.ids)))
    one, two = (
        f"{x.ids[at]} '{x.texts[at]}'" if at < len(x.ids) else "the end" for x in (found, other)
    )
    return [f"the tokenizers differ: token {at} is {one} by A's and {two} by B's; A's ids are used"]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadArgument("the prompt is not UTF-8") from error
