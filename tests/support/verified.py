"""How the rules of each family were checked.

`python -m tests.support.verified` writes the table of the guide's page.

Three ways, the stronger first. Files: checkpoints that NVIDIA's own code wrote equal their sources.
Logits: a model scattered by the rules gives the same logits in the real megatron-core, and what
that saves is the same; the runs are those of the oracle's tests. Shapes: nothing in transformers'
own model is left out or used twice.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from ckptdiff.arch import ARCHITECTURES
from tests.arch.test_oracle_families import RUNS
from tests.arch.test_oracle_megatron import MODELS as LLAMAS
from tests.arch.test_oracle_megatron import RUNS as LLAMA_RUNS
from tests.support.corpus import REPOSITORY
from tests.support.families import MODELS

PAGE = REPOSITORY / "ckptdiff/guide/families.md"
TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- end of families -->)", re.DOTALL)


@dataclass(frozen=True)
class Verified:
    """A family as people call it, and what its rules were checked by beside logits."""

    called: str
    files: bool = False
    more: str = ""


# Families that are called otherwise than their rules, or were checked by more.
VERIFIED = {
    "llama": Verified("Llama 2, Llama 3", files=True),
    "mistral": Verified("Mistral", files=True),
    "qwen2": Verified("Qwen2, Qwen2.5", files=True),
    "qwen3": Verified("Qwen3", files=True),
    "seed_oss": Verified("Seed-OSS"),
    "ernie4_5": Verified("Ernie 4.5 without experts"),
    "smollm3": Verified("SmolLM3"),
    "mixtral": Verified("Mixtral", files=True),
    "qwen2_moe": Verified("Qwen2-MoE", files=True),
    "qwen3_moe": Verified("Qwen3-MoE", files=True),
    "deepseek": Verified(
        "DeepSeek-V3, DeepSeek-V2, Kimi-K2, Moonlight, GLM-4.7-Flash",
        files=True,
        more="V2 and GLM-4.7-Flash by shapes, the others have V3's names",
    ),
    "gpt2": Verified("GPT-2", files=True),
    "nemotron": Verified("Nemotron", files=True),
    "gemma": Verified("Gemma"),
    "gemma2": Verified("Gemma 2"),
    "gemma3": Verified("Gemma 3"),
    "gpt_oss": Verified("gpt-oss"),
    "glm4_moe": Verified("GLM-4.5, GLM-4.6"),
    "olmo2": Verified("OLMo 2, OLMo 3", more="OLMo 3 by shapes"),
    "exaone4": Verified("EXAONE 4"),
    "olmoe": Verified("OLMoE"),
    "minimax_m2": Verified(
        "MiniMax-M2", more="norms over all heads cut as Megatron-Bridge does: our own imitation"
    ),
    "phi3": Verified("Phi-3, Phi-4"),
    "qwen3_next": Verified("Qwen3-Next"),
    "qwen3_5": Verified("Qwen3.5"),
    "qwen3_5_moe": Verified("Qwen3.5-MoE"),
    "qwen3_vl_moe": Verified(
        "Qwen3-VL-MoE", more="Qwen3-MoE's rules, transposed experts by formula"
    ),
    "gpt_neox": Verified("GPT-NeoX, Pythia"),
    "nemotron_h": Verified("Nemotron-H"),
}


def _row(family: str) -> Verified:
    return VERIFIED.get(family, Verified(family))


def logit_runs(family: str) -> list[tuple[int, int]]:
    """Return each (TP, EP) at which a family's logits were compared."""
    runs = {(tp, 1) for name, tp in LLAMA_RUNS if LLAMAS[name]["family"] == family}
    runs |= {(tp, ep) for model, tp, ep in RUNS if MODELS[model][0] == family}
    return sorted(runs)


def verified_by(family: str) -> str:
    """Return in words what a family's rules were checked by."""
    tp = sorted({tp for tp, _ in logit_runs(family)})
    ep = sorted({ep for _, ep in logit_runs(family) if ep > 1})
    ways = ["files"] if _row(family).files else []
    has_model = family in {name for name, _ in MODELS.values()}
    if tp:
        at = f"TP {' and '.join(map(str, tp))}" + "".join(f", EP {n}" for n in ep)
        ways.append(f"logits at {at}")
    more = _row(family).more
    return "; ".join(
        [
            *(ways or (["shapes alone"] if has_model else ["nothing of its own"])),
            *([more] if more else []),
        ]
    )


def family_table() -> str:
    """Return a row for each family that there are rules for."""
    rows = ["| family | `model_type` | verified by |", "| --- | --- | --- |"]
    for family in ARCHITECTURES:
        types = ", ".join(f"`{name}`" for name in family.model_types)
        called = _row(family.name).called
        rows.append(f"| {called} | {types} | {verified_by(family.name)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: family_table(), PAGE.read_text()))
    sys.stdout.write(family_table())
