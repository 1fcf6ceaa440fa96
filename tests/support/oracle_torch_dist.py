"""Load a torch_dist checkpoint into the real megatron-core, and compare logits with transformers.

Run by `oracle_server`, as `oracle_megatron` is.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from tests.support import oracle_families, oracle_megatron
from tests.support.oracle_core import distance, logits, meet


def build(hf: Any, tp: int, ep: int, vocabulary: int) -> Any:
    """Return a GPTModel of the local layer spec."""
    model = hf.model_type
    if model in ("llama", "mistral", "qwen2", "qwen3"):
        return oracle_megatron.build(hf, tp, vocabulary)
    return oracle_families.build(hf, model, tp, ep, vocabulary)


def compare(
    *, model: str, hf: str, iteration: str, tp: int, ep: int, rank: int, meeting: str
) -> dict[str, Any]:
    """Compare the logits of the folder `hf` with those of the folder `iteration`."""
    meet(meeting, rank, tp, ep, oracle_families.expert_tp(model, tp))
    reference = import_module("transformers").AutoModelForCausalLM.from_pretrained(
        hf, dtype=torch.float32, attn_implementation="eager"
    )
    checkpointing = import_module("megatron.core.dist_checkpointing")
    common = checkpointing.load_common_state_dict(iteration)
    content = checkpointing.load_content_metadata(preloaded_state_dict=common)
    network = build(reference.config, tp, ep, common["args"].padded_vocab_size)
    # As Megatron-LM loads by default: a name that is asked for and not there raises.
    state = checkpointing.load({"model": network.sharded_state_dict(metadata=content)}, iteration)
    # And as it loads when it is to say what was not asked for, and what is not there.
    wanted = {"model": network.sharded_state_dict(metadata=content)}
    _, unused, absent = checkpointing.load(wanted, iteration, strict="return_all")
    loaded = network.load_state_dict(state["model"], strict=False)
    counters = ("_extra_state", "tokens_per_expert")
    ids, got = logits(network, reference.config.vocab_size)
    torch.distributed.destroy_process_group()
    return distance(got, reference(ids).logits[0]) | {
        "not there": sorted(absent),
        "not asked for": sorted(n for n in unused if not n.endswith("_extra_state")),
        "not loaded": [n for n in loaded.missing_keys if not n.endswith(counters)],
    }
