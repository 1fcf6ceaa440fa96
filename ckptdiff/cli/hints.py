"""The hints of errors as the command line words them: each names an option."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.errors import Hint

OPTIONS: dict[Hint, str] = {
    "ids": "--ids works without a tokenizer",
    "no-bos": "--bos no adds none",
    "overwrite": "--overwrite replaces it",
    "allow-unmapped": "--allow-unmapped converts the rest",
    "merge": "--adapter DIR merges the one in DIR, which may be the same folder, and "
    "--allow-unmapped leaves it out",
    "allow-incomplete": "--allow-incomplete writes what is there",
    "cpu": "--device cpu computes without",
    "lend": "--like DIR lends the config.json of such a model, --family NAME chooses a family",
    "batch-tokens": "--batch-tokens sets how many there are",
    "no-verify": "--no-verify converts what is there",
    "accept": "--accept writes it all the same",
    "download": "if it is the id of a model, --download fetches it",
    "fetch-rest": "--download fetches the rest",
}
