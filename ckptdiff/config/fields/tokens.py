"""Token ids: what a text and a generation begin and stop with, by the files beside config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    ConfigField,
    ConfigSide,
    Stated,
    equal,
    guarded,
    is_number,
    sets_nothing,
)
from ckptdiff.formats.token_files import GENERATION, POST_PROCESSOR, TOKENIZER

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


def _added(side: ConfigSide) -> Stated | None:
    """Read the special tokens that tokenizer.json puts before and behind a text.

    The value is two tuples of their texts. transformers 5 goes by the post-processor alone.
    """
    files = side.token_files or {}
    if POST_PROCESSOR not in files:
        return None
    processor = files[POST_PROCESSOR]["post_processor"]
    before: list[str] = []
    after: list[str] = []
    for step in (processor or {}).get("processors") or [processor or {}]:
        if "single" in step:  # TemplateProcessing
            parts = step["single"]
            at = next(i for i, part in enumerate(parts) if "Sequence" in part)
            texts = [part["SpecialToken"]["id"] if i != at else "" for i, part in enumerate(parts)]
            before, after = texts[:at] + before, after + texts[at + 1 :]
        elif "cls" in step:  # of BERT and RoBERTa
            before, after = [step["cls"][0], *before], [*after, step["sep"][0]]
    words = " … ".join(" ".join(texts) or "nothing" for texts in (before, after))
    words = words.removesuffix(" … nothing")
    return Stated((tuple(before), tuple(after)), "post_processor", words, file=None)


# Of Megatron's tokenizers, those that put no special token around a text.
_BARE = ("GPT2BPETokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer")


def _added_by_megatron(side: ConfigSide) -> Stated | None:
    """Read whether Megatron's tokenizer puts nothing around a text; None where it may put BOS.

    Since 0.15 a HuggingFaceTokenizer and a Llama2Tokenizer put nothing there, unless the older
    classes are asked for; since 0.17 a HuggingFaceTokenizer does what transformers does.
    """
    kind = side.get("tokenizer_type")
    since_0_15 = side.get("legacy_tokenizer") is False
    is_bare = (
        kind in _BARE
        or (kind == "Llama2Tokenizer" and since_0_15)
        or (
            kind == "HuggingFaceTokenizer"
            and (
                (since_0_15 and side.get("tokenizer_hf_include_special_tokens") is False)
                or side.get("tokenizer_hf_no_include_special_tokens") is True
            )
        )
    )
    return Stated(((), ()), "tokenizer_type", kind) if is_bare else None


def _template(side: ConfigSide) -> Stated | None:
    """Read the chat template: its text, or the texts of several by name."""
    raw = (side.token_files or {}).get(TOKENIZER, {}).get("chat_template")
    if raw is None:
        return Stated(None, None, "none", "no file has one")
    text = str(raw)
    words = f"{len(text)} characters (CRC {crc32(text.encode(errors='replace')):08x})"
    return Stated(raw, "chat_template", words, file=None)


# The defaults of transformers' generate, by setting.
_SAMPLING: Mapping[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None,
    "typical_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1,
}  # fmt: skip


def _sampled(name: str, usual: Any) -> Reader:
    def read(side: ConfigSide) -> Stated | None:
        raw = (side.token_files or {}).get(GENERATION, {}).get(name)
        if raw is None:
            return Stated(usual, None, usual, "the default of generate")
        return Stated(raw, name, raw, file=GENERATION)

    return read


def _field(
    meaning: str,
    read: Reader,
    consequence: str,
    applies: Callable[[ConfigSide], bool],
    *,
    megatron: Reader = lambda _: None,
    **more: Any,
) -> ConfigField:
    return ConfigField(
        meaning,
        read,
        megatron,
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

ADDED = "Special tokens around a text"
TOKENS: tuple[ConfigField, ...] = (
    _field(
        ADDED,
        _added,
        "The same text becomes other ids, and every later position moves.",
        lambda _: True,
        megatron=_added_by_megatron,
        harmless=lambda a, b: (
            "the tokenizer of its args puts none there, unless a script does"
            if a.kind != b.kind
            else None
        ),
        says=True,
    ),
    _field(
        "Chat template",
        _template,
        "",
        _has_tokenizer,
        equal=lambda a, b: bool(a == b),
        harmless=lambda _a, _b: "a chat becomes another text",
        says=True,
    ),
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
    *(
        _field(
            f"Generation's {name}",
            _sampled(name, usual),
            "",
            lambda side: GENERATION in (side.token_files or {}),
            equal=lambda a, b: a == b or equal(a, b),
            harmless=lambda _a, _b: "the same logits are sampled otherwise",
            says=True,
        )
        for name, usual in _SAMPLING.items()
    ),
)


def added_tokens(side: ConfigSide) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the special tokens before and behind a text by tokenizer.json; None without it."""
    found: Stated | None = guarded(_added, side)
    return None if found is None else found.value


def stop_tokens(side: ConfigSide) -> tuple[int, ...]:
    """Return the ids that end a text, as far as the side's files state them."""
    found: Stated | None = guarded(_generated("eos_token_id"), side)
    return (found.value if found is not None else None) or ()
