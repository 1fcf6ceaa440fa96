"""Leave the logits of transformers and of megatron-core as files of bits, in several dtypes.

Run by `oracle_server`. A model is written by transformers; its Megatron shards are read from rank
files, whoever wrote them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.support.oracle_core import meet
from tests.support.oracle_megatron import build
from tests.support.oracle_state import load

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compare(*, task: str, rank: int, meeting: str, **arguments: Any) -> dict[str, Any]:
    """Compute what transformers, or a rank of megatron-core, makes of some tokens."""
    if task == "transformers":
        return _transformers(**arguments)
    if task == "answers":
        return _answers(rank=rank, meeting=meeting, **arguments)
    return _megatron(rank=rank, meeting=meeting, **arguments)


def _transformers(
    *, models: dict[str, dict[str, Any]], ids: list[int], root: str
) -> dict[str, Any]:
    """Write each model, of random weights, and its logits beside it."""
    torch.set_grad_enabled(False)
    transformers = import_module("transformers")
    for name, options in models.items():
        folder = Path(root) / name
        config = transformers.AutoConfig.for_model(**options)
        torch.manual_seed(0)
        sees = hasattr(config, "vision_config")
        auto = getattr(transformers, f"AutoModelFor{'ImageTextToText' if sees else 'CausalLM'}")
        made = auto.from_config(config, dtype=torch.float32)
        for key, value in made.state_dict().items():
            norm = key.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
            value.normal_(mean=1.0 if norm else 0.0, std=0.1)
        made.save_pretrained(folder)
        for dtype, kind in DTYPES.items():
            # As it is loaded, the frequencies of rotary positions stay in float32.
            options = {"attn_implementation": "eager", "experts_implementation": "eager"}
            model = auto.from_pretrained(folder, dtype=kind, **options)
            turns = [value for key, value in model.named_buffers() if key.endswith("inv_freq")]
            assert all(value.dtype is torch.float32 for value in turns)
            logits = model.eval()(torch.tensor([ids])).logits[0].to(kind)  # some classes widen them
            write(logits, folder / f"logits.{dtype}")
    return {"threads": torch.get_num_threads()}


def _megatron(
    *, hf: str, iteration: str, tp: int, ids: list[int], rank: int, meeting: str
) -> dict[str, Any]:
    """Write the logits of the rank files beside them; return the loss over all rows in fp32."""
    meet(meeting, rank, tp)
    if tp > 2:
        _sum_in_rank_order()
    config = import_module("transformers").AutoConfig.from_pretrained(hf)
    state = load(Path(iteration) / f"mp_rank_{rank:02d}/model_optim_rng.pt")
    losses = {}
    for dtype, kind in DTYPES.items():
        network = build(config, tp, state["args"].padded_vocab_size, kind)
        held = {name: v for name, v in state["model"].items() if torch.is_tensor(v)}
        loaded = network.load_state_dict(held, strict=False)
        assert not loaded.unexpected_keys
        assert all(name.endswith("_extra_state") for name in loaded.missing_keys)
        places = torch.arange(len(ids))[None]
        rows = network(torch.tensor([ids]), places, None)[0]
        of_next = torch.tensor(ids[1:])
        losses[dtype] = float(torch.nn.functional.cross_entropy(rows[:-1].double(), of_next))
        if rank == 0:
            write(rows[:, : config.vocab_size], Path(iteration) / f"logits.{dtype}")
    torch.distributed.destroy_process_group()
    return {"threads": torch.get_num_threads(), "loss": losses["fp32"]}


def _answers(
    *, hf: str, iteration: str, tp: int, asked: list[tuple[list[int], int]], rank: int, meeting: str
) -> dict[str, Any]:
    """Return of each ids the log-likelihood of the last of them, and whether each is the likeliest.

    Megatron-core computes them from the rank files, in fp32, one question after another.
    """
    torch.set_grad_enabled(False)
    meet(meeting, rank, tp)
    config = import_module("transformers").AutoConfig.from_pretrained(hf)
    state = load(Path(iteration) / f"mp_rank_{rank:02d}/model_optim_rng.pt")
    network = build(config, tp, state["args"].padded_vocab_size)
    held = {name: v for name, v in state["model"].items() if torch.is_tensor(v)}
    loaded = network.load_state_dict(held, strict=False)
    assert not loaded.unexpected_keys
    assert all(name.endswith("_extra_state") for name in loaded.missing_keys)
    found = []
    for ids, count in asked:
        run = torch.tensor([ids[:-1]])
        rows = network(run, torch.arange(run.shape[1])[None], None)[0, -count:, : config.vocab_size]
        wanted = torch.tensor(ids[-count:])
        logliks = torch.log_softmax(rows.double(), -1).gather(1, wanted[:, None])
        found.append((float(logliks.sum()), bool((rows.argmax(-1) == wanted).all())))
    torch.distributed.destroy_process_group()
    return {"answers": found}


def write(logits: Tensor, file: Path) -> None:
    file.write_bytes(logits.contiguous().view(torch.uint8).numpy().tobytes())


def _sum_in_rank_order() -> None:
    """Replace the sum over more than two ranks: the order that gloo adds in is its own."""
    distributed: Any = torch.distributed

    def all_reduce(tensor: Tensor, *_: Any, group: Any = None, **__: Any) -> None:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(parts, tensor.contiguous(), group=group)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        tensor.copy_(total)

    distributed.all_reduce = all_reduce
