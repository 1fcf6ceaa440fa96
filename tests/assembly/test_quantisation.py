"""Quantised Hugging Face folders against plain ones; torch is the oracle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.assembly.assemble import assemble
from ckptdiff.comparison.inspect import find_largest, glance, windows
from ckptdiff.comparison.verdict import Tolerance
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from tests.support.oracle import make_megatron
from tests.support.pairs import compare, config_of, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
pytestmark = pytest.mark.mostly_slow(one_in=4)
SHAPES = [(256, 256), (200, 300), (1, 5), (128, 129), (640, 1100)]
WEIGHT = "model.layers.0.mlp.up_proj.weight"


def quantise(weight: Tensor, block: tuple[int, int] = (128, 128)) -> tuple[Tensor, Tensor]:
    """Return codes and factors as DeepSeek's inference code makes them, block by block."""
    rows, columns = block
    down, across = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
    factors = torch.empty(down, across)
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(down):
        for j in range(across):
            part = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            held = weight[part].float()
            factors[i, j] = held.abs().max() / 448.0
            codes[part] = (held / factors[i, j]).to(torch.float8_e4m3fn)
    return codes, factors


def dequantise(codes: Tensor, factors: Tensor, block: tuple[int, int] = (128, 128)) -> Tensor:
    spread = factors.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return codes.float() * spread[: codes.shape[0], : codes.shape[1]]


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    write_plain(folder, {name: tensor.contiguous() for name, tensor in tensors.items()})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def quantised(folder: Path, codes: Tensor, factors: Tensor, **config: Any) -> Path:
    settings = {"quantization_config": {**FP8, **config}}
    return write(folder, {WEIGHT: codes, f"{WEIGHT}_scale_inv": factors}, settings)


