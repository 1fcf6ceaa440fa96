"""Convert in one call, and read what was written with torch and safetensors themselves."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.merging import with_merged
from ckptdiff.checkpoint import Parallelism
from ckptdiff.conversion.plan import Conversion, Target, plan_conversion
from ckptdiff.conversion.run import Lost, convert
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_adapter, open_checkpoint
from tests.support.oracle_state import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from ckptdiff.conversion.plan import To


def converted(
    source: Path,
    out: Path,
    to: To,
    *,
    like: Path | None = None,
    adapter: Path | None = None,
    verify: bool = True,
    etp: int | None = None,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    ep: int = 1,
    **rest: Any,
) -> tuple[Conversion, dict[str, Lost]]:
    """Convert in this process; return the plan, and what casts lost."""
    lender = assemble(open_checkpoint(like)) if like is not None else None
    side = assemble(open_checkpoint(source), like=lender)
    if adapter is not None:
        side = with_merged(side, assemble(open_adapter(adapter), like=side))
    target = Target(to, Parallelism(tp, pp, vpp, ep, etp or tp), **rest)
    conversion = plan_conversion(side, out, target, lender)
    events = list(convert(conversion, InlineExecutor(), verify=verify))
    return conversion, {event.name: event for event in events if isinstance(event, Lost)}


def hf_tensors(folder: Path) -> dict[str, Tensor]:
    """Return everything that the safetensors library finds in a folder."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def torch_loads(file: Path) -> dict[str, Any]:
    """Return what `torch.load(weights_only=True)` reads, with the class of args allowed."""
    with torch.serialization.safe_globals([Namespace]):
        found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def rank_tensors(folder: Path, *, trusted: bool = False) -> dict[str, Tensor]:
    """Return everything in the rank files that torch reads, by folder and name.

    Files of the tests' own writer are `trusted`: they name classes of Megatron.
    """
    found = {}
    for file in sorted(folder.glob("*/mp_rank_*/model_optim_rng.pt")):
        state = load(file) if trusted else torch_loads(file)
        for key, model in state.items():
            if key.startswith("model"):
                for name, value in _flat(model):
                    if torch.is_tensor(value) and not name.endswith("_extra_state"):
                        found[f"{file.parent.name} {key} {name}"] = value
    return found


def _flat(model: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in model.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have one dtype, one shape and the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Return the names that are not in both, or not the same there."""
    return sorted(n for n in {*a, *b} if n not in a or n not in b or not same_bits(a[n], b[n]))
