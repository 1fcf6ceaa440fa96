"""gpt-oss's mxfp4 against plain weights; transformers' own code is the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.packed import multiplied_out
from ckptdiff.comparison.inspect import windows
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.kernels import memory
from ckptdiff.kernels.memory import matrix
from ckptdiff.kernels.views import Scaling, View
from tests.assembly.test_packed import EXPERTS, GPT_OSS, NORM, method, write
from tests.support.conversions import converted, hf_tensors
from tests.support.pairs import compare, compare_and_diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

# The format: OCP's Microscaling, E2M1 with a factor of E8M0.
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
CONFIG = {**GPT_OSS, **method("mxfp4")}
WAY = "packed as mxfp4 (blocks of 32 with one E8M0 factor each)"
SIZES = {"gate_up_proj": (96, 3), "down_proj": (96, 2)}  # rows, blocks: hidden 96, experts of 48


def made(seed: int = 0, experts: int = 3) -> dict[str, Tensor]:
    """Return random blocks and scales; every block has a scale that its neighbours do not have."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, (rows, blocks) in SIZES.items():
        of = (experts, rows, blocks)
        found[f"{EXPERTS}.{name}_blocks"] = torch.randint(
            0, 256, (*of, 16), generator=random, dtype=torch.uint8
        )
        found[f"{EXPERTS}.{name}_scales"] = torch.randint(
            110, 130, of, generator=random, dtype=torch.uint8
        )
    return found


