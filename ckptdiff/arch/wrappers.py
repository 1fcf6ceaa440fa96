"""What wrappers and adapters put into parameter names, in front of them and inside.

Sources: torch._dynamo.eval_frame (`_orig_mod`), torch.distributed.fsdp, DistributedDataParallel,
torch.distributed.algorithms._checkpoint, peft.tuners, megatron.bridge.peft and lightning.fabric.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ckptdiff.arch import ARCHITECTURES
from ckptdiff.arch.fused import knows
from ckptdiff.arch.hf_class import LANGUAGE_PARTS
from ckptdiff.arch.moe import is_grouped
from ckptdiff.arch.naming import split_native
from ckptdiff.arch.templates import fill_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptdiff.arch.base import Architecture

# Parts that no model gives to a module of its own, and who adds them: left out wherever they stand.
WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "base_layer": "PEFT",
    "original_module": "PEFT",
    "to_wrap": "the LoRA of Megatron-Bridge and NeMo",
}
# Parts that models have too, and that are added in front: left out where that gives known names.
FRONTS = {
    "module": "DDP or DeepSpeed",
    "model": "a class around the model",
    "base_model": "PEFT",
    "language_model": "a save of a multimodal model",
    "state_dict": "a trainer",
    "_module": "a class around the model",
}
# A model that has its adapter beside it needs these; without one, no loader finds them.
ADAPTER_PARTS = ("base_layer", "original_module", "to_wrap", "base_model")
MOST_PARTS = 8  # in front of one name, of those above

# What an adapter adds to a module, behind its name. Megatron-Bridge's canonical LoRA has one for
# each of the parts of a fused matrix.
_ADAPTER = re.compile(
    r"\.(?P<kind>(?:lora|loha|hada|lokr|oft|boft|vera|ia3)_\w+|modules_to_save|prompt_encoder|"
    r"adapter(?:\.adapter_\w+)?\.linear_(?P<end>in|out))(?=\.|$)"
)
_OUT = ("lora_B", "lora_embedding_B", "linear_out")  # (features out, rank)


@dataclass(frozen=True, slots=True)
class AdapterName:
    """The name of an adapter's tensor, taken apart."""

    host: str  # the module that is adapted
    kind: str  # lora_A, lora_B, …

    @property
    def target(self) -> str:
        """The last part of the module's name: `q_proj`, `linear_qkv`."""
        return self.host.rpartition(".")[2]

    @property
    def weight(self) -> str:
        """The name of the weight that is adapted."""
        return f"{self.host}.weight"

    def rank_of(self, shape: tuple[int, ...]) -> int | None:
        """Return the rank of the adapter; None if this tensor does not tell it."""
        return shape[1] if self.kind.endswith(_OUT) and len(shape) == 2 else None


def adapter_name(name: str) -> AdapterName | None:
    """Return the parts of an adapter's name; None for a name of the model itself."""
    found = _ADAPTER.search(name)
    return None if found is None else AdapterName(name[: found.start()], found["kind"])


@dataclass(frozen=True, slots=True)
class WrappedName:
    """A name as what stands in front of it, the rest, and what a wrapper has put inside."""

    front: tuple[str, ...]
    rest: tuple[str, ...]
    inside: tuple[str, ...]

    def with_front(self, front: tuple[str, ...]) -> str:
        """Return the name with another front, and without what is inside."""
        return ".".join((*front, *self.rest))


def taken_apart(name: str, own: Iterable[str] = ()) -> WrappedName:
    """Return the parts of a name; `own` are parts in front that the lists above do not have."""
    parts = name.split(".")
    words = {*WRAPPERS, *FRONTS, *own}
    count = next((i for i, part in enumerate(parts) if part not in words), len(parts))
    count = min(count, len(parts) - 1, MOST_PARTS)
    rest = parts[count:]
    return WrappedName(
        tuple(parts[:count]),
        tuple(part for part in rest if part not in WRAPPERS),
        tuple(part for part in rest if part in WRAPPERS),
    )


def fronts_without(front: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield a front without its wrappers, then with ever more of the other parts left out."""
    plain = tuple(part for part in front if part not in WRAPPERS)
    for kept in range(len(plain), -1, -1):
        yield from dict.fromkeys(combinations(plain, kept))


def model_front(architecture: Architecture) -> tuple[str, ...]:
    """Return what a model with a head puts before the names of the one without: `model`."""
    first, _, _ = architecture.embedding().hf[0].partition(".")
    heads = [m.hf[0] for m in architecture.mappings if m.role == "head"]
    return (first,) if heads and not any(h.startswith(f"{first}.") for h in heads) else ()


def is_known_native(key: str) -> bool:
    """Return whether some family has a rule for a Megatron name, given as a template."""
    native = fill_template(key, (0,) * key.count("#"))
    mcore = split_native(native)[0]
    return is_grouped(mcore) or any(a.rule_for(mcore) is not None for a in ARCHITECTURES)


def is_known_huggingface(key: str, architecture: Architecture | None) -> bool:
    """Return whether the family, or without one some family, knows a template's name.

    An adapter's name is known if the weight that it adapts is.
    """
    adapted = adapter_name(key)
    if adapted is not None:
        return is_known_huggingface(adapted.weight, architecture)
    families = ARCHITECTURES if architecture is None else (architecture,)
    return any(knows(family, key) for family in families)


def language_front(stored: str, canonical: str) -> str | None:
    """Return how the stored name of a language model's tensor begins, by its canonical name.

    None if it is not one of the known beginnings.
    """
    for front, ours in (*LANGUAGE_PARTS, ("model.", "model.")):
        if canonical.startswith(ours) and stored == front + canonical[len(ours) :]:
            return front
    return None


def adders(parts: Iterable[str]) -> list[str]:
    """Return who adds these parts of names, each once."""
    who = [{**WRAPPERS, **FRONTS}.get(part) for part in parts]
    return list(dict.fromkeys(filter(None, who)))
