"""Token ids: what a generation begins and stops with, by the files of a Hugging Face folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import ConfigField, ConfigSide, Stated, is_number, sets_nothing
from ckptdiff.formats.token_files import GENERATION, TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptdiff.config.fields.base import Reader

CONFIG = "config.json"
STOP = "Generation stops at other tokens: too early, or never."
_HARMLESS = "padding is masked, and changes no value"


def _has_files(side: ConfigSide) -> bool:
    """Return whether the side is of a kind that states token ids: Megatron's args never do."""
    return side.token_files is not None


def _has_tokenizer(side: ConfigSide) -> bool:
    return TOKENIZER in (side.token_files or {})


def _generated(name: str) -> Reader:
    """Read an id as transformers' generate has it: generation_config.json goes before the config.

    The value is a sorted tuple, as several tokens may stop a generation; None is no token.
    """

    def read(side: ConfigSide) -> Stated | None:
        files = side.token_files or {}
        for file, fields in ((GENERATION, files.get(GENERATION, {})), (CONFIG, side.fields)):
            if name in fields:
                raw = fields[name]
                return Stated(None if raw is None else _ids(raw), name, raw, file=file)
        return None

    return read


def _ids(raw: Any) -> tuple[int, ...]:
    """Return one id, or several, as a sorted tuple. Raises TypeError for anything else."""
    ids = raw if isinstance(raw, list) else [raw]
    if not all(is_number(one) for one in ids):
        raise TypeError(raw)
    return tuple(sorted(set(ids)))


def _of_tokenizer(name: str) -> Reader:
    """Read a token of the tokenizer: its text, and its id if it is one that was added."""

    def read(side: ConfigSide) -> Stated | None:
        config = (side.token_files or {}).get(TOKENIZER, {})
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            return None
        number = _number_of(text, config.get("added_tokens_decoder"))
        raw = text if number is None else f"{text} ({number})"
        return Stated((text, number), name, raw, file=None)

    return read


def _number_of(text: str, added: Any) -> int | None:
    if not isinstance(added, dict):
        return None
    return next((int(n) for n, token in added.items() if token.get("content") == text), None)


def _same_token(a: tuple[str, int | None], b: tuple[str, int | None]) -> bool:
    return a[0] == b[0] and (None in (a[1], b[1]) or a[1] == b[1])


def _field(
    meaning: str,
    read: Reader,
    consequence: str,
    applies: Callable[[ConfigSide], bool],
    **more: Any,
) -> ConfigField:
    return ConfigField(
        meaning,
        read,
        lambda _: None,
        consequence,
        sets_nothing,
        sets_nothing,
        applies,
        moves=moves.NOTHING,
        **more,
    )


_KINDS: Mapping[str, str] = {
    "eos": STOP,
    "bos": "A generation without a prompt begins with another token.",
    "pad": "Batches are padded with another token.",
}
_WORDS = {"eos": "stop token", "bos": "first token", "pad": "padding token"}

TOKENS: tuple[ConfigField, ...] = (
    *(
        _field(
            "Stop tokens" if kind == "eos" else _WORDS[kind].capitalize(),
            _generated(f"{kind}_token_id"),
            consequence,
            _has_files,
            harmless=lambda _a, _b, kind=kind: _HARMLESS if kind == "pad" else None,
        )
        for kind, consequence in _KINDS.items()
    ),
    *(
        _field(
            f"Tokenizer's {_WORDS[kind]}",
            _of_tokenizer(f"{kind}_token"),
            "The tokenizer puts another token there.",
            _has_tokenizer,
            equal=_same_token,
            harmless=lambda _a, _b, kind=kind: _HARMLESS if kind == "pad" else None,
        )
        for kind in _KINDS
    ),
)
