"""A right conversion is arithmetic, and a planted fault is found at its layer and step."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptdiff.config.compare import compare_configs
from ckptdiff.logits.verdict import place
from tests.support import faults as f
from tests.support import faults_model as m
from tests.support.conversions import converted
from tests.support.corpus import FAULTS, benchmark, reference
from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.native import Native
from tests.support.pairs import open_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptdiff.results import LogitDiff

    Make = Callable[..., Path]
    Place = tuple[int | None, str]  # layer and step
    Fault = Callable[[Native, int], object]

pytestmark = pytest.mark.mostly_slow(one_in=4)
SIZES: dict[str, Any] = {
    "layers": 4,
    "hidden": 64,
    "heads": 8,
    "groups": 8,
    "head_dim": 8,
    "ffn": 96,
    "vocab": 125,
}
IDS = tokens(24, SIZES["vocab"])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute what is this small on one thread: others would only wait for each other."""
    monkeypatch.setattr("ckptdiff.logits.run.available_cpus", lambda: 1)


def told(found: LogitDiff) -> str:
    """Return a row of the table."""
    first = "-" if found.first is None else f"{place(found.first)}, {found.first.rel:.1e}"
    largest = max(tap.rel for tap in found.taps)
    return f"{found.verdict:<18} {first:<28} max {largest:.1e}, floor {found.floor:.1e}"


def above(found: LogitDiff) -> set[Place]:
    return {(t.layer, t.name) for t in found.taps if not t.judged <= found.threshold}


