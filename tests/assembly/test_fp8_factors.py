"""fp8 with a factor for each tensor, row or block, against plain weights.

Oracles: torch, and what compressed-tensors 0.20.1 packed once and made of it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.assembly.accounting import unlisted
from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.codes import Codes
from ckptdiff.checkpoint import TensorRef, contiguous
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.sides import forward_side
from tests.assembly.test_packed import LAYER, NORM, method, write
from tests.support.conversions import converted, hf_tensors
from tests.support.corpus import REPOSITORY
from tests.support.oracle import make_megatron
from tests.support.pairs import compare, compare_and_diagnose, config_of, open_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

WEIGHT = f"{LAYER}.weight"
E4M3 = torch.float8_e4m3fn
KEPT = REPOSITORY / "tests/data/compressed-tensors"
MODELOPT = method("modelopt", quant_algo="FP8")
SPREAD = torch.logspace(-2, 1, 24)[:, None]  # a row's size, so that no row has another's factor


def weight_of(seed: int = 1) -> Tensor:
    return torch.randn(24, 40, generator=torch.Generator().manual_seed(seed)) * SPREAD


def codes_of(weight: Tensor, factors: Tensor, dtype: torch.dtype = E4M3) -> Tensor:
    return (weight / factors.float()).to(dtype)


def packed(folder: Path, codes: Tensor, factors: Tensor, end: str = "_scale", **of: Any) -> Path:
    return write(folder, {WEIGHT: codes, WEIGHT + end: factors, **NORM}, of or MODELOPT)


def plain(folder: Path, weight: Tensor) -> Path:
    return write(folder, {WEIGHT: weight, **NORM}, {})


def rows_of(weight: Tensor) -> Tensor:
    return weight.abs().amax(1, keepdim=True) / 448


# Of each way: factors that bring the weights that share one to 448, the most of E4M3.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda w: w.abs().max() / 448,
    "vector of one": lambda w: w.abs().max().reshape(1) / 448,
    "matrix of one": lambda w: w.abs().max().reshape(1, 1) / 448,
    "column": rows_of,
    "vector": lambda w: rows_of(w).reshape(-1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exchanged", [False, True])
def test_codes_times_factors_are_what_torch_makes_of_them(
    tmp_path: Path, way: str, dtype: torch.dtype, exchanged: bool
) -> None:
    factors = WAYS[way](weight_of()).to(dtype)
    spread = factors.reshape(-1, 1) if factors.ndim == 1 else factors
    codes = codes_of(weight_of(), spread)
    values = (codes.float() * spread.float()).bfloat16()
    sides = packed(tmp_path / "q", codes, factors), plain(tmp_path / "p", values)
    comparison = compare(sides[exchanged], sides[not exchanged])
    assert comparison.results.keys() == {WEIGHT, *NORM}
    assert (comparison.statuses, comparison[WEIGHT].why) == ({WEIGHT: "close"}, "cast")
    assert comparison.numbers(WEIGHT).differing == 0
    form = "a factor for each row" if factors.numel() > 1 else "one factor for the tensor"
    assert comparison[WEIGHT].note == (
        f"{'BA'[not exchanged]} is packed as fp8 ({form}): multiplied out in float32, then rounded"
    )
    changed = values.clone()
    changed[5, 7] += 100
    comparison = compare(sides[0], plain(tmp_path / "changed", changed))
    assert comparison.statuses == {WEIGHT: "differ"}
    assert (comparison.numbers(WEIGHT).differing, comparison.numbers(WEIGHT).max_at) == (1, (5, 7))


def test_codes_of_e5m2_are_multiplied_out_too(tmp_path: Path) -> None:
    factors = rows_of(weight_of())
    codes = codes_of(weight_of(), factors, torch.float8_e5m2)
    folder = plain(tmp_path / "p", codes.float() * factors)
    comparison = compare(packed(tmp_path / "q", codes, factors), folder)
    assert comparison.summary.weights in ("same", "close")
    assert comparison.numbers(WEIGHT).differing == 0


@pytest.mark.parametrize("name", [f"{s}.{d}" for s in ("tensor", "channel", "block")
                                  for d in ("float32", "bfloat16")])  # fmt: skip
def test_each_number_is_that_of_compressed_tensors(tmp_path: Path, name: str) -> None:
    held = load_file(KEPT / "packed.safetensors")
    weights = {"strategy": name.partition(".")[0], "num_bits": 8, "block_structure": [16, 24]}
    groups = {"group_0": {"weights": weights}}
    config = method("compressed-tensors", format="float-quantized", config_groups=groups)
    stored = {LAYER + end: held[name + end] for end in (".weight", ".weight_scale")}
    folder = write(tmp_path / "q", {**stored, **NORM}, config)
    right = load_file(KEPT / "plain.safetensors")[f"{name}.weight"]
    comparison = compare(folder, plain(tmp_path / "p", right))
    assert comparison.statuses in ({}, {WEIGHT: "close"})
    assert comparison.numbers(WEIGHT).differing == 0
    _, lost = converted(folder, tmp_path / "out", "hf", dtype="fp32")
    assert not lost
    out = hf_tensors(tmp_path / "out")
    assert out.keys() == {WEIGHT, *NORM}
    assert torch.equal(out[WEIGHT].to(right.dtype), right)


def test_factors_of_half_the_rows_are_an_error(tmp_path: Path) -> None:
    factors = rows_of(weight_of())
    folder = packed(tmp_path / "q", codes_of(weight_of(), factors), factors[::2].contiguous())
    comparison = compare(folder, plain(tmp_path / "p", weight_of()))
    assert comparison.statuses == {WEIGHT: "error"}
    assert f"{WEIGHT}_scale is 12x1" in (comparison[WEIGHT].error or "")


def test_two_exchanged_factors_are_told_by_their_rows(tmp_path: Path) -> None:
    factors = rows_of(weight_of())
    codes = codes_of(weight_of(), factors)
    values = (codes.float() * factors).bfloat16()
    order = torch.arange(24)
    order[[3, 20]] = order[[20, 3]]
    folder = packed(tmp_path / "q", codes, factors[order].contiguous())
    comparison = compare(folder, plain(tmp_path / "p", values))
    assert comparison.statuses == {WEIGHT: "differ"}
    assert comparison.numbers(WEIGHT).differing == int((values[[3, 20]] != 0).sum())


def test_factors_of_another_weight_are_told(tmp_path: Path) -> None:
    factors = rows_of(weight_of())
    codes = codes_of(weight_of(), factors)
    folder = packed(tmp_path / "q", codes, rows_of(weight_of(2)))
    values = (codes.float() * factors).bfloat16()
    assert compare(folder, plain(tmp_path / "p", values)).statuses == {WEIGHT: "differ"}


@pytest.mark.parametrize(
    "beside", [".pre_quant_scale", ".weight_zero_point", ".weight_scale_2", ".weight_global_scale"]
)
def test_codes_that_something_else_changes_too_are_not_multiplied_out(
    tmp_path: Path, beside: str
) -> None:
    factors = rows_of(weight_of())
    held = {WEIGHT: codes_of(weight_of(), factors), f"{WEIGHT}_scale": factors}
    folder = write(tmp_path / "q", {**held, LAYER + beside: torch.ones(40), **NORM}, MODELOPT)
    comparison = compare(folder, plain(tmp_path / "p", weight_of()))
    assert comparison.statuses == {WEIGHT: "packed"}


def test_factors_of_which_no_one_can_say_what_shares_them_stay_packed(tmp_path: Path) -> None:
    codes = torch.ones(24, 24).to(E4M3)
    folder = packed(tmp_path / "q", codes, torch.ones(1, 24))  # of rows, or of columns
    assert compare(folder, plain(tmp_path / "p", torch.ones(24, 24))).statuses == {WEIGHT: "packed"}


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_single_scale_inv_is_that_of_the_whole_weight_where_no_block_is_stated(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    weight = weight_of().repeat(9, 9)  # of several blocks of the usual size
    factor = (weight.abs().max() / 448).bfloat16()
    codes = codes_of(weight, factor)
    values = plain(tmp_path / "p", (codes.float() * factor.float()).bfloat16())
    unstated = method("fp8", weight_block_size=None)
    folder = packed(tmp_path / "q", codes, factor.reshape(shape), "_scale_inv", **unstated)
    comparison = compare(folder, values)
    assert comparison.statuses == {WEIGHT: "close"}
    assert comparison.numbers(WEIGHT).differing == 0
    stated = method("fp8", weight_block_size=[128, 128])
    folder = packed(tmp_path / "s", codes, factor.reshape(shape), "_scale_inv", **stated)
    assert compare(folder, values).statuses == {WEIGHT: "error"}


@pytest.mark.parametrize("to", ["hf", "megatron"])
def test_a_whole_model_is_diagnosed_and_converted(
    tmp_path: Path,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    to: Any,
) -> None:
    stored: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    for number, (name, weight) in enumerate(tiny_weights().items()):
        stored[name] = right[name] = weight
        if "proj" in name:
            factors = rows_of(weight.float()) if number % 2 else weight.float().abs().max() / 448
            stored[name] = codes = codes_of(weight.float(), factors)
            stored |= {f"{name}_scale": factors, name[:-6] + "input_scale": torch.ones(1)}
            right[name] = (codes.float() * factors).bfloat16()
    config = config_of(tiny_hf())
    folder = write(tmp_path / "q", stored, {**config, **MODELOPT})
    reference = write(tmp_path / "p", right, config)
    conversion, _ = converted(folder, tmp_path / "out", to, tp=2 if to == "megatron" else 1)
    notes = " ".join(conversion.notes)
    assert "packed as fp8 (one factor for the tensor), multiplied out" in notes
    assert "left out, since plain weights have no use for it: " in notes
    assert compare(reference, tmp_path / "out").statuses == {}
    with pytest.raises(UnsupportedLayout, match="Logits are computed of plain numbers"):
        forward_side(*open_pair(folder, reference), "hf")
    assert unlisted(open_pair(folder, reference)[0]) == []
    if to == "hf":
        written = hf_tensors(tmp_path / "out")
        assert written.keys() == right.keys()
        assert all(torch.equal(written[name], right[name]) for name in right)
        return
    megatron = make_megatron(tmp_path / "m", right, config, divisible_by=8, tp=2)
    comparison = compare(folder, megatron)
    assert comparison.statuses == {name: "close" for name in right if "proj" in name}
    gate, up = (f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up"))
    exchanged = {**right, gate: right[up], up: right[gate]}
    _, findings = compare_and_diagnose(folder, write(tmp_path / "x", exchanged, config))
    assert [finding.kind for finding in findings] == ["FC1-SWAP"]


def ref_of(shape: tuple[int, ...], dtype: str, file: Path) -> TensorRef:
    return TensorRef("w", shape, dtype, file, 100, contiguous(shape))


def test_a_part_of_a_weight_has_the_factors_of_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "f"
    codes = ref_of((24, 40), "F8_E4M3", file)
    by_row = Codes(codes, (24, 40), ref_of((1, 24, 1), "F32", file), (1, 40))
    by_block = Codes(codes, (24, 40), ref_of((1, 3, 2), "BF16", file), (8, 20))

    def scale(of: Codes, start: int, rows: int, step: int = 1) -> Any:
        view = TensorRef("w", (rows, 40), "F8_E4M3", file, 100 + start * 40, (40 * step, 1))
        part = of.part(view, "words")
        return part and part.scale

    cut = scale(by_row, 5, 6, 3)
    assert (cut.ref.offset, cut.ref.shape, cut.ref.stride) == (100 + 5 * 4, (6, 1), (3, 1))
    assert cut.block == (1, 40)
    cut = scale(by_block, 8, 10)
    assert (cut.ref.offset, cut.ref.shape, cut.block) == (100 + 2 * 2, (2, 2), (8, 20))
    assert scale(by_block, 9, 8) is None
    assert scale(by_block, 8, 8, 2) is None
    turned = TensorRef("w", (40, 24), "F8_E4M3", file, 100, (1, 40))
    assert by_row.part(turned, "words") is None


def test_the_listing_is_of_what_the_files_hold(tmp_path: Path) -> None:
    factors = rows_of(weight_of())
    folder = packed(tmp_path / "q", codes_of(weight_of(), factors), factors)
    side = assemble(open_checkpoint(folder))
    assert side.tensors.keys() == {WEIGHT, f"{WEIGHT}_scale", *NORM}
    assert compare(folder, folder).summary.weights == "same"
