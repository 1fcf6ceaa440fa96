"""The hints of errors in the words of the screen: which key or field to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.errors import Hint

KEYS: dict[Hint, str] = {
    "ids": "or type token ids, such as 1,2,3",
    "no-bos": "or type token ids, such as 1,2,3: none is added there",
    "overwrite": "choose yes at Replace to write over it",
    "allow-unmapped": "at Unknown, choose to leave them out",
    "merge": "--adapter of `ckptdiff convert` merges it, or at Unknown, choose to leave it out",
    "allow-incomplete": "at Gaps, choose to write what is there",
    "cpu": "it is computed on the CPU",
    "lend": "open it beside a Hugging Face folder of such a model, which lends its config.json at "
    "Like",
    "batch-tokens": "--batch-tokens of `ckptdiff scores` sets how many there are",
    "download": "if it is the id of a model, `ckptdiff --download` fetches it",
    "fetch-rest": "`ckptdiff --download` fetches the rest",
    "no-verify": "`ckptdiff convert --no-verify` converts what is there",
    "accept": "the command line has an option that writes it all the same",
}
