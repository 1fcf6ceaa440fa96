"""Which settings of a TransformerConfig move the logits of a model, and what their defaults are.

Run by the oracle's Python: `-m tests.support.oracle_effects WHEEL FOLDER`, with the questions on
stdin. WHEEL is a folder into which the wheel of megatron-core was unpacked, or an empty text for
the one that is installed. A CPU is enough.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module
from typing import Any

import torch

from tests.support.oracle_core import TOKENS, use_the_cpu
from tests.support.stand_ins import prepare

VOCAB = 64
BASE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "add_bias_linear": False,
    "gated_linear_unit": True,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "use_cpu_initialization": True,
    "normalization": "RMSNorm",
}
EXPERTS: dict[str, Any] = {
    "num_moe_experts": 4,
    "moe_ffn_hidden_size": 16,
    "moe_router_topk": 2,
    "moe_token_dispatcher_type": "allgather",
    "moe_router_load_balancing_type": "none",
}


def network(settings: dict[str, Any]) -> Any:
    """Return a GPTModel in evaluation, of local parts; the weights are made anew."""
    functional: Any = torch.nn.functional
    config: Any = import_module("megatron.core.transformer").TransformerConfig
    specs = import_module("megatron.core.models.gpt.gpt_layer_specs")
    given = config(**{"activation_func": functional.silu, **BASE, **settings})
    spec = specs.get_gpt_layer_local_spec(
        num_experts=given.num_moe_experts,
        moe_grouped_gemm=False,
        qk_layernorm=given.qk_layernorm,
        normalization="RMSNorm",
        qk_l2_norm=given.qk_l2_norm,
    )
    torch.manual_seed(0)
    made = import_module("megatron.core.models.gpt").GPTModel(
        given,
        spec,
        vocab_size=VOCAB,
        max_sequence_length=TOKENS,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )
    return made.eval()


def moved(beside: dict[str, Any], changes: dict[str, Any], weights: Any) -> dict[str, Any]:
    """Return how far the logits move, or why the model with these settings does not run."""
    try:
        one = network({**beside, **changes})
        one.load_state_dict(weights, strict=False)
        return {"by": float((computed(one) - weights["logits"]).abs().max())}
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        return {"fails": f"{type(error).__name__}: {error}"[:200]}


def computed(one: Any) -> torch.Tensor:
    ids = torch.arange(TOKENS)[None] * 7 % VOCAB
    torch.manual_seed(1)
    found: torch.Tensor = one(ids, torch.arange(TOKENS)[None], None)
    return found


def weights_of(beside: dict[str, Any]) -> Any:
    """Return a model's weights, of size one and more, and its logits."""
    one = network(beside)
    generator = torch.Generator().manual_seed(0)
    for name, value in one.named_parameters():
        if "norm" not in name:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    state = {n: v for n, v in one.state_dict().items() if torch.is_tensor(v)}
    return {**state, "logits": computed(one)}


def defaults() -> dict[str, Any]:
    """Return the fields of both configs, with defaults; what is no plain value has its name."""
    config: Any = import_module("megatron.core.transformer.transformer_config")
    found = {}
    for field in dataclasses.fields(config.MLATransformerConfig):
        value = None if field.default is dataclasses.MISSING else field.default
        plain = isinstance(value, (bool, int, float, str, type(None)))
        found[field.name] = value if plain else str(value)
    return found


def main(wheel: str, folder: str) -> None:
    prepare(wheel)
    use_the_cpu()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1
    )
    import_module("megatron.core.parallel_state").initialize_model_parallel(1, 1)
    torch.set_grad_enabled(False)
    answers = []
    for beside, several in json.load(sys.stdin):
        weights = weights_of(beside)
        answers.append([moved(beside, changes, weights) for changes in several])
    print(json.dumps({"defaults": defaults(), "moved": answers}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
