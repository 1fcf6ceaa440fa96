"""Tiny tokenizers, trained where a test asks for them by the libraries that read them."""

from __future__ import annotations

import io
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
