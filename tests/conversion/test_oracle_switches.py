"""Every switch of transformers' classes: nothing is lost, and what Megatron cannot do is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckptdiff.config.compare import compare_configs
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.forward import hf_config
from tests.support.conversions import converted, different, hf_tensors
from tests.support.families import MODELS
from tests.support.logit_runs import free_run
from tests.support.oracle_switches import IDS
from tests.support.pairs import compare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oracle_client import Oracle

pytestmark = pytest.mark.oracle

SAME = ""  # as without the switch; else what Megatron has not: a setting, or a part without a name
PARALLEL, CONVOLVED = "Parallel residual", "Mamba convolution bias"
CLIPPED = "Clipped queries, keys and values"
ENTRIES = {PARALLEL: "use_parallel_residual", CONVOLVED: "use_conv_bias", CLIPPED: "clip_qkv"}
OUTPUT, LINEAR = "Attention output bias", "Linear biases"
LATENT, SHARED = "latent attention has no bias", "shared experts have no biases"
ATTENTION: dict[str, bool] = {"attention_bias": True}
MLP: dict[str, bool] = {"mlp_bias": True}
Cases = list[tuple[dict[str, Any], str]]
WHOLE: Cases = [({}, SAME), (ATTENTION, OUTPUT)]
PARTS: Cases = [*WHOLE, (MLP, LINEAR), ({**ATTENTION, **MLP}, SAME)]
UNREAD: Cases = [({}, SAME), (ATTENTION, SAME)]
HALF = {"partial_rotary_factor": 0.5}
TURNS = ["sliding_attention", "full_attention"]
CASES: dict[str, Cases] = {
    "llama": [
        *(({"attention_bias": False, "mlp_bias": False, **one}, said) for one, said in PARTS),
        ({**ATTENTION, **MLP, **HALF}, SAME),
        ({**ATTENTION, **MLP, "sliding_window": 4, "layer_types": TURNS}, SAME),
    ],
    "mistral": [*UNREAD, (HALF, SAME), ({"sliding_window": 4}, SAME)],
    "qwen2": [
        *UNREAD,
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, SAME),
    ],
    "qwen3": [*WHOLE, (MLP, SAME), (HALF, SAME)],
    "mixtral": UNREAD,
    "qwen2_moe": [({}, SAME), ({"qkv_bias": False}, SAME), (ATTENTION, SAME)],
    "qwen3_moe": [*WHOLE, ({"mlp_only_layers": [0], "norm_topk_prob": True}, SAME)],
    "deepseek_v2": [({}, SAME), (ATTENTION, LATENT), (MLP, SHARED)],
    "deepseek_v3": [
        ({}, SAME),
        (ATTENTION, LATENT),
        (MLP, SAME),
        ({"q_lora_rank": None}, SAME),
        ({**ATTENTION, "q_lora_rank": None}, LATENT),
    ],
    "glm4_moe_lite": [({}, SAME), (ATTENTION, LATENT)],
    "gpt2": [
        ({}, SAME),
        ({"intermediate_size": 48}, SAME),
        ({"n_inner": 40, "intermediate_size": 48}, SAME),
    ],
    "nemotron": PARTS,
    "gemma": WHOLE,
    "gemma2": [*WHOLE, ({"attn_logit_softcapping": None, "final_logit_softcapping": None}, SAME)],
    "gemma3_text": [({"layer_types": TURNS, **one}, said) for one, said in WHOLE],
    "gpt_oss": [({}, SAME), ({"attention_bias": False}, LINEAR)],
    "glm4_moe": [({}, SAME), ({"attention_bias": False}, SAME), ({"use_qk_norm": False}, SAME)],
    "olmo2": WHOLE,
    "olmo3": WHOLE,
    "exaone4": [*UNREAD, ({"sliding_window": None, "layer_types": TURNS[1:] * 2}, SAME)],
    "olmoe": [*WHOLE, ({"clip_qkv": 0.5}, CLIPPED)],
    "phi3": [*UNREAD, (HALF, SAME)],
    "seed_oss": [({}, SAME)],
    "smollm3": [({}, SAME)],
    "minimax_m2": [({}, SAME)],
    "ernie4_5": [({}, SAME)],
    "gpt_neox": [
        ({"use_parallel_residual": False}, SAME),
        ({}, PARALLEL),
        ({"use_parallel_residual": False, "attention_bias": False}, LINEAR),
    ],
    "nemotron_h": [
        *UNREAD,
        ({"moe_latent_size": None}, SAME),
        (MLP, SHARED),
        ({"use_bias": True}, "MambaMixer has no bias"),
        ({"use_conv_bias": False}, CONVOLVED),
    ],
}
REFUSED = (LATENT, SHARED, "MambaMixer has no bias")
# Their norm of a DeltaNet cannot be converted yet, whatever the switches are.
NOT_CONVERTED = {"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"}


def test_every_model_type_is_here() -> None:
    assert set(CASES) | NOT_CONVERTED == set(MODELS)


@pytest.mark.sampled(one_in=2)
@pytest.mark.parametrize("model", CASES)
def test_switches(model: str, oracle: Oracle, tmp_path: Path) -> None:
    cases = CASES[model]
    given = [changes for changes, _ in cases]
    made = oracle.compare("oracle_switches", ranks=1, model=model, cases=given,
                          folder=str(tmp_path))  # fmt: skip
    often: set[str] = set()
    for number, (changes, said) in enumerate(cases):
        wanted = torch.tensor(made["logits"][number])
        hf, out = tmp_path / str(number), tmp_path / f"{number}-out"
        if computed := (model in hf_config.FAMILIES):
            assert (free_run(hf, hf, IDS, "fp32")[0] - wanted).abs().max() < 2e-5, changes
        if said in REFUSED:
            with pytest.raises(UnsupportedLayout, match=said):
                converted(hf, out, "megatron", names="mcore")
            assert not out.exists()
            continue
        found, _ = converted(hf, out, "megatron", names="mcore")
        assert found.left == ()
        often = often if number else set(found.cannot)
        more = [one.partition(" is ")[0] for one in found.cannot if one not in often]
        assert more == ([ENTRIES.get(said, said)] if said else []), changes
        converted(out, tmp_path / f"{number}-back", "hf", like=hf)
        assert different(hf_tensors(hf), hf_tensors(tmp_path / f"{number}-back")) == []
        comparison = compare(hf, out)
        assert comparison.statuses == {}
        assert comparison.a.unmapped == comparison.b.unmapped == ()
        lines = compare_configs(comparison.a, comparison.b)
        conflicts = [line.meaning for line in lines if line.status == "conflict"]
        assert conflicts == ([said] if said else []), changes
        if computed:
            apart = float((free_run(hf, out, IDS, "fp32")[1][:, :64] - wanted).abs().max())
            if said and said != CONVOLVED:  # whose biases are written as zeros
                assert apart > 1e-2, changes
            else:  # the epsilon of latent norms is in `often`
                assert apart < (1e-3 if often else 2e-5), changes
