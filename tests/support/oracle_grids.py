"""Which rank files megatron-core's processes load, save, and what of the experts is in them."""

from __future__ import annotations

from importlib import import_module
from itertools import product
from math import lcm
from typing import Any

ORDER = "tp-cp-ep-dp-pp"  # Megatron-LM's own


def index_in_group(generator: Any, token: str) -> dict[int, int]:
    """Return each process's index in its group, as `get_*_rank` of parallel_state has it."""
    groups = generator.get_ranks(token)
    return {process: index for group in groups for index, process in enumerate(group)}


def grid(tp: int, cp: int, ep: int, etp: int, pp: int, replicas: int) -> dict[str, Any]:
    """Return who loads and who saves which file, as (tp, pp, ep, expert tensor index).

    `saved` is by Megatron-LM 0.14 and 0.16 (expert data parallel rank 0 saves), `saved_since` by
    0.19 (data parallel rank 0 does as well): `save_checkpoint` of megatron/training.
    """
    generator: Any = import_module("megatron.core.parallel_state").RankGenerator
    world = replicas * pp * lcm(tp * cp, etp * ep)
    dense = generator(tp=tp, ep=1, dp=world // (tp * cp * pp), pp=pp, cp=cp, order=ORDER)
    experts = generator(tp=etp, ep=ep, dp=world // (etp * ep * pp), pp=pp, cp=1, order=ORDER)
    assert dense.get_ranks("pp") == experts.get_ranks("pp")
    indices = [
        index_in_group(ranks, token)
        for ranks, token in (
            (dense, "tp"), (dense, "pp"), (experts, "ep"), (experts, "tp"),
            (dense, "dp"), (experts, "dp"),
        )
    ]  # fmt: skip
    processes = [[index[process] for index in indices] for process in range(world)]
    return {
        "loaded": unique(processes),
        "saved": unique(p for p in processes if p[5] == 0),
        "saved_since": unique(p for p in processes if p[4] == 0 or p[5] == 0),
    }


def unique(processes: Any) -> list[list[int]]:
    return sorted(map(list, {tuple(process[:4]) for process in processes}))


def compare(*, rank: int, meeting: str, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Return the grids up to these sizes in each dimension; nobody is met for it."""
    ranges = [range(1, sizes[name] + 1) for name in ("tp", "cp", "ep", "etp", "pp", "replicas")]
    names = ("tp", "cp", "ep", "etp", "pp", "replicas")
    return [
        {"sizes": dict(zip(names, found, strict=True)), **grid(*found)}
        for found in product(*ranges)
    ]
