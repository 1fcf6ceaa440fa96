"""Compare a Hugging Face checkpoint with a sharded Megatron checkpoint, tensor by tensor."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.assembly.assemble import assemble_pair
    from ckptdiff.comparison.run import diff
    from ckptdiff.conversion.plan import plan_conversion
    from ckptdiff.conversion.run import convert
    from ckptdiff.diagnosis.run import diagnose
    from ckptdiff.formats import open_checkpoint
    from ckptdiff.logits.run import compare_logits
    from ckptdiff.scores.run import compare_scores

__version__ = "0.1.0"

__all__ = [
    "assemble_pair",
    "compare_logits",
    "compare_scores",
    "convert",
    "diagnose",
    "diff",
    "open_checkpoint",
    "plan_conversion",
]

# Where each public name is defined. It is imported when it is first asked for: `ckptdiff --version`
# must not wait for the engine.
_HOMES = {
    "assemble_pair": "ckptdiff.assembly.assemble",
    "compare_logits": "ckptdiff.logits.run",
    "compare_scores": "ckptdiff.scores.run",
    "convert": "ckptdiff.conversion.run",
    "diagnose": "ckptdiff.diagnosis.run",
    "diff": "ckptdiff.comparison.run",
    "open_checkpoint": "ckptdiff.formats",
    "plan_conversion": "ckptdiff.conversion.plan",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ckptdiff' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
