"""Jobs: find the devices that can compute, and choose one."""

from __future__ import annotations

import os

import torch

from ckptdiff.errors import BadArgument


def cuda_devices() -> tuple[str, ...]:
    """Return `cuda:0`, `cuda:1` and so on, as many as torch sees."""
    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


def free_memory(device: str) -> int:
    """Return the bytes that a CUDA device has free."""
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return int(free)


def has_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device has products of a dtype itself: not many CPUs have those of bf16."""
    if device.type != "cpu" or dtype.itemsize > 2:
        return True
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    is_supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)
    return is_supported is not None and bool(is_supported())


def choose(device: str, needed: int, threads: int) -> tuple[str, str]:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`, and why `auto` is not the GPU.

    `needed` is the most memory of a step, in bytes; `threads` are the CPU's, unless OMP_NUM_THREADS
    says how many are used. Raises BadArgument if a CUDA device is asked for that is not there, or
    has too little memory.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    if device == "cpu":
        return "cpu", ""
    if not torch.cuda.is_available():
        if device != "auto":
            raise BadArgument("torch finds no CUDA device", hint="cpu")
        return "cpu", ""
    chosen = "cuda" if device == "auto" else device
    number, count = torch.device(chosen).index, torch.cuda.device_count()
    if number is not None and number >= count:
        there = "cuda:0 is" if count == 1 else f"cuda:0 to cuda:{count - 1} are"
        raise BadArgument(f"there is no {chosen}: {there} there", hint="cpu")
    free, _ = torch.cuda.mem_get_info(number)
    if free >= needed:
        return chosen, ""
    short = f"the GPU has {free / 2**30:.1f} GiB free, a step takes {needed / 2**30:.1f}"
    if device != "auto":
        raise BadArgument(short, hint="cpu")
    return "cpu", f"computed on the CPU: {short}"
