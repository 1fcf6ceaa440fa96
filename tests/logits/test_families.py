"""Logits of families beyond Llama's are those of transformers' eager mode and of megatron-core.

All run on one thread, since a product may be summed up in another order on two.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.conversions import converted
from tests.support.families import DELTA, EXPERTS, LATENT, PLAIN, ROUTED, SHARED, SIZES
from tests.support.families import MODELS as FAMILIES
from tests.support.logit_runs import compare_logits, free_run, tokens
from tests.support.oracle_logits import DTYPES
from tests.support.packed_runs import run_batch, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

# Model, TP, EP.
RUNS = [
    *((model, 2, 1) for model in (
        "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "glm4_moe",
        "glm4_moe_lite", "gpt_oss", "gpt_neox", "exaone4", "gemma", "gemma2", "gemma3_text",
        "gpt2", "nemotron", "phi3", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text",
        "nemotron_h", "seed_oss", "smollm3",
    )),
    *((model, 1, 1) for model in (
        "mixtral", "olmo2", "olmo3", "olmoe", "qwen3_next", "nemotron_h",
    )),
    *((model, 1, 2) for model in ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss")),
]  # fmt: skip
IDS = tokens(40, SIZES["vocab_size"])
ROUTING = (
    *("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"),
    *("glm4_moe", "gpt_oss", "olmoe"),
)
# Complex numbers are multiplied, or the experts' outputs added up, in an order of their own.
SUMMED_OTHERWISE = ("deepseek_v2", "gpt_oss")
# A state is carried on in parts of other sizes than the programs take.
RECURRENT = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "nemotron_h")
RECURRENT_APART = 1e-5
WINDOW = 7
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
    "original_max_position_embeddings": 16,
}
DEEPSEEK: dict[str, Any] = {
    **ROUTED,
    **LATENT,
    "model_type": "deepseek_v3",
    "head_dim": LATENT["qk_rope_head_dim"],
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
}
OLMOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
GEMMA: dict[str, Any] = {"sliding_window": WINDOW, "query_pre_attn_scalar": 24}
GPT2: dict[str, Any] = {**PLAIN, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}
# What megatron-core's local parts cannot do, transformers alone computes.
MODELS: dict[str, dict[str, Any]] = {
    "seed_oss": {"model_type": "seed_oss", "attention_out_bias": True, "mlp_bias": True},
    "smollm3": {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1],
        "use_sliding_window": True,
        "sliding_window": WINDOW,
    },
    "smollm3-plain": {
        "model_type": "smollm3",
        "num_hidden_layers": 4,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": WINDOW},
    "qwen2_moe": {"model_type": "qwen2_moe", **EXPERTS, **SHARED, "norm_topk_prob": False},
    "qwen2_moe-mixed": {
        "model_type": "qwen2_moe",
        **EXPERTS,
        **SHARED,
        "norm_topk_prob": True,
        "num_hidden_layers": 4,
        "decoder_sparse_step": 2,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **EXPERTS,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
        "num_experts_per_tok": 3,
    },
    "deepseek_v3": {**DEEPSEEK, "rope_parameters": YARN},
    "deepseek_v3-plain": {
        **DEEPSEEK,
        "q_lora_rank": None,
        "rope_interleave": False,
        "norm_topk_prob": False,
        "n_group": 1,
        "topk_group": 1,
        "rms_norm_eps": 1e-3,
    },
    "deepseek_v2": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 2.0,
        "rope_parameters": YARN,
    },
    "deepseek_v2-biased": {
        **DEEPSEEK,
        "model_type": "deepseek_v2",
        "attention_bias": True,
        "mlp_bias": True,
        "q_lora_rank": None,
    },
    "glm4_moe_lite": {
        **DEEPSEEK,
        "model_type": "glm4_moe_lite",
        "mlp_layer_types": ["sparse", "dense"],
        "num_experts_per_tok": 4,
        "rms_norm_eps": 1e-6,
    },
    "glm4_moe": {
        **ROUTED,
        "model_type": "glm4_moe",
        "attention_bias": True,
        "use_qk_norm": True,
        "rope_parameters": YARN,
    },
    "glm4_moe-plain": {
        **ROUTED,
        "model_type": "glm4_moe",
        "first_k_dense_replace": 0,
        "norm_topk_prob": False,
        "routed_scaling_factor": 2.0,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "swiglu_limit": 0.2,
        "rope_parameters": {**YARN, "mscale": None, "mscale_all_dim": None, "truncate": False},
    },
    "gpt_oss-limited": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "swiglu_limit": 0.2,
        "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "olmoe": {"model_type": "olmoe", **OLMOE, "norm_topk_prob": True},
    "olmoe-clipped": {"model_type": "olmoe", **OLMOE, "attention_bias": True, "clip_qkv": 0.5},
    "gemma": {"model_type": "gemma"},
    "gemma2": {"model_type": "gemma2", **GEMMA, "attn_logit_softcapping": 2.0},
    "gemma3": {
        "model_type": "gemma3_text",
        **GEMMA,
        "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "gpt2": {"model_type": "gpt2", **GPT2, "intermediate_size": 128},
    "gpt2-unscaled": {
        "model_type": "gpt2",
        **GPT2,
        "n_inner": 40,
        "intermediate_size": 40,
        "scale_attn_weights": False,
    },
    "nemotron": {"model_type": "nemotron", "head_dim": 8},
    "olmo2": {"model_type": "olmo2", "head_dim": 8},
    "olmo3": {
        "model_type": "olmo3",
        "head_dim": 8,
        "num_hidden_layers": 5,
        "sliding_window": WINDOW,
        "rope_parameters": {
            "full_attention": {**YARN, "rope_theta": 5e5, "truncate": False},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "exaone4": {
        "model_type": "exaone4",
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    },
    "exaone4-full": {
        "model_type": "exaone4",
        "sliding_window": None,
        "layer_types": ["full_attention", "full_attention"],
    },
    "gpt_neox": {"model_type": "gpt_neox", **PLAIN},
    "gpt_neox-behind": {"model_type": "gpt_neox", **PLAIN, "use_parallel_residual": False},
    "gpt_neox-plain": {
        "model_type": "gpt_neox",
        **PLAIN,
        "attention_bias": False,
        "rope_parameters": YARN,
    },
    "phi3": {"model_type": "phi3", "head_dim": 8, "sliding_window": WINDOW},
}


# A prompt of several parts, each with the state of the one before.
LONG_IDS = tokens(150, SIZES["vocab_size"])
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        "model_type": "qwen3_next",
        **EXPERTS,
        **SHARED,
        **DELTA,
        "num_hidden_layers": 3,
        "full_attention_interval": 2,
        "mlp_only_layers": [1],
        "num_experts_per_tok": 3,
        "attention_bias": True,
        "linear_conv_kernel_dim": 3,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    },
    "qwen3_5_text": {
        "model_type": "qwen3_5_text",
        **DELTA,
        "layer_types": ["full_attention", "linear_attention"] * 2,
        "linear_num_value_heads": 2,
        "rms_norm_eps": 1e-3,
    },
    "qwen3_5_moe_text": {"model_type": "qwen3_5_moe_text", **EXPERTS, **SHARED, **DELTA},
    "nemotron_h": {**FAMILIES["nemotron_h"][1], "model_type": "nemotron_h"},
    "nemotron_h-odd": {
        **FAMILIES["nemotron_h"][1],
        "model_type": "nemotron_h",
        "layers_block_type": ["mamba", "moe", "attention", "mamba"],
        "moe_latent_size": None,
        "mlp_bias": True,
        "use_bias": True,
        "use_conv_bias": False,
        "time_step_min": 0.6,
        "layer_norm_epsilon": 1e-3,
        "mlp_hidden_act": "gelu",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.5,
        "n_group": 2,
    },
}
# Models that see pictures as well: of their text, what the model of the text alone computes.
TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "patch_size": 4}
TEXT = {name: value for name, value in SIZES.items() if name != "pad_token_id"}
PICTURES: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**TEXT, **GEMMA, "num_hidden_layers": 7},
        "vision_config": {
            **TOWER, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16
        },
        "mm_tokens_per_image": 4,
    },
    "qwen3_5": {
        "text_config": {**TEXT, **DELTA},
        "vision_config": {**TOWER, "depth": 1, "num_heads": 2, "out_hidden_size": 32},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read(file: Path, like: Tensor) -> Tensor:
    return torch.frombuffer(bytearray(file.read_bytes()), dtype=like.dtype).view(like.shape)


def apart(got: Tensor, file: Path) -> float:
    """Return |got - wanted| / |wanted|."""
    wanted = read(file, got).double()
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.sampled(one_in=2)
@pytest.mark.parametrize(("model", "tp", "ep"), RUNS)
def test_both_sides_are_what_their_programs_compute(
    model: str, tp: int, ep: int, oracle: Oracle, tmp_path: Path
) -> None:
    found = oracle.compare(
        "oracle_families",
        ranks=tp * ep,
        model=model,
        tp=tp,
        ep=ep,
        fault=False,
        folder=str(tmp_path),
        less_one=True,
    )
    hf, ids = tmp_path / "hf", found["ids"]
    # All of a tensor in one place, and what each rank had of it.
    whole, ranks = tmp_path / "megatron", tmp_path / "ranks"
    rel = {}
    for folder in (whole, ranks):
        one, other = free_run(hf, folder, ids, "fp32")
        rel["hf"] = apart(one, tmp_path / "hf.logits")
        rel[folder.name] = apart(other, tmp_path / "megatron.logits")
    print(f"{model} TP {tp} EP {ep}: {rel}")  # noqa: T201
    if model in RECURRENT:
        assert max(rel.values()) < RECURRENT_APART
    else:
        assert rel["hf"] < (1e-6 if model in SUMMED_OTHERWISE else 1e-30)
        # What experts give is added up in an order of its own.
        assert rel["ranks"] < (1e-7 if model in ROUTING else 1e-30)
        assert rel["megatron"] < 1e-6
    assert compare_logits(hf, whole, ids).verdict == "arithmetic"
    assert compare_logits(hf, ranks, ids).verdict == "arithmetic"
    if model in ROUTING:  # B's own logits are by its own router, whatever A chooses
        config = json.loads((hf / "config.json").read_text())
        (hf / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 1}))
        one, other = free_run(hf, whole, ids, "fp32")
        assert apart(one, tmp_path / "megatron.logits") > 1e-3
        assert apart(other, tmp_path / "megatron.logits") < 1e-6
        assert compare_logits(hf, whole, ids).first.name == "routing"  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def written(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which transformers left every model and its logits."""
    root = tmp_path_factory.mktemp("models")
    _write(MODELS, IDS, root, oracle)
    return root


