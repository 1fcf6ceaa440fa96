"""nvfp4, mxfp4 and mxfp8 in matrices: columns that share a factor, in nvfp4 with a second one.

Oracles: what compressed-tensors 0.20.1 packed once and made of it again; for ModelOpt's layout our
own imitation in torch, of its documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.comparison.packed import NOT_JUDGED
from tests.assembly.test_fp8_factors import KEPT, WEIGHT, plain
from tests.assembly.test_mxfp4 import E2M1
from tests.assembly.test_packed import LAYER, NORM, lines_of, method, write
from tests.support.conversions import converted, hf_tensors
from tests.support.pairs import compare, compare_and_diagnose

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

E4M3 = torch.float8_e4m3fn
OF = {
    "nvfp4": method("compressed-tensors", format="nvfp4-pack-quantized"),
    "mxfp4": method("compressed-tensors", format="mxfp4-pack-quantized"),
    "mxfp8": method("compressed-tensors", format="mxfp8-quantized"),
}
MODELOPT = method("modelopt", quant_algo="NVFP4")


def kept(way: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return what compressed-tensors stored of a weight, and what it made of that."""
    held = load_file(KEPT / "packed-blocks.safetensors")
    parts = {LAYER + n.removeprefix(way): t for n, t in held.items() if n.startswith(f"{way}.")}
    return parts, load_file(KEPT / "plain-blocks.safetensors")[f"{way}.weight"]


def folder_of(folder: Path, parts: dict[str, Tensor], config: dict[str, Any]) -> Path:
    return write(folder, {**parts, **NORM}, config)


def assert_differ(a: Path, b: Path) -> None:
    comparison = compare(a, b)
    assert comparison.statuses == {WEIGHT: "differ"}
    assert comparison.numbers(WEIGHT).differing > 0


@pytest.mark.parametrize("way", OF)
@pytest.mark.parametrize("exchanged", [False, True])
def test_each_number_is_that_of_compressed_tensors(
    tmp_path: Path, way: str, exchanged: bool
) -> None:
    parts, right = kept(way)
    sides = folder_of(tmp_path / "q", parts, OF[way]), plain(tmp_path / "p", right)
    comparison = compare(sides[exchanged], sides[not exchanged])
    assert comparison.results.keys() == {WEIGHT, *NORM}
    assert comparison.statuses == {WEIGHT: "close"}
    assert comparison.numbers(WEIGHT).differing == 0
    assert f"{'AB'[exchanged]} is packed as {way} (" in (comparison[WEIGHT].note or "")
    converted(sides[0], tmp_path / "out", "hf")
    written = hf_tensors(tmp_path / "out")
    assert written.keys() == {WEIGHT, *NORM}
    assert torch.equal(written[WEIGHT].view(torch.int16), right.view(torch.int16))


@pytest.mark.parametrize("way", OF)
def test_exchanged_and_shifted_factors_are_told(tmp_path: Path, way: str) -> None:
    parts, right = kept(way)
    reference = plain(tmp_path / "p", right)
    scale = f"{LAYER}.weight_scale"
    for number, dim in enumerate((0, 1)):
        moved = parts[scale].view(torch.uint8).roll(1, dim).view(parts[scale].dtype)
        folder = folder_of(tmp_path / str(number), {**parts, scale: moved.contiguous()}, OF[way])
        assert_differ(folder, reference)
    half = parts[scale].view(torch.uint8)[:, :1].contiguous().view(parts[scale].dtype)
    comparison = compare(folder_of(tmp_path / "h", {**parts, scale: half}, OF[way]), reference)
    assert comparison.statuses == {WEIGHT: "error"}
    assert f"{scale} is 24x1" in (comparison[WEIGHT].error or "")


@pytest.mark.parametrize("way", ["nvfp4", "mxfp4"])
def test_halves_in_the_other_order_are_told(tmp_path: Path, way: str) -> None:
    parts, right = kept(way)
    name = f"{LAYER}.weight_packed"
    turned = {**parts, name: parts[name] << 4 | parts[name] >> 4}
    assert_differ(folder_of(tmp_path / "q", turned, OF[way]), plain(tmp_path / "p", right))


