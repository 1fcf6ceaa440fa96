"""The hints of errors in the words of the screen: which key or field to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.errors import Hint

KEYS: dict[Hint, str] = {
    "ids": "type ids of tokens, as 1,2,3, which need no tokenizer",
    "no-bos": "type ids of tokens, as 1,2,3, where none is added",
    "overwrite": "choose yes at Replace to write over it",
    "allow-unmapped": "choose to leave them out at Unknown to convert the rest",
    "allow-incomplete": "choose to write it at Gaps to convert what is there",
    "cpu": "it is computed on the CPU",
    "lend": "open it beside a Hugging Face folder of such a model, which lends its config.json at "
    "Like",
    "accept": "the command line has an option that writes it all the same",
}