@pytest.fixture(scope="module")
def hybrids(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which transformers left every hybrid and its logits."""
    root = tmp_path_factory.mktemp("hybrids")
    _write(HYBRIDS, LONG_IDS, root, oracle)
    return root


def _write(models: dict[str, dict[str, Any]], ids: list[int], root: Path, oracle: Oracle) -> None:
    oracle.compare(
        "oracle_logits",
        ranks=1,
        task="transformers",
        models={
            name: options if "text_config" in options else {**SIZES, **options}
            for name, options in models.items()
        },
        ids=ids,
        root=str(root),
    )


# Where Megatron cannot be told to compute the same: the first step that differs.
DIFFERING = {
    "deepseek_v3": (1, "routing"),  # groups are ranked by another number of experts
    "deepseek_v3-plain": (0, "kv_latent_norm"),  # an epsilon that its class has of its own
    "glm4_moe": (0, "q_rope"),  # YaRN of half a head
    "glm4_moe-plain": (0, "routing"),  # weights that do not sum to one
    "olmoe-clipped": (0, "v"),
    "gpt2-unscaled": (0, "ctx"),
    "gpt_neox": (0, "norm2"),  # beside attention, not behind it
}
# What Megatron has no word for: biases of latent attention or of the MLP alone, say.
NOT_CONVERTED = ("deepseek_v2-biased", "gpt_oss-limited", "gpt_neox-plain")
CUTS: tuple[dict[str, Any], ...] = ({"tp": 2}, {"pp": 2, "names": "te"})
UNCUT = {"tp": 2, "ep": 2, "etp": 1}  # experts with biases are not cut
# What the args cannot tell, so that it is taken from config.json, or neither side can.
NOTES = (
    *("gemma", "gemma2", "gemma3", "olmo2", "olmo3", "olmoe", "olmoe-clipped"),
    *("exaone4", "exaone4-full"),
    *("deepseek_v3", "deepseek_v3-plain", "glm4_moe"),
)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        pytest.param(name, cut, marks=[pytest.mark.slow] if number and "-" in name else [])
        for name in MODELS
        if name not in NOT_CONVERTED
        for number, cut in enumerate(CUTS)
    ],
)
def test_a_conversion_is_only_arithmetic_but_where_the_programs_differ(
    name: str, cut: dict[str, Any], written: Path, tmp_path: Path
) -> None:
    if name == "gpt_oss":
        cut = {**cut, **UNCUT}
    converted(written / name, tmp_path / "megatron", "megatron", **cut)
    found = compare_logits(written / name, tmp_path / "megatron", IDS)
    print(f"{name}: {found.sentence} {found.notes}")  # noqa: T201
    assert len(found.notes) == (name in NOTES)
    if name not in DIFFERING:
        assert found.verdict == "arithmetic"
        # What the args cannot say is the condition of the verdict, in its first line.
        assert bool(found.conditions) == (", if B is run with the same " in found.sentence)
        is_taken = any("taken from the other side" in note for note in found.notes)
        assert bool(found.conditions) == is_taken
        return
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert (found.first.layer, found.first.name) == DIFFERING[name]
    assert "mistake in ckptdiff's own mapping" not in found.sentence


# A norm, a rotation, a router, its weights, sums over experts' slices or an activation is rounded
# elsewhere by the other program.
ROUNDED_OTHERWISE = (
    *("mixtral", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "nemotron_h", "gpt_oss"),
    *("olmo2", "gpt2"),
)


@pytest.mark.mostly_slow(one_in=4)
@pytest.mark.parametrize("name", ROUNDED_OTHERWISE)
def test_in_bf16_weights_in_the_arithmetic_of_the_other_side_give_what_that_gives(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    hf = request.getfixturevalue("hybrids" if name in HYBRIDS else "written") / name
    cut: dict[str, Any] = UNCUT if name == "gpt_oss" else {"tp": 2}
    megatron = tmp_path / "megatron"
    converted(hf, megatron, "megatron", verify=False, **cut)
    expected = [DIFFERING[name]] if name in DIFFERING else []
    for a, b in ((hf, megatron), (megatron, hf)):
        ran = run_batch(a, b, [whole(IDS)], "bf16")
        assert [(step.layer, step.name) for step in ran.apart] == expected
        assert (ran.answers[0][0].weights_apart == 0) == (not expected)
        taps = compare_logits(a, b, IDS, dtype="bf16").taps
        assert [(tap.layer, tap.name) for tap in taps if tap.rel != tap.floor] == expected


@pytest.mark.parametrize("name", MODELS)
def test_hugging_face_is_what_transformers_computes(name: str, written: Path) -> None:
    hf = written / name
    rel = {}
    for dtype in DTYPES:
        got, _ = free_run(hf, hf, IDS, dtype)
        rel[dtype] = apart(got, hf / f"logits.{dtype}")
    print(f"{name}: {rel}")  # noqa: T201
    # The order in which DeepSeek-V3 adds up the weights of three experts is not defined, nor is
    # how V2 multiplies complex numbers.
    is_exact = not name.startswith(("deepseek_v", "glm4_moe_lite"))
    assert rel["fp32"] < (1e-30 if is_exact else 1e-6)
    assert rel["bf16"] == rel["fp16"] == 0


@pytest.mark.parametrize("name", PICTURES)
def test_the_text_of_a_model_that_sees_pictures_is_what_transformers_computes(
    name: str, oracle: Oracle, tmp_path: Path
) -> None:
    _write({name: {**PICTURES[name], "model_type": name}}, LONG_IDS, tmp_path, oracle)
    got, _ = free_run(tmp_path / name, tmp_path / name, LONG_IDS, "fp32")
    assert apart(got, tmp_path / name / "logits.fp32") < RECURRENT_APART


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_what_transformers_computes(name: str, hybrids: Path) -> None:
    hf = hybrids / name
    rel = {}
    for dtype in DTYPES:
        got, _ = free_run(hf, hf, LONG_IDS, dtype)
        rel[dtype] = apart(got, hf / f"logits.{dtype}")
    print(f"{name}: {rel}")  # noqa: T201
    assert rel["fp32"] < RECURRENT_APART
    # Nearly all of it is rounded away.
    assert rel["bf16"] < 5e-3
    assert rel["fp16"] < 1e-3


@pytest.mark.parametrize("cut", [{"tp": 2}, {"pp": 2, "names": "te"}])
def test_a_converted_hybrid_is_only_arithmetic(
    cut: dict[str, Any], hybrids: Path, tmp_path: Path
) -> None:
    hf = hybrids / "nemotron_h"
    converted(hf, tmp_path / "megatron", "megatron", **cut)
    found = compare_logits(hf, tmp_path / "megatron", LONG_IDS)
    print(f"{cut}: {found.sentence} {found.notes}")  # noqa: T201
    assert found.verdict == "arithmetic"


# A tensor of the hybrid's first layer, and the first step that a fault in it shows in.
FAULTS = [
    ("qwen3_next", "linear_attn.conv1d.weight", "q_conv"),
    ("qwen3_next", "linear_attn.A_log", "decay"),
    ("qwen3_next", "linear_attn.norm.weight", "ctx_norm"),
    ("nemotron_h", "mixer.conv1d.bias", "X_conv"),
    ("nemotron_h", "mixer.dt_bias", "dt_size"),
    ("nemotron_h", "mixer.D", "ctx"),
]


@pytest.mark.parametrize(("model", "tensor", "step"), FAULTS)
def test_a_fault_in_a_hybrid_shows_in_its_step(
    model: str, tensor: str, step: str, hybrids: Path, tmp_path: Path
) -> None:
    shutil.copytree(hybrids / model, tmp_path / "b")
    (file,) = (tmp_path / "b").glob("*.safetensors")
    tensors = load_file(file)
    (name,) = (name for name in tensors if name.endswith(f".layers.0.{tensor}"))
    tensors[name] = tensors[name].flip(0)
    save_file(tensors, file, {"format": "pt"})
    found = compare_logits(hybrids / model, tmp_path / "b", IDS)
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert (found.first.layer, found.first.name) == (0, step)
    assert f".layers.0.{tensor} differs" in found.sentence