def of_modelopt(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Any]:
    """Return a weight as ModelOpt stores it, and its numbers: codes * scale * second scale."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (24, 48), generator=random, dtype=torch.uint8)
    scale = (torch.rand(24, 6, generator=random) * 400 + 1).to(E4M3)
    second = (torch.rand((), generator=random) / 3000).to(dtype)
    values = E2M1[torch.stack((codes & 15, codes >> 4), -1).flatten(-2).long()]
    factors = (scale.float() * second.float()).repeat_interleave(16, 1)
    parts = {".weight": codes, ".weight_scale": scale, ".weight_scale_2": second}
    parts[".input_scale"] = torch.ones(())
    return {LAYER + end: tensor for end, tensor in parts.items()}, values * factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modelopt_multiplies_by_its_second_factor(tmp_path: Path, dtype: torch.dtype) -> None:
    parts, right = of_modelopt(dtype=dtype)
    folder = folder_of(tmp_path / "q", parts, MODELOPT)
    for name, values in (("f", right), ("b", right.bfloat16())):
        comparison = compare(folder, plain(tmp_path / name, values))
        assert comparison[WEIGHT].status in ("same", "close")
        assert comparison.numbers(WEIGHT).differing == 0
    conversion, _ = converted(folder, tmp_path / "out", "hf", dtype="fp32")
    assert torch.equal(hf_tensors(tmp_path / "out")[WEIGHT], right)
    assert f"no use for it: {LAYER}.input_scale" in " ".join(conversion.notes)


def test_a_wrong_second_factor_is_told(tmp_path: Path) -> None:
    parts, right = of_modelopt()
    reference = plain(tmp_path / "p", right.bfloat16())
    second = f"{LAYER}.weight_scale_2"
    for number, wrong in enumerate((parts[second] * 2, 1 / parts[second], torch.tensor(1.0))):
        folder = folder_of(tmp_path / str(number), {**parts, second: wrong}, MODELOPT)
        assert_differ(folder, reference)
    assert_differ(folder_of(tmp_path / "other", of_modelopt(1)[0], MODELOPT), reference)


def test_what_is_not_one_second_factor_stays_packed(tmp_path: Path) -> None:
    parts, right = of_modelopt()
    reference = plain(tmp_path / "p", right)
    for number, more in enumerate((
        {".weight_scale_2": torch.ones(24)},
        {".weight_global_scale": torch.ones(1)},
        {".pre_quant_scale": torch.ones(96)},
    )):  # fmt: skip
        held = {**parts, **{LAYER + end: tensor for end, tensor in more.items()}}
        comparison = compare(folder_of(tmp_path / str(number), held, MODELOPT), reference)
        assert comparison.statuses == {WEIGHT: "packed"}


def test_halves_of_programs_whose_order_is_not_known_stay_packed(tmp_path: Path) -> None:
    parts, right = kept("mxfp4")
    parts[WEIGHT] = parts.pop(f"{LAYER}.weight_packed")
    folder = folder_of(tmp_path / "q", parts, method("quark"))
    assert compare(folder, plain(tmp_path / "p", right)).statuses == {WEIGHT: "packed"}


@pytest.mark.parametrize("way", OF)
def test_rounding_to_codes_is_a_difference_and_no_fault(tmp_path: Path, way: str) -> None:
    """The weight itself, of another save by its values: its codes are right, its bits are not."""
    parts, right = kept(way)
    step = 2.0**-6 if way == "mxfp8" else 2.0**-4
    noise = torch.rand(24, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    source = plain(tmp_path / "p", (right.float() * (1 + step * noise)).bfloat16())
    folder = folder_of(tmp_path / "q", parts, OF[way])
    comparison, findings = compare_and_diagnose(source, folder)
    assert comparison.statuses == {WEIGHT: "differ"}
    assert (comparison[WEIGHT].note or "").endswith(NOT_JUDGED)
    assert findings == []
    assert any(line.endswith(NOT_JUDGED) for line in lines_of(comparison))
    far = plain(tmp_path / "far", right * 2)
    comparison, _ = compare_and_diagnose(far, folder)
    assert NOT_JUDGED not in (comparison[WEIGHT].note or "")
