"""Load converted checkpoints as their users do: rank files into megatron-core, HF into AutoModel.

Run by `oracle_server`, as `oracle_megatron` is.
"""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.support import oracle_families
from tests.support.oracle_core import distance, logits, meet
from tests.support.oracle_torch_dist import build


def compare(
    *,
    model: str,
    hf: str,
    iteration: str,
    back: str,
    tp: int,
    ep: int,
    rank: int,
    meeting: str,
) -> dict[str, Any]:
    """Compare the logits of the folder `hf` with those of the rank files, and of `back`."""
    meet(meeting, rank, tp, ep, oracle_families.expert_tp(model, tp))
    reference = _transformers(hf)[0]
    expert = f"_{rank // tp:03d}" if ep > 1 else ""
    file = Path(iteration) / f"mp_rank_{rank % tp:02d}{expert}/model_optim_rng.pt"
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(file, weights_only=True)
    network = build(reference.config, tp, ep, state["args"].padded_vocab_size)
    # Counters that megatron-core itself writes into no checkpoint are all that may be absent.
    loaded = network.load_state_dict(state["model"], strict=False)
    absent = [name for name in loaded.missing_keys if not name.endswith("tokens_per_expert")]
    ids, got = logits(network, reference.config.vocab_size)
    wanted = reference(ids).logits[0]
    again, told = _transformers(back)
    torch.distributed.destroy_process_group()
    return distance(got, wanted) | {
        "absent": absent,
        "unexpected": loaded.unexpected_keys,
        "back": float((again(ids).logits[0] - wanted).abs().max()),
        "told": {kind: sorted(map(str, names)) for kind, names in told.items() if names},
    }


def _transformers(folder: str) -> tuple[Any, dict[str, Any]]:
    """Return the model, and what loading it tells of names."""
    found, told = import_module("transformers").AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return found.eval(), told