def unpacked(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the plain tensors, (experts, columns, rows), as bfloat16."""
    found = {}
    for name in [name for name in held if name.endswith("_blocks")]:
        codes, scales = held[name], held[name.replace("_blocks", "_scales")]
        pairs = torch.stack((codes & 15, codes >> 4), -1).flatten(-2).long()
        values = E2M1[pairs].double() * torch.exp2(scales.double() - 127)[..., None]
        found[name.removesuffix("_blocks")] = (
            values.flatten(-2).transpose(1, 2).float().bfloat16().contiguous()
        )
    return found


def by_expert(fused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return each expert's matrices: rows of gate and up alternate."""
    found = {}
    for expert, both in enumerate(fused[f"{EXPERTS}.gate_up_proj"].transpose(1, 2)):
        found[f"{EXPERTS}.{expert}.gate_proj.weight"] = both[0::2]
        found[f"{EXPERTS}.{expert}.up_proj.weight"] = both[1::2]
    for expert, down in enumerate(fused[f"{EXPERTS}.down_proj"].transpose(1, 2)):
        found[f"{EXPERTS}.{expert}.down_proj.weight"] = down
    return found


def packed(folder: Path, held: dict[str, Tensor]) -> Path:
    return write(folder, {**held, **NORM}, CONFIG)


def plain(folder: Path, held: dict[str, Tensor]) -> Path:
    return write(folder, {**held, **NORM}, GPT_OSS)


@pytest.mark.parametrize("form", [dict, by_expert], ids=["fused", "by expert"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_blocks_times_scales_are_the_plain_weights(
    tmp_path: Path, form: Callable[..., dict[str, Tensor]], exchanged: bool
) -> None:
    sides = packed(tmp_path / "q", made()), plain(tmp_path / "p", form(unpacked(made())))
    comparison = compare(sides[exchanged], sides[not exchanged])
    names = by_expert(unpacked(made())).keys()
    assert comparison.results.keys() == {*names, *NORM}
    assert comparison.statuses == dict.fromkeys(names, "close")
    assert {comparison.numbers(name).differing for name in names} == {0}
    notes = {comparison[name].note for name in names}
    assert notes == {f"{'AB'[exchanged]} is {WAY}: multiplied out in float32, then rounded"}
    assert comparison.summary.weights == "close"


@pytest.mark.oracle
def test_each_byte_and_each_scale_is_what_transformers_makes_of_it(
    tmp_path: Path, ask_oracle: Callable[..., Any]
) -> None:
    """Scales from 2**-126 to 2**125: beyond, a number of the block is no normal bfloat16."""
    held = made()
    every = torch.arange(256, dtype=torch.uint8)
    held[f"{EXPERTS}.gate_up_proj_blocks"].view(-1, 16)[:256] = every[:, None]
    held[f"{EXPERTS}.gate_up_proj_scales"].view(-1)[:252] = torch.arange(1, 253).byte()
    folder = packed(tmp_path / "q", held)
    asked = [str(folder / "model.safetensors"), str(tmp_path / "plain.safetensors")]
    assert ask_oracle("oracle_mxfp4", asked) == sorted(unpacked(held))
    right = load_file(tmp_path / "plain.safetensors")
    converted(folder, tmp_path / "out", "hf")
    written = hf_tensors(tmp_path / "out")
    assert written.keys() == {*right, *NORM}
    for name, tensor in right.items():
        assert torch.equal(written[name].view(torch.int16), tensor.view(torch.int16))
    assert compare(folder, plain(tmp_path / "p", right)).summary.weights == "close"


def faulty(kind: str) -> dict[str, Tensor]:
    held = made()
    blocks, scales = (f"{EXPERTS}.down_proj_{end}" for end in ("blocks", "scales"))
    if kind == "high half first":
        held[blocks] = held[blocks] << 4 | held[blocks] >> 4
    elif kind == "shifted by one code":
        codes = torch.stack((held[blocks] & 15, held[blocks] >> 4), -1).flatten(-2).roll(1, -1)
        held[blocks] = codes[..., 0::2] | codes[..., 1::2] << 4
    elif kind == "scales of the next expert":
        held[scales] = held[scales].roll(1, 0)
    elif kind == "scales of the next block":
        held[scales] = held[scales].roll(1, 2)
    elif kind == "one step of the exponent":
        held[scales] = held[scales] + 1
    elif kind == "another model":
        held = made(seed=1)
    return {name: tensor.contiguous() for name, tensor in held.items()}


@pytest.mark.parametrize(
    "kind",
    ["high half first", "shifted by one code", "scales of the next expert",
     "scales of the next block", "one step of the exponent", "another model"],
)  # fmt: skip
def test_what_is_packed_wrongly_differs_in_each_expert(tmp_path: Path, kind: str) -> None:
    right = by_expert(unpacked(made()))
    comparison = compare(packed(tmp_path / "q", faulty(kind)), plain(tmp_path / "p", right))
    wrong = {name for name in right if "down" in name or kind == "another model"}
    assert {name for name, status in comparison.statuses.items() if status == "differ"} == wrong
    held = by_expert(unpacked(faulty(kind)))
    for name in wrong:
        differing = int((held[name] != right[name]).sum())
        assert 0 < differing <= comparison.numbers(name).differing


@pytest.mark.parametrize("end", ["blocks", "scales"])
def test_scales_of_half_the_width_are_an_error(tmp_path: Path, end: str) -> None:
    held = made()
    name = f"{EXPERTS}.down_proj_{end}"
    held[name] = held[name][:, :, :1].contiguous()
    folder = plain(tmp_path / "p", unpacked(made()))
    comparison = compare(packed(tmp_path / "q", held), folder)
    wrong = {name for name in by_expert(unpacked(made())) if "down" in name}
    assert {name for name, status in comparison.statuses.items() if status == "error"} == wrong
    assert "blocks of 32 take 3x96x" in (comparison[min(wrong)].error or "")


def test_one_changed_code_is_found_where_it_is(tmp_path: Path) -> None:
    held = made()
    right = plain(tmp_path / "p", unpacked(held))
    name = f"{EXPERTS}.gate_up_proj_blocks"
    # Row 13 is up's row 6; the high half of byte 5 of block 2 is column 75.
    held[name][1, 13, 2, 5] ^= 0x40
    comparison = compare(packed(tmp_path / "q", held), right)
    of = f"{EXPERTS}.1.up_proj.weight"
    assert [n for n, s in comparison.statuses.items() if s == "differ"] == [of]
    assert comparison.numbers(of).differing == 1
    assert comparison.numbers(of).max_at == (6, 75)
    a, b = (side.tensors[of] for side in (comparison.a, comparison.b))
    with InlineExecutor() as executor:
        near = windows(a, b, around=(6, 75), rows=3, columns=5, executor=executor).result()
    assert near.a is not None
    assert near.a.values != (near.b and near.b.values)
    part = by_expert(unpacked(held))[of]
    rows, columns = (slice(r.start, r.stop) for r in (near.rows, near.columns))
    assert near.a.values == tuple(map(tuple, part[rows, columns].float().tolist()))


def test_a_scale_that_is_no_number_makes_none(tmp_path: Path) -> None:
    held = made()
    right = plain(tmp_path / "p", unpacked(held))
    held[f"{EXPERTS}.down_proj_scales"][0, 4, 1] = 255
    comparison = compare(packed(tmp_path / "q", held), right)
    of = f"{EXPERTS}.0.down_proj.weight"
    assert comparison[of].status == "differ"
    assert comparison.numbers(of).nan_a == 32


def test_exchanged_experts_are_found_in_plain_numbers(tmp_path: Path) -> None:
    right = unpacked(made())
    swapped = {name: tensor[[1, 0, 2]].contiguous() for name, tensor in right.items()}
    _, findings = compare_and_diagnose(
        packed(tmp_path / "q", made()), plain(tmp_path / "p", swapped)
    )
    assert [finding.kind for finding in findings] == ["EXPERT-ORDER"]


def test_a_packed_folder_is_listed_as_it_is_stored(tmp_path: Path) -> None:
    folder = packed(tmp_path / "q", made())
    side = assemble(open_checkpoint(folder))
    assert side.tensors.keys() == {*made(), *NORM}
    assert compare(folder, folder).summary.weights == "same"
    numbers = multiplied_out(side)
    assert numbers.nbytes == sum(t.nbytes for n, t in made().items() if "blocks" in n) + 128
    assert not numbers.packed


@pytest.mark.parametrize("is_mapped", [True, False])
def test_any_rectangle_of_halves_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mapped: bool
) -> None:
    content = np.random.default_rng(0).integers(0, 256, (8, 16), np.uint8)
    file = tmp_path / "f"
    file.write_bytes(b"123" + content.tobytes())
    whole = np.stack((content & 15, content >> 4), -1).reshape(8, 32)
    factors = View(str(file), 0, (8, 1), (0, 0), "U8")
    scaling = Scaling(factors, (1, 32), (0, 0), in_halves=True)
    if not is_mapped:
        monkeypatch.setattr(memory, "_pages", lambda _: None)
    memory._mapped.clear()
    for row, column, rows, columns in (
        (0, 0, 8, 32), (1, 3, 5, 7), (2, 2, 3, 1), (7, 31, 1, 1), (0, 5, 1, 2), (3, 4, 2, 0)
    ):  # fmt: skip
        view = View(str(file), 6, (8, 32), (32, 1), "U8", scaling)
        part = view.crop((row, column), (rows, columns))
        right = whole[row : row + rows, column : column + columns]
        assert (matrix(part) == right).all()
        assert matrix(part).shape == right.shape
        turned = View(str(file), 6, (32, 8), (1, 32), "U8", scaling)
        turned = turned.crop((column, row), (columns, rows))
        assert (matrix(turned) == right.T).all()
    memory._mapped.clear()
