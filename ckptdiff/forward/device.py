"""A job: choose what computes."""

from __future__ import annotations

import torch

from ckptdiff.errors import BadArgument


def choose(device: str, needed: int, threads: int) -> tuple[str, str]:
    """Return the device for `auto`, `cpu` or `cuda`, and a word where it is not the one hoped for.

    `needed` is what a step takes at most, in bytes; `threads` are for the CPU. Raises BadArgument
    if CUDA is asked for and cannot be had.
    """
    torch.set_num_threads(threads)
    if device == "cpu":
        return "cpu", ""
    if not torch.cuda.is_available():
        if device == "cuda":
            raise BadArgument("torch finds no CUDA device", hint="cpu")
        return "cpu", ""
    free, _ = torch.cuda.mem_get_info()
    if free >= needed:
        return "cuda", ""
    short = f"the GPU has {free / 2**30:.1f} GiB free, a step takes {needed / 2**30:.1f}"
    if device == "cuda":
        raise BadArgument(short, hint="cpu")
    return "cpu", f"computed on the CPU: {short}"
