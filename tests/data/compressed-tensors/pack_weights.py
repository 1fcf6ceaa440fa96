"""Write what lies here: weights that compressed-tensors 0.20.1 packs, and what it makes of them.

Run in a Python that has torch, safetensors and compressed-tensors.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
BLOCK = (16, 24)

compressors: Any = import_module("compressed_tensors.compressors")
quantization: Any = import_module("compressed_tensors.quantization")
utils: Any = import_module("compressed_tensors.quantization.utils")


def least_and_most(weight: torch.Tensor, strategy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the largest number of what shares a factor."""
    if strategy == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    parts = [torch.split(rows, BLOCK[1], 1) for rows in torch.split(weight, BLOCK[0])]
    least, most = (
        torch.stack([torch.stack([getattr(part, of)() for part in row]) for row in parts])
        for of in ("amin", "amax")
    )
    return least, most


def packed_by(compressor: Any, args: Any, state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the parts that are stored of a weight, and the weight that they are read as."""
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
    stored = compressor.compress(dict(state), scheme)
    read = compressor.decompress(dict(stored), scheme)["weight"]
    held = {name: part.detach().contiguous() for name, part in stored.items() if part is not None}
    return held, read.detach().contiguous()


def write(end: str, made: dict[str, tuple[dict[str, Any], Any]]) -> None:
    packed = {f"{n}.{part}": t for n, (held, _) in made.items() for part, t in held.items()}
    save_file(packed, HERE / f"packed{end}.safetensors")
    plain = {f"{n}.weight": read for n, (_, read) in made.items()}
    save_file(plain, HERE / f"plain{end}.safetensors")


def of_fp8() -> dict[str, tuple[dict[str, Any], Any]]:
    random, made = torch.Generator().manual_seed(0), {}
    for dtype in (torch.float32, torch.bfloat16):
        for strategy in ("tensor", "channel", "block"):
            args = quantization.QuantizationArgs(
                num_bits=8, type="float", strategy=strategy, symmetric=True, dynamic=False,
                **({"block_structure": list(BLOCK)} if strategy == "block" else {}),
            )  # fmt: skip
            spread = torch.logspace(-3, 0, 24)[:, None]
            weight = (torch.randn(24, 40, generator=random) * spread).to(dtype)
            scale, zero = utils.calculate_qparams(*least_and_most(weight, strategy), args)
            state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
            name = f"{strategy}.{str(dtype).removeprefix('torch.')}"
            made[name] = packed_by(compressors.NaiveQuantizationCompressor, args, state)
    return made


def of_groups() -> dict[str, tuple[dict[str, Any], Any]]:
    random, made = torch.Generator().manual_seed(0), {}
    for name, bits, group, dtype, compressor in (
        ("nvfp4", 4, 16, torch.float8_e4m3fn, compressors.NVFP4PackedCompressor),
        ("mxfp4", 4, 32, torch.uint8, compressors.MXFP4PackedCompressor),
        ("mxfp8", 8, 32, torch.uint8, compressors.MXFP8QuantizationCompressor),
    ):
        args = quantization.QuantizationArgs(
            num_bits=bits, type="float", group_size=group, symmetric=True, dynamic=False,
            strategy="tensor_group" if name == "nvfp4" else "group",
            scale_dtype=dtype, zp_dtype=dtype,
        )  # fmt: skip
        spread = torch.logspace(-2, 1, 24)[:, None]
        weight = (torch.randn(24, 96, generator=random) * spread).bfloat16()
        grouped = weight.reshape(24, -1, group)
        state = {"weight": weight}
        if name == "nvfp4":
            second = utils.generate_gparam(weight.amin(), weight.amax())
            state["weight_global_scale"] = second
        state["weight_scale"], state["weight_zero_point"] = utils.calculate_qparams(
            grouped.amin(-1), grouped.amax(-1), args, global_scale=state.get("weight_global_scale")
        )
        made[name] = packed_by(compressor, args, state)
    return made


if __name__ == "__main__":
    write("", of_fp8())
    write("-blocks", of_groups())
