"""Have transformers read pairs of configs: `python -m tests.support.oracle_configs <pairs.json`.

Standard input is an object of name to [original, rebuilt]; standard output one of name to what
differs, in the entries that the rebuilt one states, once transformers' own class has read both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

# Of a config of this class, the same under another name.
SAME_AS = {
    "torch_dtype": "dtype",
    "rope_theta": "rope_parameters",
    "rope_scaling": "rope_parameters",
}


def read(config: dict[str, Any]) -> dict[str, Any]:
    """Return all entries that transformers makes of a config.json."""
    transformers = import_module("transformers")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        found: dict[str, Any] = transformers.AutoConfig.from_pretrained(folder).to_dict()
    if isinstance(found.get("rope_parameters"), dict):
        found["rope_parameters"].pop("type", None)  # the older name of `rope_type`
    return found


def differences(original: dict[str, Any], rebuilt: dict[str, Any]) -> dict[str, Any]:
    names = {SAME_AS.get(name, name) for name in rebuilt}
    one, other = read(original), read(rebuilt)
    return {
        name: [one.get(name), other.get(name)]
        for name in sorted(names)
        if name in one and one[name] != other.get(name)
    }


if __name__ == "__main__":
    pairs = json.load(sys.stdin)
    result = {name: differences(*pair) for name, pair in pairs.items()}
    sys.stdout.write(json.dumps(result, default=str) + "\n")
