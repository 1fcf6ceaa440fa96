"""Have megatron-core build its configuration from args: `python -m tests.support.oracle_args`.

Standard input is an object of name to args; standard output one of name to what the built
configuration has otherwise, of the fields that args and it share.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from importlib import import_module
from typing import Any

# As Megatron-LM's core_transformer_config_from_args calls fields of args; the rest has one name.
RENAMED = {
    "norm_epsilon": "layernorm_epsilon",
    "apply_layernorm_1p": "layernorm_zero_centered_gamma",
    "num_experts": "num_moe_experts",
}
DERIVED = {"num_query_groups"}  # counts beside group_query_attention


def build(args: dict[str, Any]) -> dict[str, Any]:
    """Return the shared fields that the configuration built from them has otherwise."""
    module = import_module("megatron.core.transformer.transformer_config")
    latent = args["multi_latent_attention"]
    cls = module.MLATransformerConfig if latent else module.TransformerConfig
    known = {field.name for field in fields(cls)}
    renamed = {RENAMED.get(name, name): value for name, value in args.items()}
    shared = {n: v for n, v in renamed.items() if n in known and v is not None and n not in DERIVED}
    config = cls(
        **shared,
        gated_linear_unit=args.get("swiglu", True),
        num_query_groups=args["num_query_groups"] if args["group_query_attention"] else None,
    )
    return {n: [v, getattr(config, n)] for n, v in shared.items() if getattr(config, n) != v}


if __name__ == "__main__":
    result = {name: build(args) for name, args in json.load(sys.stdin).items()}
    sys.stdout.write(json.dumps(result, default=str) + "\n")
