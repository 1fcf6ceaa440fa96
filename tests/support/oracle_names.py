"""Which tensors transformers does not find in a folder, under the names that are stored there.

`python -m tests.support.oracle_names`: standard input is a JSON list of folders, the last line of
standard output is a JSON object: folder to the number of parameters that stay as initialised.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module


def unset_parameters(folder: str) -> int:
    models = import_module("transformers").AutoModelForCausalLM
    _, loading = models.from_pretrained(folder, output_loading_info=True)
    return len(loading["missing_keys"])


if __name__ == "__main__":
    answer = {folder: unset_parameters(folder) for folder in json.load(sys.stdin)}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
