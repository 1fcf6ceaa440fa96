"""What people use instead: the script everybody writes, `torch.equal`, sft-cli."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

NAIVE = """
import sys, torch
from safetensors import safe_open
largest = 0.0
with safe_open(sys.argv[1], "pt") as f, safe_open(sys.argv[2], "pt") as g:
    for name in f.keys():
        a, b = f.get_tensor(name).float(), g.get_tensor(name).float()
        d = (a - b).abs()
        cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
        largest = max(largest, d.max().item())
        mean, relative = d.mean().item(), ((a - b).norm() / a.norm()).item()
print(largest)
"""

LOAD_AND_EQUAL = """
import sys, torch
from safetensors.torch import load_file
a, b = load_file(sys.argv[1]), load_file(sys.argv[2])
print(all(torch.equal(a[name], b[name]) for name in a))
"""


def naive(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Do what the naive script does, on tensors in memory."""
    import torch

    for one, other in pairs:
        a, b = one.float(), other.float()
        d = (a - b).abs()
        torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
        d.max().item()
        d.mean().item()
        ((a - b).norm() / a.norm()).item()


def sft(given: str | None) -> str | None:
    """Return the command of sft-cli, if there is one."""
    beside = Path(sys.executable).with_name("sft")
    return given or (str(beside) if beside.exists() else shutil.which("sft"))
