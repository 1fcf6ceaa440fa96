"""Tiny tokenizers, trained where a test asks for them by the libraries that read them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = "The capital of France is Paris. "
BOS = "<s>"


def tokenizer_json(*, bos: bool = True, metaspace: bool = False, words: str = TEXT) -> str:
    """Return a BPE whose post-processor adds BOS (id 0), over bytes or as Llama 2 spells spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
    alphabet: list[str] = []
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[BOS, "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([words * 5], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    return str(tokenizer.to_str())


def sentencepiece_model(**options: Any) -> bytes:
    """Return a model with Llama 2's settings: BOS is 1 unless `bos_id` says otherwise."""
    import sentencepiece

    file = io.BytesIO()
    settings: Mapping[str, Any] = {
        "vocab_size": 300, "hard_vocab_limit": False, "byte_fallback": True, "minloglevel": 2,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, **options,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT * 5] * 20), model_writer=file, **settings
    )
    return file.getvalue()


def llama_json(*, words: str = TEXT) -> str:
    """Return a BPE as Llama 2's tokenizer.json has it: bytes for what no piece has, BOS first."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    pieces = ["<unk>", BOS, "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=pieces, show_progress=False)
    tokenizer.train_from_iterator(words.split() * 5, trainer)  # no piece spans two words
    made = json.loads(tokenizer.to_str())
    # Bytes are pieces like any other; only these three are found in a text.
    made["added_tokens"] = [one for one in made["added_tokens"] if one["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.add_special_tokens([AddedToken(BOS, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 1)]
    )
    return str(tokenizer.to_str())
