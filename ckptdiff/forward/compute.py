"""A layer as its side's program computes it, and its steps, with errors that say where."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.dtypes import BY_FLAG
from ckptdiff.errors import CkptDiffError, OutOfMemory, UnsupportedLayout
from ckptdiff.forward import sizes
from ckptdiff.forward.arithmetic import MEGATRON, META, TRANSFORMERS
from ckptdiff.forward.families import CLASSES
from ckptdiff.forward.huggingface import HuggingFaceLayer
from ckptdiff.forward.megatron import MegatronLayer
from ckptdiff.forward.megatron_hybrids import hybrid_class
from ckptdiff.forward.meta import MetaLayer
from ckptdiff.forward.model import rounded_as
from ckptdiff.forward.reading import STORED
from ckptdiff.forward.steps import take

if TYPE_CHECKING:
    from torch import Tensor

    from ckptdiff.forward.holdings import Ranks, Tensors
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import ForwardSide, Section
    from ckptdiff.forward.reading import Reader
    from ckptdiff.forward.steps import Step, Values

# The torch dtype that each dtype flag computes in.
COMPUTED = {flag: STORED[word] for flag, word in BY_FLAG.items()}
ONE_MODEL = "Give two checkpoints of one model, each with its own config"
PROGRAMS = {"transformers": TRANSFORMERS, "meta": META, "megatron": MEGATRON}


# Steps in which each position is computed by itself.
BY_POSITION = frozenset(
    {
        *("project", "compress_queries", "compress_keys", "expand", "attention_out"),
        *("activate", "mlp_out", "activate_shared", "shared_out", "logits"),
    }
)
FLOOR_POSITIONS = 16  # by which a step of A's weights is compared with that of B's
ROUNDING = 16  # epsilons that a step of equal weights may be apart


def prepare_device(device: str) -> torch.device:
    """Return the torch device, with all reduced-precision products turned off."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return torch.device(device)


def make_layer(side: ForwardSide, number: int, ranks: Ranks, reader: Reader) -> LayerOf:
    """Return a layer as the side's program computes it."""
    arithmetic = replace(
        PROGRAMS[side.program],
        ranks=side.ranks,
        expert_ranks=side.expert_ranks,
        expert_slices=side.expert_slices,
    )
    layer_class: type[LayerOf] = MetaLayer
    if side.kind == "huggingface":
        layer_class = CLASSES.get(side.model.family, HuggingFaceLayer)
    elif side.kind == "megatron":
        layer_class = hybrid_class(side.model) or MegatronLayer
    return layer_class(side.model, number, ranks, reader, arithmetic)


def as_other(side: ForwardSide, other: ForwardSide) -> ForwardSide:
    """Return a side with its own weights and config, computed as the other side's program does."""
    return replace(
        side,
        model=rounded_as(side.model, other.model),
        program=other.program,
        ranks=other.ranks,
        expert_ranks=other.expert_ranks,
        expert_slices=other.expert_slices,
    )


def take_or_raise(
    step: Step,
    side: LayerOf,
    values: Values,
    section: Section,
    reference: Values | None = None,
    *,
    letter: str,
) -> tuple[Tensor, ...]:
    """Return what a step gives on a side, `letter` A or B; `followed` are the reference's values.

    Raises UnsupportedLayout, or another CkptDiffError, that names the side, the layer and the step.
    """
    where = f"{letter}, {place(section)}{step.gives[0]}"
    try:
        given = take(step, side, values, reference)
    except CkptDiffError as error:
        raise type(error)(f"{where}: {error}", hint=error.hint) from error
    except (RuntimeError, IndexError, MemoryError) as error:  # memory, or shapes that do not fit
        if _is_out_of_memory(error):
            raise OutOfMemory(
                f"{where}: {side.reader.device} ran out of memory. Try fewer tokens",
                hint=None if side.reader.device.type == "cpu" else "cpu",
            ) from error
        read = ", ".join(side.reader.reads) or "no tensor"
        raise UnsupportedLayout(
            f"{where}: cannot be computed from {read} ({error}). {ONE_MODEL}"
        ) from error
    if why := sizes.against_config(step, given, side.model):
        raise UnsupportedLayout(f"{where}: {why}. Put the config of these files beside them")
    return given


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that: on a CPU torch has no class of its own for it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


def place(section: Section) -> str:
    return f"layer {section.number}, " if section.part == "layer" else ""


def drifted_copies(side: LayerOf) -> list[int]:
    """Return the ranks whose copies of replicated tensors differ from those of the first rank."""
    first, *rest = side.ranks

    def is_other(tensors: Tensors, name: str) -> bool:
        if name not in first or name not in tensors:
            return name in first or name in tensors
        return not side.reader.is_same(first[name], tensors[name])

    return [
        rank
        for rank, tensors in enumerate(rest, 1)
        if any(is_other(tensors, name) for name in side.copied)
    ]


def is_equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and torch.equal(a, b))


def unpadded(name: str, value: Tensor, vocabulary: int) -> Tensor:
    """Return a step's value; logits, (positions, rows), without those of vocabulary padding."""
    return value[..., :vocabulary] if name == "logits" else value
