"""How far the real programs are from exact logits, and which experts they choose.

Run by `oracle_server`, of a model that `oracle_families` left in a folder.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.support.oracle_core import meet
from tests.support.oracle_families import build
from tests.support.oracle_logits import DTYPES
from tests.support.oracle_state import load

if TYPE_CHECKING:
    from torch import Tensor


def compare(
    *, model: str, folder: str, ids: list[int], dtype: str, rank: int, meeting: str
) -> dict[str, Any]:
    """Return distances of logits, and how many tokens of each layer are routed otherwise.

    Distances are of transformers from its own logits in float64, of megatron-core from those, and
    of both from each other, over the norm of those in float64. Tokens are counted that transformers
    in float64 (`exact`), or megatron-core (`megatron`), routes otherwise than transformers.
    """
    meet(meeting, rank, 1)
    kind = DTYPES[dtype]
    auto = import_module("transformers").AutoModelForCausalLM
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    reference = auto.from_pretrained(Path(folder) / "hf", dtype=kind, **how).eval()
    state = load(Path(folder) / "ranks/iter_0000001/mp_rank_00/model_optim_rng.pt")["model"]
    vocabulary = state["embedding.word_embeddings.weight"].shape[0]
    network = build(reference.config, model, 1, 1, vocabulary, kind)
    network.load_state_dict(state, strict=False)
    maps: list[Tensor] = []
    for name, module in network.named_modules():
        if name.endswith(".mlp.router"):
            module.register_forward_hook(lambda _module, _args, given: maps.append(given[1]))
    tokens = torch.tensor([ids])
    places = torch.arange(len(ids))[None]
    low = reference(tokens, output_router_logits=True)
    other = network.to(kind)(tokens, places, None)[0, :, : reference.config.vocab_size]
    exact = reference.double()(tokens, output_router_logits=True)
    torch.distributed.destroy_process_group()
    chosen = reference.config.num_experts_per_tok
    own, by_exact = ([_chosen(x, chosen) for x in found.router_logits] for found in (low, exact))
    moved = {
        name: [int((x != y).any(-1).sum()) for x, y in zip(own, others, strict=True)]
        for name, others in (("exact", by_exact), ("megatron", maps))
    }
    a, b, truth = (logits.double() for logits in (low.logits[0], other, exact.logits[0]))
    apart = [float((x - y).norm() / truth.norm()) for x, y in ((a, truth), (b, truth), (a, b))]
    return {"apart": apart, "moved": moved}


def _chosen(logits: Tensor, count: int) -> Tensor:
    """Return (tokens, experts): True for those with the highest logits."""
    highest = logits.double().topk(count, -1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, highest, value=True)
