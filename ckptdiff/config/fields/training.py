"""Settings of a training run that make its loss another one, and change nothing in evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.fields import moves
from ckptdiff.config.fields.base import (
    ConfigField,
    Stated,
    by_family,
    first,
    number,
    sets_nothing,
    switch,
)

if TYPE_CHECKING:
    from ckptdiff.config.fields.base import ConfigSide

_DROPS = "only training uses it: its loss differs, the logits do not"
# What each does behind an end of document; only in what Megatron trains on.
DOCUMENT_MASKS = {
    "reset_position_ids": "positions begin again",
    "reset_attention_mask": "nothing of the document before is seen",
    "eod_mask_loss": "the next token has no loss",
}


def _restarts(name: str) -> ConfigField:
    note = f"in training, behind an end of document: {DOCUMENT_MASKS[name]}"
    return ConfigField(
        f"Documents, {name}",
        _never,
        switch(name),
        "",
        sets_nothing,
        sets_nothing,
        off=False,
        harmless=lambda _a, _b: note,
        says=True,
        moves=moves.NOTHING,
    )


def _never(_: ConfigSide) -> Stated:
    return Stated(False, None, False, "transformers has no such setting")


TRAINING: tuple[ConfigField, ...] = (
    *(
        ConfigField(
            f"Dropout of {words}",
            first(*map(number, names), by_family({"gpt2": 0.1}, 0.0)),
            number(arg),
            "",
            sets_nothing,
            sets_nothing,
            off=0.0,
            harmless=lambda _a, _b: _DROPS,
            says=True,
            moves=moves.NOTHING,
        )
        for words, names, arg in (
            ("attention", ("attention_dropout", "attn_pdrop"), "attention_dropout"),
            ("layers", ("hidden_dropout", "resid_pdrop"), "hidden_dropout"),
        )
    ),
    *map(_restarts, DOCUMENT_MASKS),
)
