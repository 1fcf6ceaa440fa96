"""Say which fields megatron-core's configs have, and their types."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Answer with {field: annotation} of MLATransformerConfig, TransformerConfig's among them."""
    config: Any = import_module("megatron.core.transformer.transformer_config")
    fields = dataclasses.fields(config.MLATransformerConfig)
    json.load(sys.stdin)
    sys.stdout.write(json.dumps({field.name: str(field.type) for field in fields}) + "\n")


if __name__ == "__main__":
    main()
