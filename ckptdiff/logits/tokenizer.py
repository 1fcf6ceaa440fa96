"""Read a tokenizer's file: text to ids, and ids to text, in a worker process.

A file may make the library that reads it panic, abort or take all memory. In a worker, that is an
error like any other.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ckptdiff.errors import BadArgument, CkptDiffError, CorruptFile
from ckptdiff.extras import load
from ckptdiff.formats.files import not_fetched, read_small
from ckptdiff.formats.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Bos = Literal["auto", "yes", "no"]

JSON, MODEL = "tokenizer.json", "tokenizer.model"
MAX_FILE = 200_000_000  # bytes; the largest vocabularies take 35 MB
MAX_MEMORY = 4 << 30  # bytes that a library may allocate beside what the worker has
MAX_SECONDS = 60  # that a library may take
MAX_TEXT = 500  # characters of one token that are kept

# BOS and EOS of classes of transformers, where tokenizer_config.json does not name them.
_CLASSES = {
    "LlamaTokenizer": ("<s>", "</s>"),
    "GemmaTokenizer": ("<bos>", "<eos>"),
    **dict.fromkeys(("GPT2Tokenizer", "GPTNeoXTokenizer"), ("<|endoftext|>", "<|endoftext|>")),
    "Qwen2Tokenizer": (None, "<|endoftext|>"),
}
# Llama 3's `tokenizer.model`: a line per token, with its bytes in base64 and its rank.
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's ids, BOS included where it is added."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]  # of the ids
    bos: int | None  # the id of BOS, added or not; None: it is not known


class _Library(Protocol):
    """A tokenizer, as one of the two libraries reads it."""

    bos: int | None
    named: tuple[int | None, int | None]  # BOS and EOS as its own files name them
    max_length: int | None  # of a text in tokens, as tokenizer_config.json names it
    adds_bos: bool  # BOS is to be put before the ids of `encode`

    def encode(self, text: str, *, special: bool) -> list[int]: ...
    def text(self, number: int) -> str | None: ...
    def special_text(self, number: int) -> str: ...


def find_tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer's file in a folder: tokenizer.json, or else tokenizer.model."""
    if folder.is_file():
        folder = folder.parent
    return next((folder / name for name in (JSON, MODEL) if (folder / name).is_file()), None)


def encode_text(file: Path, text: str, bos: Bos, default_bos: int | None) -> Encoded:
    """Return a text's ids. Runs in a worker process.

    `bos` "auto" adds what the post-processor of tokenizer.json adds, as transformers 5 does,
    whatever tokenizer_config.json says. For tokenizer.model it adds BOS, again as transformers 5,
    if `add_bos_token` of tokenizer_config.json is true. `default_bos` is the model's BOS, used if
    the tokenizer names none.
    Raises BadArgument if BOS is wanted and not known, CorruptFile for a file that does not work.
    """
    with _guarded(file):
        library = _load(file, default_bos)
        ids = library.encode(text, special=bos == "auto")
        if bos == "yes" or (bos == "auto" and library.adds_bos):
            if library.bos is None:
                raise BadArgument(f"{file}: names no BOS token", hint="no-bos")
            ids = [library.bos, *ids]
        return Encoded(tuple(ids), tuple(library.text(n) or "" for n in ids), library.bos)


class OpenTokenizer:
    """A tokenizer that is kept for many texts. Made and used in a worker process.

    `ids` are the model's own BOS and EOS, used if the tokenizer names none, `family` is the
    `model_type` of its config. Raises CorruptFile for a file that does not work.
    """

    def __init__(
        self, file: Path, ids: tuple[int | None, int | None] = (None, None), family: str = ""
    ) -> None:
        self.file = file
        with _guarded(file):
            self._library = library = _load(file, None)
            if family == "llama" and isinstance(library, _Json):
                library.take_class()
            of_both = (*library.named, library.bos, *ids)
            self.max_length = library.max_length  # of a text in tokens; None if it names none
            # What stands before a text that has nothing before it: BOS, or else EOS.
            self.prefix = next((one for one in of_both if one is not None), None)
            self.prefix_text = "" if self.prefix is None else library.special_text(self.prefix)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return a text's ids, with BOS before them if `special`, where it is added."""
        library = self._library
        with _named(self.file):
            ids = library.encode(text, special=special)
        if special and library.adds_bos and library.bos is not None:
            return [library.bos, *ids]
        return ids


def token_texts(file: Path, ids: Sequence[int]) -> tuple[str | None, ...]:
    """Return the text of each id, None for one that is not in the file. Runs in a worker process.

    Raises CorruptFile for a file that does not work.
    """
    with _guarded(file):
        library = _load(file, None)
        return tuple(library.text(number) for number in ids)