@pytest.fixture(params=SHAPES, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    weight = torch.randn(*request.param, generator=torch.Generator().manual_seed(1)) / 50
    return quantise(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("exchanged", [False, True])
def test_what_was_dequantised_and_rounded_once_is_a_cast(
    tmp_path: Path, pair: tuple[Tensor, Tensor], dtype: torch.dtype, exchanged: bool
) -> None:
    sides = [
        quantised(tmp_path / "fp8", *pair),
        write(tmp_path / "plain", {WEIGHT: dequantise(*pair).to(dtype)}),
    ]
    comparison = compare(sides[exchanged], sides[not exchanged])
    assert comparison.results.keys() == {WEIGHT}
    result = comparison[WEIGHT]
    assert (result.status, result.why) == ("close", "cast")
    assert comparison.numbers(WEIGHT).differing == 0
    assert comparison.numbers(WEIGHT).numel == pair[0].numel()
    side = "B" if exchanged else "A"
    assert f"{side} is F8_E4M3 with a factor for each 128x128 block" in (result.note or "")
    assert comparison.summary.weights == "close"


def test_the_tolerance_exact_counts_it_as_a_difference(
    tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    plain = write(tmp_path / "plain", {WEIGHT: dequantise(*pair).bfloat16()})
    fp8 = quantised(tmp_path / "fp8", *pair)
    assert compare(fp8, plain, tolerance=Tolerance("exact")).statuses == {WEIGHT: "differ"}


def test_the_figures_of_a_difference_are_those_of_torch(
    tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    values = dequantise(*pair)
    other = (values * 1.01).bfloat16()
    comparison = compare(
        quantised(tmp_path / "fp8", *pair), write(tmp_path / "plain", {WEIGHT: other})
    )
    assert comparison.statuses == {WEIGHT: "differ"}
    numbers = comparison.numbers(WEIGHT)
    delta = values.double() - other.double()
    assert numbers.max_abs == pytest.approx(float(delta.abs().max()), rel=1e-6)
    assert numbers.rel_l2 == pytest.approx(float(delta.norm() / values.double().norm()), rel=1e-5)
    codes = values.bfloat16().view(torch.int16), other.view(torch.int16)
    assert numbers.differing == int((codes[0] != codes[1]).sum())


def test_one_changed_factor_is_found_in_its_block(tmp_path: Path) -> None:
    codes, factors = quantise(torch.randn(300, 400, generator=torch.Generator().manual_seed(2)))
    plain = write(tmp_path / "plain", {WEIGHT: dequantise(codes, factors).bfloat16()})
    factors[1, 2] *= 2
    comparison = compare(quantised(tmp_path / "fp8", codes, factors), plain)
    assert comparison.statuses == {WEIGHT: "differ"}
    at = comparison.numbers(WEIGHT).max_at
    assert at is not None
    assert (at[0] // 128, at[1] // 128) == (1, 2)
    assert comparison.numbers(WEIGHT).differing <= 128 * 128


def test_the_block_of_the_config_counts(tmp_path: Path) -> None:
    weight = torch.randn(100, 70, generator=torch.Generator().manual_seed(3))
    codes, factors = quantise(weight, (32, 16))
    plain = write(tmp_path / "plain", {WEIGHT: dequantise(codes, factors, (32, 16)).bfloat16()})
    fp8 = quantised(tmp_path / "fp8", codes, factors, weight_block_size=[32, 16])
    assert compare(fp8, plain).statuses == {WEIGHT: "close"}


def test_two_quantised_sides_compare_bits_of_codes_and_factors(
    tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    codes, factors = pair
    a = quantised(tmp_path / "a", codes, factors)
    comparison = compare(a, quantised(tmp_path / "b", codes, factors))
    assert comparison.statuses == {}
    assert comparison.summary.weights == "same"
    changed = codes.clone()
    changed.view(torch.uint8)[-1, -1] ^= 1
    comparison = compare(a, quantised(tmp_path / "c", changed, factors))
    assert comparison.statuses == {WEIGHT: "differ"}
    assert comparison.numbers(WEIGHT).differing == 1
    assert comparison.numbers(WEIGHT).max_at == (codes.shape[0] - 1, codes.shape[1] - 1)
    other = factors.clone()
    other.view(torch.int32)[0, 0] ^= 1
    comparison = compare(a, quantised(tmp_path / "d", codes, other))
    assert comparison.statuses == {WEIGHT: "differ"}
    assert "1 of the block factors differ" in (comparison[WEIGHT].note or "")


def test_values_that_are_equal_by_other_codes_and_factors_differ(tmp_path: Path) -> None:
    codes = torch.full((4, 4), 2.0).to(torch.float8_e4m3fn)
    a = quantised(tmp_path / "a", codes, torch.ones(1, 1))
    b = quantised(tmp_path / "b", torch.ones(4, 4).to(torch.float8_e4m3fn), torch.full((1, 1), 2.0))
    comparison = compare(a, b)
    assert comparison.statuses == {WEIGHT: "differ"}
    assert comparison.numbers(WEIGHT).max_abs == 0


def test_codes_without_factors_on_one_side_are_not_the_same(tmp_path: Path) -> None:
    codes = torch.ones(4, 4).to(torch.float8_e4m3fn)
    a = quantised(tmp_path / "a", codes, torch.ones(1, 1))
    comparison = compare(a, write(tmp_path / "b", {WEIGHT: codes}))
    assert comparison.statuses == {WEIGHT: "close"}


def test_a_nan_code_and_an_infinite_factor_are_counted(tmp_path: Path) -> None:
    codes, factors = quantise(torch.randn(4, 200, generator=torch.Generator().manual_seed(4)))
    codes.view(torch.uint8)[0, 0] = 0x7F
    factors[0, 1] = torch.inf
    values = dequantise(codes, factors)
    comparison = compare(
        quantised(tmp_path / "fp8", codes, factors),
        write(tmp_path / "plain", {WEIGHT: torch.nan_to_num(values, 0.0, 1.0, 1.0).bfloat16()}),
    )
    assert comparison.statuses == {WEIGHT: "differ"}
    numbers = comparison.numbers(WEIGHT)
    assert numbers.nan_a == int(values.isnan().sum())
    assert numbers.inf_a == int(values.isinf().sum())


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2,), ()])
def test_factors_that_do_not_fit_are_an_error_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = torch.ones(200, 300).to(torch.float8_e4m3fn)
    fp8 = quantised(tmp_path / "fp8", codes, torch.ones(shape))
    comparison = compare(fp8, write(tmp_path / "plain", {WEIGHT: torch.ones(200, 300)}))
    assert comparison.statuses == {WEIGHT: "error"}
    assert "128x128" in (comparison[WEIGHT].error or "")


@pytest.mark.parametrize("layout", [{"tp": 1}, {"tp": 2, "pp": 2}, {"tp": 4, "names": "te"}])
def test_quantised_weights_equal_the_shards_they_were_converted_to(
    tmp_path: Path,
    tiny_hf: Callable[..., Path],
    tiny_weights: Callable[..., dict[str, Tensor]],
    layout: dict[str, Any],
) -> None:
    """A shard begins in the middle of a block: factors are found by the row in the whole."""
    block = (12, 20)
    model = {"groups": 4}
    stored: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, weight in tiny_weights(**model).items():
        if "proj" in name:
            codes, factors = quantise(weight, block)
            stored |= {name: codes, f"{name}_scale_inv": factors}
            plain[name] = dequantise(codes, factors, block).bfloat16()
        else:
            stored[name] = plain[name] = weight
    config = config_of(tiny_hf(**model))
    quantisation = {"quantization_config": {**FP8, "weight_block_size": list(block)}}
    fp8 = write(tmp_path / "fp8", stored, {**config, **quantisation})
    megatron = make_megatron(tmp_path / "megatron", plain, config, divisible_by=8, **layout)
    for pair in ((fp8, megatron), (megatron, fp8)):
        comparison = compare(*pair)
        quantised_names = {name for name in plain if "proj" in name}
        assert comparison.statuses == dict.fromkeys(quantised_names, "close")
        assert {comparison[name].why for name in quantised_names} == {"cast"}
        assert not comparison.a.unmapped
        assert not comparison.b.unmapped


def test_a_look_at_one_place_shows_the_numbers_and_not_the_codes(tmp_path: Path) -> None:
    codes, factors = quantise(torch.randn(300, 400, generator=torch.Generator().manual_seed(5)))
    values = dequantise(codes, factors)
    other = values.bfloat16()
    other[200, 300] += 1
    a, b = (
        assemble(open_checkpoint(path)).tensors[WEIGHT]
        for path in (
            quantised(tmp_path / "fp8", codes, factors),
            write(tmp_path / "plain", {WEIGHT: other}),
        )
    )
    with InlineExecutor() as executor:
        near = windows(a, b, around=(200, 300), rows=4, columns=6, executor=executor).result()
        peak = find_largest(
            a, b, rows=range(128, 256), columns=range(256, 384), executor=executor
        ).result()
        whole = glance(a, executor).result().summary
    assert near.a is not None
    part = values[near.rows.start : near.rows.stop, near.columns.start : near.columns.stop]
    assert near.a.values == tuple(map(tuple, part.tolist()))
    steps = [step for row in near.ulps for step in row]
    assert sorted(map(bool, steps)) == [False] * 23 + [True]
    assert peak == (200, 300)
    assert whole.max == float(values.max())
    assert whole.rms == pytest.approx(float(values.double().pow(2).mean().sqrt()), rel=1e-6)
