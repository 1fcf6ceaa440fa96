"""Packed weights are named where they stand: their parts, their shapes, what does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ckptdiff.assembly.assemble import assemble
from ckptdiff.conversion.plan import Target, plan_conversion
from ckptdiff.diagnosis.run import diagnose
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.sides import forward_side
from ckptdiff.report.diff import diff_document, diff_lines
from ckptdiff.report.ls import listing_document, listing_lines
from tests.support.pairs import Comparison, compare, config_of, write_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

LAYER = "model.layers.0.mlp.up_proj"
NORM = {"model.norm.weight": torch.ones(32)}
E4M3 = torch.float8_e4m3fn


def full(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.ones(shape).to(dtype)


def codes(*shape: int) -> Tensor:
    return full(*shape, dtype=torch.uint8)


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    write_plain(folder, {name: tensor.contiguous() for name, tensor in tensors.items()})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def method(name: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": name, **more}}


def lines_of(comparison: Comparison) -> list[str]:
    results = list(comparison.results.values())
    return list(diff_lines(comparison.a, comparison.b, results, comparison.summary))


GROUPS = {"config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 16}}}}
QUANT = {"quantization": {"group_size": 16, "bits": 4, "mode": "affine"}}
NVFP4 = "nvfp4 (blocks of 16 with one E4M3 factor each, and one F32 factor for the tensor)"

# Of each scheme: the config, the tensors of one (8, 32) weight, and what is said of it.
SCHEMES: dict[str, tuple[dict[str, Any], dict[str, Tensor], str]] = {
    "gptq": (
        method("gptq"),
        {".qweight": full(4, 8), ".qzeros": full(1, 1),
         ".scales": full(1, 8, dtype=torch.float16), ".g_idx": full(32)},
        "GPTQ (4-bit, groups of 32 with a factor and a zero point each)",
    ),
    "awq": (
        method("awq"),
        {".qweight": full(32, 1), ".qzeros": full(2, 1), ".scales": torch.ones(2, 8)},
        "AWQ (4-bit, groups of 16 with a factor and a zero point each)",
    ),
    "bitsandbytes-4": (
        method("bitsandbytes"),
        {".weight": codes(128, 1), ".weight.absmax": codes(4), ".weight.quant_map": torch.ones(16),
         ".weight.nested_absmax": torch.ones(1),
         ".weight.quant_state.bitsandbytes__nf4": codes(9)},
        "nf4 of bitsandbytes (blocks of 64 with one factor each)",
    ),
    "bitsandbytes-8": (
        method("bitsandbytes"),
        {".weight": full(8, 32, dtype=torch.int8), ".SCB": torch.ones(8)},
        "int8 of bitsandbytes (a factor for each row)",
    ),
    "pack-quantized": (
        method("compressed-tensors", format="pack-quantized", **GROUPS),
        {".weight_packed": full(8, 4), ".weight_scale": torch.ones(8, 2),
         ".weight_shape": full(2, dtype=torch.int64)},
        "int4 (groups of 16 with one factor each)",
    ),
    "pack-quantized-unsaid": (
        method("compressed-tensors"),
        {".weight_packed": full(8, 4), ".weight_scale": torch.ones(8, 1)},
        "packed integers (with factors)",
    ),
    "nvfp4-of-modelopt": (
        method("modelopt", quant_algo="NVFP4"),
        {".weight": codes(8, 16), ".weight_scale": full(8, 2, dtype=E4M3),
         ".weight_scale_2": torch.tensor(1.0), ".input_scale": torch.tensor(1.0)},
        NVFP4,
    ),
    "nvfp4-of-compressed-tensors": (
        method("compressed-tensors", format="nvfp4-pack-quantized"),
        {".weight_packed": codes(8, 16), ".weight_scale": full(8, 2, dtype=E4M3),
         ".weight_global_scale": torch.ones(1), ".input_global_scale": torch.ones(1)},
        NVFP4,
    ),
    "mxfp4-of-quark": (
        method("quark"),
        {".weight": codes(8, 16), ".weight_scale": codes(8, 1)},
        "mxfp4 (blocks of 32 with one E8M0 factor each)",
    ),
    "mxfp8": (
        method("modelopt"),
        {".weight": full(8, 32, dtype=E4M3), ".weight_scale": codes(8, 1)},
        "mxfp8 (blocks of 32 with one E8M0 factor each)",
    ),
    "fp8-per-tensor": (
        method("modelopt", quant_algo="FP8"),
        {".weight": full(8, 32, dtype=E4M3), ".weight_scale": torch.ones(1),
         ".input_scale": torch.ones(1), ".k_scale": torch.ones(1)},
        "fp8 (one factor for the tensor)",
    ),
    "fp8-per-row": (
        method("compressed-tensors", format="float-quantized"),
        {".weight": full(8, 32, dtype=E4M3), ".weight_scale": torch.ones(8, 1)},
        "fp8 (a factor for each row)",
    ),
    "int8-per-row": (
        method("compressed-tensors", format="int-quantized"),
        {".weight": full(8, 32, dtype=torch.int8), ".weight_scale": torch.ones(8, 1)},
        "int8 (a factor for each row)",
    ),
    "mlx": (
        QUANT,
        {".weight": full(8, 4, dtype=torch.uint32), ".scales": torch.ones(8, 2),
         ".biases": torch.ones(8, 2)},
        "MLX (4-bit, groups of 16 with a factor and a bias each)",
    ),
    "hqq": (
        method("hqq"),
        {".W_q": codes(4, 32), ".scale": torch.ones(1, 32), ".zero": torch.ones(1, 32),
         ".shape": full(2), ".nbits": full(1), ".group_size": full(1)},
        "HQQ (groups with a factor and a zero point)",
    ),
    "quanto": (
        method("quanto"),
        {".weight._data": full(8, 32, dtype=torch.int8), ".weight._scale": torch.ones(8, 1),
         ".input_scale": torch.ones(1), ".output_scale": torch.ones(1)},
        "quanto (codes with factors)",
    ),
    "torchao": (
        method("torchao"),
        {"._weight_qdata": full(8, 32, dtype=torch.int8), "._weight_scale": torch.ones(8, 1)},
        "torchao (codes with factors)",
    ),
    "aqlm": (
        method("aqlm"),
        {".codes": full(8, 4, 1), ".codebooks": torch.ones(1, 256, 1, 8), ".scales": torch.ones(8)},
        "AQLM (codes of learned codebooks, with factors)",
    ),
}  # fmt: skip


# These are multiplied out where the other side is plain: test_multiplied_out.py.
NUMBERS = (
    "fp8-per-tensor", "fp8-per-row", "nvfp4-of-modelopt", "nvfp4-of-compressed-tensors", "mxfp8",
)  # fmt: skip
NAMED = [scheme for scheme in SCHEMES if scheme not in NUMBERS]


def packed_as(folder: Path, scheme: str) -> Path:
    config, parts, _ = SCHEMES[scheme]
    return write(folder, {**{LAYER + end: tensor for end, tensor in parts.items()}, **NORM}, config)


def plain(folder: Path) -> Path:
    return write(folder, {f"{LAYER}.weight": full(8, 32, dtype=torch.bfloat16), **NORM}, {})


@pytest.mark.parametrize("scheme", NAMED)
@pytest.mark.parametrize("exchanged", [False, True])
def test_a_packed_weight_beside_a_plain_one_is_packed_and_its_parts_are_no_tensors(
    tmp_path: Path, scheme: str, exchanged: bool
) -> None:
    sides = packed_as(tmp_path / "q", scheme), plain(tmp_path / "plain")
    comparison = compare(sides[exchanged], sides[not exchanged])
    assert comparison.results.keys() == {f"{LAYER}.weight", "model.norm.weight"}
    assert comparison.statuses == {f"{LAYER}.weight": "packed"}
    assert (comparison.summary.weights, comparison.summary.has_errors) == ("packed", False)
    side, other = "BA" if exchanged else "AB"
    words = SCHEMES[scheme][2]
    assert comparison[f"{LAYER}.weight"].note == (
        f"{side} is packed as {words}, and was not multiplied out"
    )
    assert (
        f"%  1 tensor of {side} is packed as {words}: it was not multiplied out, so it was not "
        f"compared with {other}'s BF16. To compare it, dequantise {side} first"
    ) in lines_of(comparison)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_alone_it_is_what_its_files_hold_and_equals_itself(
    tmp_path: Path, scheme: str
) -> None:
    folder = packed_as(tmp_path / "q", scheme)
    side = assemble(open_checkpoint(folder))
    assert side.tensors.keys() == {*(LAYER + end for end in SCHEMES[scheme][1]), *NORM}
    assert side.notes == ()
    count = len(SCHEMES[scheme][1])
    assert list(listing_lines(side, bool))[-1] == (
        f"1 weight is packed as {SCHEMES[scheme][2]}, in {count} of these tensors"
    )
    assert [w["name"] for w in listing_document(side, bool)["packed"]] == [f"{LAYER}.weight"]
    assert compare(folder, folder).summary.weights == "same"


@pytest.mark.parametrize("scheme", NAMED)
def test_no_conversion_takes_codes_for_numbers(tmp_path: Path, scheme: str) -> None:
    side = assemble(open_checkpoint(packed_as(tmp_path / "q", scheme)))
    with pytest.raises(UnsupportedLayout) as refused:
        plan_conversion(side, tmp_path / "out", Target("hf"))
    assert f"1 weight, packed as {SCHEMES[scheme][2]}," in str(refused.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_logits_take_codes_for_numbers(tmp_path: Path, scheme: str) -> None:
    side = assemble(open_checkpoint(packed_as(tmp_path / "q", scheme)))
    with pytest.raises(UnsupportedLayout, match="Logits are computed of plain numbers"):
        forward_side(side, side, "hf")


@pytest.mark.parametrize(
    "scheme",
    ["gptq", "awq", "pack-quantized", "nvfp4-of-modelopt", "mxfp8", "mlx", "fp8-per-row", "torchao",
     "bitsandbytes-8", "quanto"],
)  # fmt: skip
def test_the_shape_that_headers_state_is_compared(tmp_path: Path, scheme: str) -> None:
    other = write(tmp_path / "o", {f"{LAYER}.weight": torch.ones(8, 64), **NORM}, {})
    comparison = compare(packed_as(tmp_path / "q", scheme), other)
    assert comparison.statuses == {f"{LAYER}.weight": "shape"}
    found = comparison[f"{LAYER}.weight"]
    assert (found.shape_a, found.shape_b) == ((8, 32), (8, 64))


def test_weights_packed_in_two_ways_are_packed(tmp_path: Path) -> None:
    comparison = compare(packed_as(tmp_path / "a", "gptq"), packed_as(tmp_path / "b", "awq"))
    assert comparison.statuses == {f"{LAYER}.weight": "packed"}
    (line,) = [line for line in lines_of(comparison) if line.startswith("%")]
    assert "is packed as GPTQ (4-bit, groups of 32" in line
    assert "in A and as AWQ (4-bit, groups of 16" in line


def test_groups_of_another_size_are_another_way_of_packing(tmp_path: Path) -> None:
    config, parts, _ = SCHEMES["pack-quantized"]
    other = json.loads(json.dumps(config).replace('"group_size": 16', '"group_size": 32'))
    wider = {**parts, ".weight_scale": torch.ones(8, 1)}
    folder = write(tmp_path / "b", {**{LAYER + e: t for e, t in wider.items()}, **NORM}, other)
    comparison = compare(packed_as(tmp_path / "a", "pack-quantized"), folder)
    assert comparison.statuses == {f"{LAYER}.weight": "packed"}


def test_equally_packed_weights_are_compared_bit_by_bit(tmp_path: Path) -> None:
    a = packed_as(tmp_path / "a", "nvfp4-of-modelopt")
    tensors = load_file(a / "model.safetensors")
    tensors[f"{LAYER}.weight"][3, 5] ^= 16
    b = write(tmp_path / "b", tensors, SCHEMES["nvfp4-of-modelopt"][0])
    comparison = compare(a, b)
    assert comparison.statuses == {f"{LAYER}.weight": "differ"}
    assert comparison.numbers(f"{LAYER}.weight").differing == 1
    assert comparison[f"{LAYER}.weight"].note == "its figures are of packed codes, not of weights"


def test_the_rest_of_a_packed_model_is_diagnosed_and_no_command_converts_it(
    tmp_path: Path, tiny_hf: Callable[..., Path], tiny_weights: Callable[..., dict[str, Tensor]]
) -> None:
    weights = tiny_weights()
    stored = {name: tensor for name, tensor in weights.items() if "_proj" not in name}
    for name in weights.keys() - stored.keys():
        rows, columns = weights[name].shape
        stored |= {name: full(rows, columns, dtype=E4M3), f"{name}_scale": torch.ones(1)}
    embedding = stored["model.embed_tokens.weight"]
    shifted = {**stored, "model.embed_tokens.weight": embedding.roll(1, 0)}
    down = "model.layers.0.mlp.down_proj.weight"
    shifted[down] = 2 * shifted[down].float()
    shifted[down] = shifted[down].to(E4M3)
    config = {**config_of(tiny_hf()), **method("modelopt", quant_algo="FP8")}
    a, b = write(tmp_path / "a", stored, config), write(tmp_path / "b", shifted, config)
    comparison = compare(a, b)
    assert comparison.statuses == {"model.embed_tokens.weight": "differ", down: "differ"}
    results = list(comparison.results.values())
    with InlineExecutor() as executor:
        findings = list(diagnose(comparison.a, comparison.b, results, (), executor))
    assert [finding.kind for finding in findings] == ["VOCAB-SHIFT"]
    assert (findings[0].undo is None, findings[0].fix) == (False, None)


# gpt-oss packs all experts of a layer into one tensor; a rule cuts its plain form into experts.

EXPERTS = "model.layers.0.mlp.experts"
GPT_OSS = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
MXFP4 = {
    f"{EXPERTS}.gate_up_proj_blocks": codes(2, 64, 3, 16),  # 2 experts, 64 rows, 3 x 32 columns
    f"{EXPERTS}.gate_up_proj_scales": codes(2, 64, 3),
    f"{EXPERTS}.down_proj_blocks": codes(2, 96, 1, 16),
    f"{EXPERTS}.down_proj_scales": codes(2, 96, 1),
}
FUSED = {
    f"{EXPERTS}.gate_up_proj": full(2, 96, 64, dtype=torch.bfloat16),
    f"{EXPERTS}.down_proj": full(2, 32, 96, dtype=torch.bfloat16),
}
SPLIT = {
    f"{EXPERTS}.{expert}.{part}.weight": full(*shape, dtype=torch.bfloat16)
    for expert in range(2)
    for part, shape in (("gate_proj", (32, 96)), ("up_proj", (32, 96)), ("down_proj", (96, 32)))
}


@pytest.mark.parametrize("other", [FUSED, SPLIT], ids=["fused", "by expert"])
def test_experts_packed_together_stand_for_each_expert_of_the_rules(
    tmp_path: Path, other: dict[str, Tensor]
) -> None:
    """Their numbers are in test_multiplied_out.py. Blocks of 8 bytes are not gpt-oss's."""
    of_other_size = {name: t[..., :8] if t.ndim == 4 else t for name, t in MXFP4.items()}
    packed = write(tmp_path / "q", {**of_other_size, **NORM}, {**GPT_OSS, **method("mxfp4")})
    halved = {name: t[:, : t.shape[1] // 2].contiguous() for name, t in other.items()}
    comparison = compare(write(tmp_path / "plain", {**halved, **NORM}, GPT_OSS), packed)
    assert comparison.statuses == dict.fromkeys(SPLIT, "packed")
    assert [line for line in lines_of(comparison) if line.startswith("%")] == [
        "%  6 tensors of B are packed as mxfp4 (blocks of 32 with one E8M0 factor each): they were "
        "not multiplied out, so they were not compared with A's BF16. To compare them, dequantise "
        "B first"
    ]
    assert lines_of(comparison)[-1].startswith("verdict: packed; ")
    assert lines_of(comparison)[-1].endswith("; not compared: 6 packed tensors")
    results = list(comparison.results.values())
    document = diff_document(comparison.a, comparison.b, results, comparison.summary)
    assert document["not_compared"] == ["6 packed tensors"]
    assert document["packed"] == {
        "a": {}, "b": {"mxfp4 (blocks of 32 with one E8M0 factor each)": 6}
    }  # fmt: skip


def test_a_tensor_that_only_the_packed_side_has_is_listed_as_it_is_stored(tmp_path: Path) -> None:
    packed = write(tmp_path / "q", {**MXFP4, **NORM}, {**GPT_OSS, **method("mxfp4")})
    comparison = compare(packed, write(tmp_path / "plain", NORM, GPT_OSS))
    assert comparison.statuses == dict.fromkeys(MXFP4, "only_a")


def test_scales_that_do_not_fit_the_blocks_are_named(tmp_path: Path) -> None:
    wrong = {**MXFP4, f"{EXPERTS}.down_proj_scales": codes(2, 96, 2)}
    folder = write(tmp_path / "q", {**wrong, **NORM}, {**GPT_OSS, **method("mxfp4")})
    (note,) = assemble(open_checkpoint(folder)).notes
    assert f"{EXPERTS}.down_proj_scales is 2x96x2; blocks of 32 take 2x96x1" in note


def test_a_folder_to_be_like_gives_the_names_that_its_plain_weights_would_have(
    tmp_path: Path,
) -> None:
    config = {**GPT_OSS, **method("mxfp4")}
    packed = write(tmp_path / "q", {**MXFP4, **NORM}, config)
    source = write(tmp_path / "plain", {**SPLIT, **NORM}, GPT_OSS)
    conversion = plan_conversion(
        assemble(open_checkpoint(source)), tmp_path / "out", Target("hf"),
        assemble(open_checkpoint(packed)),
    )  # fmt: skip
    (_, header), *_ = conversion.files[0].layout.fixed
    assert json.loads(header[8:]).keys() - {"__metadata__"} == {*FUSED, *NORM}
    (text,) = [text for name, text in conversion.texts if name == "config.json"]
    assert "quantization_config" not in json.loads(text)


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_a_prefix_of_a_larger_model_is_taken_off_the_parts_too(tmp_path: Path, key: str) -> None:
    """As in Kimi K2.5: the language model lies under `language_model.`, and the config inside."""
    family = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    stated = {key: SCHEMES["pack-quantized"][0]["quantization_config"]}
    outer = {"model_type": "kimi", "text_config": {**family, **stated}}
    parts = {LAYER + end: tensor for end, tensor in SCHEMES["pack-quantized"][1].items()}
    inside = {f"language_model.{name}": tensor for name, tensor in {**parts, **NORM}.items()}
    a = write(tmp_path / "a", inside, outer)
    other = write(tmp_path / "plain", {f"{LAYER}.weight": torch.ones(8, 32), **NORM}, family)
    assert compare(a, other).statuses == {f"{LAYER}.weight": "packed"}
    b = write(tmp_path / "b", {**parts, **NORM}, {**family, **stated})
    assert compare(a, b).summary.weights == "same"


def test_fp8_experts_in_one_tensor_are_packed_with_their_block_factors(tmp_path: Path) -> None:
    family = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    down = f"{EXPERTS}.down_proj"
    fp8 = {down: full(2, 96, 32, dtype=E4M3), f"{down}_scale_inv": torch.ones(2, 1, 1)}
    packed = write(tmp_path / "q", {**fp8, **NORM}, {**family, **method("fp8")})
    plain = {f"{EXPERTS}.{n}.down_proj.weight": torch.ones(96, 32) for n in range(2)}
    comparison = compare(packed, write(tmp_path / "plain", {**plain, **NORM}, family))
    assert comparison.statuses == dict.fromkeys(plain, "packed")
    assert "fp8 (a factor for each expert)" in (comparison[next(iter(plain))].note or "")


# What is wrong in one folder, without another to compare it with.


def half_scale(folder: Path) -> Path:
    config, parts, _ = SCHEMES["nvfp4-of-modelopt"]
    parts = {**parts, ".weight_scale": full(8, 1, dtype=E4M3)}
    left = {f"{LAYER}.weight_quantizer._scale": torch.ones(1)}
    return write(folder, {**{LAYER + e: t for e, t in parts.items()}, **left, **NORM}, config)


def test_a_scale_of_the_wrong_width_is_named_without_a_reference(tmp_path: Path) -> None:
    side = assemble(open_checkpoint(half_scale(tmp_path / "q")))
    wrong, left = side.notes
    assert f"{LAYER}.weight_scale is 8x1; 8x32 values in nvfp4's blocks of 16 take 8x2" in wrong
    assert left.startswith(f"{LAYER}.weight_quantizer._scale was left by a quantiser")


def test_a_weight_that_no_loader_can_read_is_an_error_beside_a_plain_one(tmp_path: Path) -> None:
    comparison = compare(half_scale(tmp_path / "q"), plain(tmp_path / "plain"))
    assert comparison.statuses == {
        f"{LAYER}.weight": "error", f"{LAYER}.weight_quantizer._scale": "only_a"
    }  # fmt: skip
    assert "take 8x2" in (comparison[f"{LAYER}.weight"].error or "")
    assert comparison.summary.has_errors


def test_the_wrong_scale_alone_differs_between_two_packed_sides(tmp_path: Path) -> None:
    right = packed_as(tmp_path / "a", "nvfp4-of-modelopt")
    comparison = compare(right, half_scale(tmp_path / "b"))
    assert comparison.statuses == {
        f"{LAYER}.weight_scale": "shape", f"{LAYER}.weight_quantizer._scale": "only_b"
    }  # fmt: skip


LABELS = (
    (method("modelopt", quant_algo="NVFP4"), "config.json says NVFP4, but 1 weight is fp8"),
    (method("awq"), "config.json says awq, but 1 weight is fp8"),
    (
        {"model_type": "any"},
        "config.json does not say that weights are packed, but 1 weight is fp8",
    ),
    (method("modelopt", quant_algo="FP8"), None),
    (method("a program that is not known"), None),
)  # fmt: skip


@pytest.mark.parametrize(("config", "note"), LABELS)
def test_the_label_of_a_config_is_held_against_what_is_stored(
    tmp_path: Path, config: dict[str, Any], note: str | None
) -> None:
    parts = {LAYER + end: tensor for end, tensor in SCHEMES["fp8-per-tensor"][1].items()}
    side = assemble(open_checkpoint(write(tmp_path / "q", parts, config)))
    assert side.notes == (() if note is None else (note,))


def test_a_label_beside_plain_weights_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "q", NORM, method("gptq"))
    assert assemble(open_checkpoint(folder)).notes == (
        "config.json says gptq, but no weight is packed",
    )


def test_two_labels_for_the_same_codes_are_a_conflict(tmp_path: Path) -> None:
    parts = {LAYER + end: tensor for end, tensor in SCHEMES["fp8-per-tensor"][1].items()}
    a, b = (
        write(tmp_path / algo, parts, method("modelopt", quant_algo=algo))
        for algo in ("FP8", "NVFP4")
    )
    comparison = compare(a, b)
    assert (comparison.summary.weights, comparison.summary.verdict) == ("same", "differ")
    (line,) = comparison.summary.conflicts
    assert (line.meaning, line.a, line.b) == ("quantisation", "FP8", "NVFP4")


def test_plain_numbers_beside_a_scale_are_plain(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.weight": torch.ones(8, 32), f"{LAYER}.weight_scale": torch.ones(1)}
    folder = write(tmp_path / "q", tensors, {})
    side = assemble(open_checkpoint(folder))
    assert (side.tensors.keys(), dict(side.packed)) == (tensors.keys(), {})