@contextmanager
def _guarded(file: Path) -> Iterator[None]:
    """Raise CorruptFile for whatever a library raises, and limit its memory and time."""
    with _named(file), _bounded():
        yield


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Raise CorruptFile for whatever a library raises."""
    try:
        yield
    except (CkptDiffError, KeyboardInterrupt, SystemExit):
        raise
    # A panic in Rust is a BaseException.
    except BaseException as error:  # noqa: BLE001 -- the border to libraries that raise anything
        why = f"{type(error).__name__}: {error}"[:300]
        text = f"{file}: cannot be used as a tokenizer ({why})"
        raise CorruptFile(text, hint="ids") from None


@contextmanager
def _bounded() -> Iterator[None]:
    """Limit memory and time of a worker process on Linux, which dies of them; else do nothing."""
    if parent_process() is None or sys.platform != "linux":
        yield
        return
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_MEMORY
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(
        resource.RLIMIT_AS, (min([most, *(x for x in (soft, hard) if x != unlimited)]), hard)
    )
    signal.alarm(MAX_SECONDS)  # without a handler, so it ends the process even inside C code
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load(file: Path, default_bos: int | None) -> _Library:
    """Return the tokenizer of a file. Raises BadArgument or CorruptFile."""
    content = read_small(file, MAX_FILE)
    missing = not_fetched(content[:100])
    if missing is not None:
        raise CorruptFile(f"{file}: {missing}")
    settings = file.with_name("tokenizer_config.json")
    config = read_object(settings) if settings.is_file() else {}
    named = file.with_name("special_tokens_map.json")
    if "added_tokens_decoder" not in config and named.is_file():
        # An older file than the other; transformers reads both, and this one last.
        config |= {k: v for k, v in read_object(named).items() if k in ("bos_token", "eos_token")}
    if file.name == JSON:
        return _Json(content, config, default_bos)
    if _TIKTOKEN.match(content):
        raise BadArgument(
            f"{file}: is a tiktoken vocabulary, as Llama 3 has it, and no sentencepiece model: "
            "put the model's tokenizer.json beside it",
            hint="ids",
        )
    return _SentencePiece(content, config, default_bos)


def _max_length(config: dict[str, Any]) -> int | None:
    """Return the length that a tokenizer names; a number without meaning stands for none."""
    found = config.get("model_max_length")
    return found if type(found) is int and 0 < found < 1 << 40 else None


class _Json:
    """tokenizer.json, read by the library `tokenizers`."""

    def __init__(self, content: bytes, config: dict[str, Any], default_bos: int | None) -> None:
        load("logits", "tokenizers")
        from tokenizers import Tokenizer

        self.max_length = _max_length(config)
        self._tokenizer = tokenizer = Tokenizer.from_buffer(content)
        # A file may keep the padding and truncation of a training run.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        added = tokenizer.encode("", add_special_tokens=True).ids
        self.adds_bos = False  # the post-processor does
        self._kind = str(config.get("tokenizer_class")).removesuffix("Fast")
        self._is_legacy = config.get("legacy") is True
        self._is_byte_level = b'"ByteLevel"' in content
        bos_token, eos_token = _CLASSES.get(self._kind, (None, None))
        self.named = (
            self._id(config.get("bos_token", bos_token)),
            self._id(config.get("eos_token", eos_token)),
        )
        bos = default_bos if self.named[0] is None else self.named[0]
        self.bos = added[0] if bos is None and added else bos

    def take_class(self) -> None:
        """Space texts as transformers 5 does for Llama, where the class goes before the file.

        It puts no second space before a text that begins with one, and none behind special tokens.
        """
        from tokenizers import pre_tokenizers

        if self._kind == "LlamaTokenizer" and not self._is_byte_level:
            scheme = "always" if self._is_legacy else "first"
            self._tokenizer.normalizer = None
            self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                replacement="▁", prepend_scheme=scheme, split=False
            )

    def _id(self, named: Any) -> int | None:
        """Return the id of a token as tokenizer_config.json names it."""
        if isinstance(named, dict):
            named = named.get("content")
        found: int | None = self._tokenizer.token_to_id(named) if isinstance(named, str) else None
        return found

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def text(self, number: int) -> str | None:
        if self._tokenizer.id_to_token(number) is None:
            return None
        # Some decoders strip a space from the first token of a text, so decode it as the second.
        first, both = (
            self._tokenizer.decode([number] * times, skip_special_tokens=False) for times in (1, 2)
        )
        return both[len(first) :][:MAX_TEXT]

    def special_text(self, number: int) -> str:
        return str(self._tokenizer.decode([number], skip_special_tokens=False))


class _SentencePiece:
    """tokenizer.model, read by the library `sentencepiece`."""

    def __init__(self, content: bytes, config: dict[str, Any], default_bos: int | None) -> None:
        load("logits", "sentencepiece")
        from sentencepiece import SentencePieceProcessor

        self.max_length = _max_length(config)
        self._processor = processor = SentencePieceProcessor(model_proto=content)
        bos = processor.bos_id()
        self.bos = bos if bos >= 0 else default_bos
        eos = processor.eos_id()
        self.named = bos if bos >= 0 else None, eos if eos >= 0 else None
        self.adds_bos = config.get("add_bos_token") is True

    def encode(self, text: str, *, special: bool) -> list[int]:  # noqa: ARG002 -- sentencepiece adds none
        return list(self._processor.encode(text))

    def text(self, number: int) -> str | None:
        if not 0 <= number < self._processor.vocab_size():
            return None
        piece = self._processor.id_to_piece(number)
        if self._processor.is_byte(number):  # <0x0A>
            return bytes([int(piece[3:5], 16)]).decode(errors="replace")
        return str(piece).replace("▁", " ")[:MAX_TEXT]

    def special_text(self, number: int) -> str:
        return str(self._processor.id_to_piece(number))
