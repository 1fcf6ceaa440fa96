"""What transformers loads of folders: a number of the embedding and of the head of each.

Run in the oracle's Python by `ask_oracle`: folders as JSON on the standard input.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from typing import Any


def loaded(folder: str) -> dict[str, Any]:
    """Return the first elements of embedding and head as loaded; an error as text."""
    transformers = import_module("transformers")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    except (OSError, ValueError) as error:
        return {"error": str(error)[:200]}
    rows = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return {"embedding": float(rows[0][0, 0]), "head": float(rows[1][0, 0])}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.stdout.write(json.dumps({folder: loaded(folder) for folder in json.load(sys.stdin)}))
