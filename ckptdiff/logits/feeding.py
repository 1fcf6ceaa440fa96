"""What the programs of both sides would not be fed alike, though here both get the same ids.

It is no part of the verdict: that is about what both compute of one prompt.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from ckptdiff.config.compare import config_side, is_fed
from ckptdiff.config.fields.tokens import ADDED, added_tokens, stop_tokens
from ckptdiff.config.fields.training import DOCUMENT_MASKS
from ckptdiff.formats.token_files import TOKENIZER
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff


def fed_otherwise(
    a: Assembled,
    b: Assembled,
    config: Iterable[ConfigDiff],
    ids: Sequence[int],
    *,
    knows_ids: bool = False,
) -> tuple[str, ...]:
    """Return sentences on what the files of the two sides settle otherwise, one of each kind.

    `config` are the lines of both configs, `ids` is the prompt. With `knows_ids`, what tokenizers
    put around a text is left out: whoever asks has compared the ids themselves.
    """
    lines = [
        line
        for line in config
        if is_fed(line)
        and (line.status == "conflict" or line.is_hint)
        and not (knows_ids and line.meaning == ADDED and line.status == "conflict")
    ]
    masks = [line for line in lines if {line.name_a, line.name_b} & DOCUMENT_MASKS.keys()]
    others = [line for line in lines if line not in masks]
    return (
        *_by_consequence(others),
        *_contradicted(a, b),
        *_documents(a, b, masks, ids),
    )


def _by_consequence(lines: Sequence[ConfigDiff]) -> Iterator[str]:
    for what, group in groupby(lines, key=lambda line: line.consequence or line.note):
        differing = "; ".join(
            f"{line.meaning}: {_text(line.a)} in A, {_text(line.b)} in B" for line in group
        )
        words = (what or "").rstrip(".")
        yield f"{differing}. {words[:1].upper()}{words[1:]}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "none" if value is None else config_value_text(value)


def _contradicted(a: Assembled, b: Assembled) -> Iterator[str]:
    """Yield a sentence for a side whose add_bos_token says other than its tokenizer.json does."""
    told = [_bos_told(side) for side in (a, b)]
    if told[0] == told[1]:
        return
    for letter, found in zip("AB", told, strict=True):
        if found is not None:
            entry, adds = found
            yield (
                f"{letter}'s tokenizer_config.json says add_bos_token {str(entry).lower()}, but "
                f"its tokenizer.json {'adds a token' if adds else 'adds none'} before a text: "
                "transformers 5 goes by the latter, transformers 4 in some classes by the former"
            )


def _bos_told(side: Assembled) -> tuple[bool, bool] | None:
    """Return what add_bos_token says and whether tokenizer.json adds a token, if these differ."""
    entry = side.checkpoint.token_files.get(TOKENIZER, {}).get("add_bos_token")
    added = added_tokens(config_side(side))
    if not isinstance(entry, bool) or added is None:
        return None
    adds = bool(added[0])
    return None if entry is adds else (entry, adds)


def _documents(
    a: Assembled, b: Assembled, masks: Sequence[ConfigDiff], ids: Sequence[int]
) -> Iterator[str]:
    """Yield a sentence on what a side's args do at an end of document, if the prompt has one."""
    ends = {token for side in (a, b) for token in stop_tokens(config_side(side))}
    at = next((place for place, token in enumerate(ids) if token in ends), None)
    if ends and at is None:
        return
    here = "here the prompt is one document"
    if at is not None:
        here += f", though token {ids[at]} at position {at} ends one"
    for letter in "AB":
        names = [
            str(line.name_a if letter == "A" else line.name_b)
            for line in masks
            if (line.a if letter == "A" else line.b) is True
        ]
        if names:
            does = ", ".join(DOCUMENT_MASKS[name] for name in names)
            yield (
                f"{letter}'s args set {', '.join(names)}: in training, behind an end of document, "
                f"{does}; {here}"
            )