# ── the null ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seed", "layout"),
    [
        *enumerate({"tp": tp} for tp in (1, 2, 4, 8)),
        (4, {"tp": 2, "pp": 2}),
        (5, {"tp": 2, "pp": 2, "vpp": 2}),
        (6, {"tp": 2, "pp": 4, "names": "te"}),
        (7, {"tp": 4, "names": "legacy"}),
    ],
)
def test_a_right_conversion_is_arithmetic(
    seed: int, layout: dict[str, Any], tiny_hf: Make, tiny_megatron: Make
) -> None:
    model = {**SIZES, "seed": seed, "dtype": (torch.bfloat16, torch.float16)[seed % 2]}
    found = compare_logits(tiny_hf(**model), tiny_megatron(model, **layout), IDS)
    print(f"{layout}: {told(found)}, R {found.ratio}")  # noqa: T201
    assert found.verdict == "arithmetic"
    assert found.ratio is not None
    assert 0.5 < found.ratio < 1.5


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "mixtral"])
def test_a_right_conversion_of_another_family_is_arithmetic(
    family: str, tiny_hf: Make, tiny_megatron: Make
) -> None:
    model = {**SIZES, "groups": 4, "family": family, "head_dim": 8}
    found = compare_logits(tiny_hf(**model), tiny_megatron(model, tp=2), IDS)
    assert found.verdict == "arithmetic", told(found)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_right_conversion_to_torch_dist_is_arithmetic(
    family: str, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    model = {**SIZES, "family": family}
    hf = tiny_hf(**model)
    folder = tmp_path / "torch_dist"
    converted(tiny_megatron(model, tp=2, pp=2), folder, "torch_dist", like=hf, verify=False)
    found = compare_logits(hf, folder, IDS)
    assert found.verdict == "arithmetic", told(found)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_files_of_another_kind_give_the_same_bits(kind: str, tiny_hf: Make) -> None:
    one = tiny_hf(**SIZES, single=True)
    other = tiny_hf(**SIZES, kind=kind, shards=3)
    for dtype in ("fp32", "bf16", "fp16"):
        a, b = free_run(one, other, IDS, dtype)
        assert torch.equal(a, b)


# ── weights that were cast ───────────────────────────────────────────────────────────────────────


def cast(hf: Path, folder: Path, *, through: torch.dtype, stored: torch.dtype) -> Path:
    """Return a copy of a folder whose weights went through a dtype."""
    folder.mkdir()
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(hf.glob("*.safetensors")):
        weights |= load_file(file)
    kept = {name: w.to(through).to(stored) for name, w in weights.items()}
    save_file(kept, folder / "model.safetensors")
    (folder / "config.json").write_text((hf / "config.json").read_text())
    return folder


@pytest.mark.parametrize("stored", [torch.float32, None])
@pytest.mark.parametrize("through", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("turned", [False, True])
def test_weights_that_were_cast_are_small_and_no_fault(
    through: torch.dtype,
    stored: torch.dtype | None,
    turned: bool,
    tiny_hf: Make,
    tmp_path: Path,
) -> None:
    hf = tiny_hf(**SIZES, dtype=torch.float32)
    other = cast(hf, tmp_path / "cast", through=through, stored=stored or through)
    pair = (other, hf) if turned else (hf, other)
    found = compare_logits(*pair, IDS)
    print(f"{through} stored as {stored or through}: {told(found)}")  # noqa: T201
    assert found.verdict == "small"
    assert not above(found)
    assert "the weights were cast" in found.sentence


def test_a_cast_does_not_hide_a_fault(tiny_hf: Make, tiny_megatron: Make, tmp_path: Path) -> None:
    hf = tiny_hf(**SIZES, dtype=torch.float32)
    sound = tiny_megatron({**SIZES, "dtype": torch.float32}, tp=2)
    native = Native.read(sound, trusted=True)
    m.everything(native, lambda x: x.to(torch.bfloat16))
    small = compare_logits(hf, native.write(tmp_path / "cast"), IDS)
    assert small.verdict == "small", told(small)
    f.gate_up_swap(native, [2])
    found = compare_logits(hf, native.write(tmp_path / "faulty"), IDS)
    assert found.verdict == "weights-or-config"
    assert above(found) == {(2, "act")}


# ── planted faults ───────────────────────────────────────────────────────────────────────────────


def one_element(n: Native, layer: int) -> None:
    def change(shard: torch.Tensor) -> torch.Tensor:
        shard = shard.clone()
        shard[3, 5] += 0.5
        return shard

    n.change(change, layer, f.FC2)


def not_a_number(n: Native, layer: int) -> None:
    def change(shard: torch.Tensor) -> torch.Tensor:
        shard = shard.clone()
        shard[3, 5] = float("nan")
        return shard

    n.change(change, layer, f.FC2)


# What is planted in a layer, and the steps that must tell, in order. Steps at a layer of None are
# outside of the layers; "every" stands for each layer.
PLANTS: dict[str, tuple[Fault, dict[str | None, tuple[str, ...]]]] = {
    "gate and up": (lambda n, at: f.gate_up_swap(n, [at]), {"it": ("act",)}),
    "q, k, v not by group": (lambda n, at: f.qkv_flat(n, [at]), {"it": ("q", "k", "v")}),
    "k and v": (lambda n, at: f.kv_swap(n, [at]), {"it": ("k", "v")}),
    "rotary rows": (lambda n, at: f.rope(n, [at]), {"it": ("q", "k")}),
    "ranks of linear_proj": (
        lambda n, at: f.tp_swap_tensor(n, at, 0, 1, f.PROJ),
        {"it": ("attn_out",)},
    ),
    "ranks of linear_fc2": (
        lambda n, at: f.tp_swap_tensor(n, at, 0, 1, f.FC2),
        {"it": ("mlp_out",)},
    ),
    "norm plus one": (lambda n, at: m.gamma(n, [at], 1.0, *f.MLP_NORM), {"it": ("norm2",)}),
    "one element": (one_element, {"it": ("mlp_out",)}),
    "not a number": (not_a_number, {"it": ("mlp_out",)}),
    "final norm": (lambda n, at: m.gamma(n, [None], 1.0, f.FINAL_NORM), {None: ("final_norm",)}),
    "ranks of the head": (
        lambda n, at: n.put(None, n.whole(None, f.HEAD)[::-1], f.HEAD),
        {None: ("logits",)},
    ),
    "ranks of the embedding": (
        lambda n, at: n.put(None, n.whole(None, f.EMBEDDING)[::-1], f.EMBEDDING),
        {None: ("embed",)},
    ),
    "rotary base": (
        lambda n, at: m.set_args(n, rotary_base=20000),
        {"every": ("q_rope", "k_rope")},
    ),
    "scaling of positions": (
        lambda n, at: m.set_args(n, use_rope_scaling=True, rope_scaling_factor=8.0),
        {"every": ("q_rope", "k_rope")},
    ),
    "norm epsilon": (
        lambda n, at: m.set_args(n, norm_epsilon=1e-6),
        {"every": ("norm1", "norm2"), None: ("final_norm",)},
    ),
}


@pytest.mark.mostly_slow(one_in=3)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_where_it_is(
    name: str, tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    plant, steps = PLANTS[name]
    layer = random.Random(name).randrange(SIZES["layers"])
    native = Native.read(tiny_megatron(SIZES, tp=2), trusted=True)
    plant(native, layer)
    found = compare_logits(tiny_hf(**SIZES), native.write(tmp_path / "faulty"), IDS)
    print(f"{name} in {layer}: {told(found)}")  # noqa: T201
    wanted: set[Place] = set()
    for where, names in steps.items():
        layers: list[int | None] = [*range(SIZES["layers"])] if where == "every" else [layer]
        wanted |= {(at, x) for at in (layers if where else [None]) for x in names}
    if name == "norm epsilon":
        # Behind the first norm the values are larger, and the epsilon soon too small to tell.
        assert found.verdict == "small"
        assert above(found) <= wanted
        assert found.first is not None
        assert (found.first.layer, found.first.name) == (0, "norm1")
    else:
        assert found.verdict == "weights-or-config"
        assert above(found) == wanted


def test_layers_in_each_others_place_show_from_the_first_norm_on(
    tiny_hf: Make, tiny_megatron: Make, tmp_path: Path
) -> None:
    native = Native.read(tiny_megatron(SIZES, tp=2), trusted=True)
    m.layer_swap(native, 1, 3)
    found = compare_logits(tiny_hf(**SIZES), native.write(tmp_path / "faulty"), IDS)
    steps = ("norm1", "q", "k", "v", "attn_out", "norm2", "act", "mlp_out")
    assert above(found) == {(layer, step) for layer in (1, 3) for step in steps}


# ── the benchmark of faults ──────────────────────────────────────────────────────────────────────

_INNER = ("norm1", "q", "k", "v", "attn_out", "norm2", "act", "mlp_out")
_CUT = ("q", "k", "v", "attn_out", "act", "mlp_out")
_EXPERTS = ("experts_act", "mlp_out")
_ROPE = ("q_rope", "k_rope")
_ALL = (0, 1, 2, 3)
# Layers whose steps must tell, those steps, and the steps outside of layers.
BENCH: dict[str, tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...]]] = {
    "P01": ((1,), ("q", "k", "v"), ()),
    "P02": (_ALL, ("q", "k", "v"), ()),
    "P03": ((2,), ("k", "v"), ()),
    "P04": (_ALL, ("q", "k"), ()),
    "P05": ((0,), ("k",), ()),
    "P06": (_ALL, ("q", "k", "v"), ()),
    "P07": ((2,), ("act",), ()),
    "P08": (_ALL, ("act",), ()),
    "P09": (_ALL, _CUT, ("embed", "logits")),
    "P10": ((3,), ("attn_out",), ()),
    "P11": ((2, 3), _INNER, ()),
    "P12": ((1, 2), _INNER, ()),
    "P13": ((0, 2), _INNER, ()),
    "P14": ((), (), ("embed",)),
    "P15": ((), (), ("embed", "logits")),
    "P16": (_ALL, ("norm1", "norm2"), ()),
    "P17": ((1,), _EXPERTS, ()),
    "P18": (_ALL, _EXPERTS, ()),
    "P19": ((2, 3), (*_CUT, "norm1", "norm2"), ("final_norm", "logits")),
    "P20": (_ALL, _ROPE, ()),
    "P21": (_ALL, _CUT, ("embed", "logits")),
    "P22": ((), (), ()),
    "P23": ((), (), ()),
    "P24": ((), (), ()),
}


@pytest.mark.mostly_slow(one_in=8)
@pytest.mark.parametrize("case", benchmark())
def test_a_case_of_the_benchmark_is_found_where_it_is(case: dict[str, Any]) -> None:
    hf, faulty = reference(case), FAULTS / case["id"] / "ckpt"
    found = compare_logits(hf, faulty, tokens(64, 500))  # some to each expert
    print(f"{case['id']} {case['must_say'][:40]:<40} {told(found)}")  # noqa: T201
    layers, inner, outside = BENCH[case["id"]]
    for want in case["expect"]:
        assert set(want["layers"] or ()) <= set(layers)
    wanted: set[Place] = {(layer, name) for layer in layers for name in inner} | {
        (None, x) for x in outside
    }
    # Args of some were wrong before the fault came: there the rotation tells as well.
    lines = compare_configs(*open_pair(hf, faulty))
    if any(line.status == "conflict" and line.meaning.startswith("RoPE") for line in lines):
        depth = max(tap.layer for tap in found.taps if tap.layer is not None) + 1
        wanted |= {(layer, name) for layer in range(depth) for name in _ROPE}
    assert above(found) == wanted
    assert found.verdict == ("weights-or-config" if wanted else "arithmetic")
