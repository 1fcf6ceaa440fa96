"""The prompt of a comparison of logits: token ids, or a text and the tokenizer of a side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import BadArgument, CkptDiffError, CorruptFile, WorkerDied
from ckptdiff.extras import require
from ckptdiff.logits.feeding import fed_otherwise
from ckptdiff.logits.tokenizer import Bos, Encoded, encode_text, find_tokenizer, token_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.results import Candidate, LogitDiff


IDS = "ids:"  # before ids in the place of a text


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens that both sides are given."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # of the ids; empty without a tokenizer
    notes: tuple[str, ...] = ()  # to be shown with the result
    tokenizer: Path | None = None  # its file
    fed: tuple[str, ...] = ()  # what the sides' programs would not be fed alike
    same_ids: bool = True  # by both sides' tokenizers; True if not known
    config: tuple[ConfigDiff, ...] | None = None  # lines of both configs; None: not compared


def token_ids(text: str) -> tuple[int, ...]:
    """Return the ids of `1,2,3`. Raises ValueError for any other text."""
    ids = tuple(int(part) for part in text.split(","))
    if min(ids) < 0:
        raise ValueError
    return ids


# Argparse names a type by this in its error.
token_ids.__name__ = "list of token ids such as 1,2,3"


def ids_text(ids: Iterable[int]) -> str:
    """Return ids as a prompt's text that is never read as words: `ids:1,2,3`."""
    return f"{IDS}{','.join(map(str, ids))}"


def stated_ids(text: str) -> tuple[int, ...] | None:
    """Return the ids of `ids:1,2,3`; None for any other text."""
    if not text.startswith(IDS):
        return None
    try:
        return token_ids(text.removeprefix(IDS))
    except ValueError:
        return None


def encode(
    text: str, a: Assembled, b: Assembled, executor: Executor, *, bos: Bos = "auto"
) -> Prompt:
    """Return a text as a prompt, by A's tokenizer, or by B's if A has none.

    If both have one and they disagree, `fed` says where. Raises BadArgument if there is no
    tokenizer, or no token in the text, CorruptFile for a tokenizer that does not work, and
    NotInstalled without the libraries. Whether the model has a row for each id is not checked.
    """
    require("logits")
    _check_unicode(text)
    files = [find_tokenizer(side.checkpoint.folder) for side in (a, b)]
    file = files[0] or files[1]
    if file is None:
        raise BadArgument(
            f"{a.checkpoint.root} and {b.checkpoint.root} have no tokenizer: put tokenizer.json "
            "beside config.json",
            hint="ids",
        )
    encoded = _encode(file, text, bos, a if files[0] else b, executor)
    if not encoded.ids:
        raise BadArgument("the prompt is empty, and no BOS is added: there is nothing to compute")
    notes = []
    if files[0] is None:
        notes.append("the ids are by B's tokenizer: A has none")
    if encoded.bos is not None and encoded.ids[:2] == (encoded.bos, encoded.bos):
        notes.append(
            f"the ids begin with BOS ({encoded.bos} '{encoded.texts[0]}') twice: "
            "leave it out of the text"
        )
    fed: list[str] = []
    same_ids = True
    if files[0] and files[1] and files[0] != files[1]:
        try:
            encoded_b = _encode(files[1], text, bos, b, executor)
        except CkptDiffError as error:
            notes.append(f"the ids are by A's tokenizer; B's does not work: {error}")
        else:
            same_ids = encoded_b.ids == encoded.ids
            fed += [] if same_ids else [_disagreement(encoded, encoded_b)]
    config = tuple(compare_configs(a, b))
    fed += fed_otherwise(a, b, config, encoded.ids, knows_ids=bool(fed))
    return Prompt(encoded.ids, encoded.texts, tuple(notes), file, tuple(fed), same_ids, config)


def prompt_of_ids(ids: Sequence[int], a: Assembled, b: Assembled, executor: Executor) -> Prompt:
    """Return ids as a prompt, with their texts if a side has a tokenizer that works.

    Raises BadArgument if there are none, NotInstalled without the libraries.
    """
    require("logits")
    if not ids:
        raise BadArgument("there are no ids: there is nothing to compute")
    config = tuple(compare_configs(a, b))
    prompt = Prompt(tuple(ids), (), fed=fed_otherwise(a, b, config, ids), config=config)
    file = find_tokenizer(a.checkpoint.folder) or find_tokenizer(b.checkpoint.folder)
    if file is None:
        return prompt
    try:
        texts = _run_job(executor, token_texts, file, tuple(ids))
    except CkptDiffError as error:
        return replace(prompt, notes=(f"tokens are shown without text: {error}",))
    return replace(prompt, texts=tuple(text or "" for text in texts), tokenizer=file)


def with_texts(result: LogitDiff, prompt: Prompt, executor: Executor) -> LogitDiff:
    """Return a finished comparison, with the prompt's notes and the texts of all its tokens."""
    result = replace(
        result,
        texts=prompt.texts,
        notes=(*prompt.notes, *result.notes),
        fed=prompt.fed,
        same_ids=prompt.same_ids,
    )
    if prompt.tokenizer is None:
        return result
    ids = sorted(
        {candidate.id for following in result.top for candidate in (*following.a, *following.b)}
    )
    try:
        texts = dict(zip(ids, _run_job(executor, token_texts, prompt.tokenizer, ids), strict=True))
    except CkptDiffError as error:
        return replace(result, notes=(*result.notes, f"tokens are shown without text: {error}"))

    def with_text(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        return tuple(replace(candidate, text=texts[candidate.id]) for candidate in candidates)

    top = tuple(
        replace(following, a=with_text(following.a), b=with_text(following.b))
        for following in result.top
    )
    return replace(result, top=top)


def _encode(file: Path, text: str, bos: Bos, side: Assembled, executor: Executor) -> Encoded:
    checkpoint = side.checkpoint
    default = (
        (checkpoint.config or {}).get("bos_token_id") if checkpoint.convention == "hf" else None
    )
    default = default if type(default) is int and default >= 0 else None
    encoded: Encoded = _run_job(executor, encode_text, file, text, bos, default)
    return encoded


def _run_job(executor: Executor, job: Callable[..., Any], file: Path, *arguments: object) -> Any:
    """Return the result of a job in a worker. Raises CorruptFile if the worker dies of the file."""
    try:
        return executor.submit(job, file, *arguments).result()
    except WorkerDied as error:
        raise CorruptFile(
            f"{file}: the library that reads tokenizers crashed on it, or took too much memory or "
            "time; take the file from its source again",
            hint="ids",
        ) from error


def _disagreement(a: Encoded, b: Encoded) -> str:
    """Return, in a sentence, where the ids of two tokenizers differ."""
    for one, other, of, has_none in ((a, b, "A", "B"), (b, a, "B", "A")):
        if one.bos is not None and one.ids == (one.bos, *other.ids):
            return (
                f"{of}'s tokenizer puts BOS ({one.bos} '{one.texts[0]}') before this text, "
                f"{has_none}'s does not: the two programs would not get the same ids; A's are used"
            )
    pairs = zip(a.ids, b.ids, strict=False)
    position = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a.ids), len(b.ids)))
    token_a, token_b = (
        f"{x.ids[position]} '{x.texts[position]}'" if position < len(x.ids) else "the end"
        for x in (a, b)
    )
    return (
        f"the tokenizers differ: token {position} is {token_a} by A's and {token_b} by B's; A's "
        "ids are used"
    )


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadArgument("the prompt is not UTF-8") from error
