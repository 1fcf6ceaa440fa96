"""What transformers makes of mxfp4: run in the oracle's Python, asked for files."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from safetensors.torch import load_file, save_file

if __name__ == "__main__":
    convert = import_module("transformers.integrations.mxfp4").convert_moe_packed_tensors
    packed, plain = map(Path, json.load(sys.stdin))
    held = load_file(packed)
    made = {
        name.removesuffix("_blocks"): convert(
            held[name], held[name.replace("_blocks", "_scales")]
        ).contiguous()
        for name in held
        if name.endswith("_blocks")
    }
    save_file(made, plain)
    sys.stdout.write(json.dumps(sorted(made)))
