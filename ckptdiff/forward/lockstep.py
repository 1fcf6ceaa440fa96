"""Jobs: compute a section on both sides, step by step, with one step's weights in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.dtypes import BY_FLAG
from ckptdiff.errors import CkptDiffError, UnsupportedLayout
from ckptdiff.forward import sizes
from ckptdiff.forward.arithmetic import MEGATRON, META, TRANSFORMERS
from ckptdiff.forward.families import CLASSES
from ckptdiff.forward.hints import hint
from ckptdiff.forward.huggingface import HuggingFaceLayer
from ckptdiff.forward.megatron import MegatronLayer
from ckptdiff.forward.megatron_hybrids import hybrid_class
from ckptdiff.forward.meta import MetaLayer
from ckptdiff.forward.plan import RawTensor, SectionDone
from ckptdiff.forward.reading import STORED, Reader
from ckptdiff.forward.steps import steps, take
from ckptdiff.results import Tap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ckptdiff.forward.holdings import Ranks, Tensors
    from ckptdiff.forward.layer import LayerOf
    from ckptdiff.forward.plan import ForwardRun, ForwardSide, Section
    from ckptdiff.forward.steps import Step, Values

# The torch dtype that each dtype flag computes in.
COMPUTED = {flag: STORED[word] for flag, word in BY_FLAG.items()}
ONE_MODEL = "Give two checkpoints of one model, each with its own config"
PROGRAMS = {"transformers": TRANSFORMERS, "meta": META, "megatron": MEGATRON}


@torch.inference_mode()
def take_section(
    run: ForwardRun, section: Section, a: dict[str, RawTensor], b: dict[str, RawTensor]
) -> SectionDone:
    """Compute a section on both sides, each on its own values.

    If the run compares, B also computes each step from A's values. So do A's weights in B's
    arithmetic: their distance is the floor, what arithmetic alone makes. Raises a CkptDiffError.
    """
    device = prepare_device(run.device)
    readers = [Reader(COMPUTED[run.dtype], device) for _ in "ab"]
    layer_a = make_layer(run.a, section.number, section.a, readers[0])
    layer_b = make_layer(run.b, section.number, section.b, readers[1])
    a_as_b = make_layer(
        replace(run.a, program=run.b.program, ranks=run.b.ranks, expert_ranks=run.b.expert_ranks),
        section.number,
        section.a,
        readers[0],
    )
    values_a, values_b = (unpacked(values, device) for values in (a, b))
    taps: list[Tap] = []
    number = section.number if section.part == "layer" else None
    sequence = steps(section.part, layer_a, layer_b)
    for step in sequence:
        given_a = take_or_raise(step, layer_a, values_a, section, letter="A")
        reference = values_a | dict(zip(step.gives, given_a, strict=True))
        if run.compares and step.is_tap:
            layer_b.copied.clear()
            given_b = take_or_raise(step, layer_b, values_a, section, reference, letter="B")
            other_copies = _copies(layer_b)
            for copy in other_copies:
                with_copy = replace(layer_b, copy=copy)
                given_b = _farther_copies(
                    given_a,
                    given_b,
                    take_or_raise(step, with_copy, values_a, section, reference, letter="B"),
                )
            floor = take_or_raise(step, a_as_b, values_a, section, reference, letter="A")
            rests: list[float | None] = [None for _ in given_a]
            if not other_copies:
                rests = _uncast_distances(
                    step, layer_a, layer_b, values_a, reference, given_a, given_b, run.vocabulary
                )
            reads = tuple(readers[0].reads)
            for name, x, y, z, rest in zip(step.gives, given_a, given_b, floor, rests, strict=True):
                x, y, z = (unpadded(name, v, run.vocabulary) for v in (x, y, z))
                if why := sizes.of_values(name, x, y):
                    raise UnsupportedLayout(f"{_place(section)}{why}. {ONE_MODEL}")
                words = hint(x, y)
                if other_copies:
                    more = f"; {words}" if words else ""
                    words = f"rank {other_copies[0]} has another copy{more}"
                taps.append(
                    Tap(
                        number,
                        name,
                        relative_distance(x, y),
                        relative_distance(x, z),
                        reads,
                        words,
                        rest,
                    )
                )
        # Without the reference: in its own pass, B's router chooses by itself.
        own = take_or_raise(step, layer_b, values_b, section, letter="B")
        values_a = reference
        values_b.update(zip(step.gives, own, strict=True))
        for reader in readers:
            reader.forget()
    outputs = sequence[-1].gives
    packed_values = [
        packed({name: unpadded(name, values[name], run.vocabulary) for name in outputs})
        | packed(_padding(values, outputs, run.vocabulary))
        for values in (values_a, values_b)
    ]
    return SectionDone(packed_values[0], packed_values[1], tuple(taps))


def _copies(side: LayerOf) -> list[int]:
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


def _farther_copies(
    given: tuple[Tensor, ...], one: tuple[Tensor, ...], other: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return, for each tap, that of two values which is farther from A's."""
    pairs = zip(given, one, other, strict=True)
    return tuple(y if relative_distance(x, y) > relative_distance(x, z) else z for x, y, z in pairs)


def prepare_device(device: str) -> torch.device:
    """Return the torch device, with all reduced-precision products turned off."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return torch.device(device)


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Return |a-b| / |a|, Euclidean norms in float64; infinite if not finite or of other shapes."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    apart = float((a - b).norm())
    if apart == 0:
        return 0.0
    size = float(a.norm())
    rel = apart / size if size else math.inf
    return rel if math.isfinite(rel) else math.inf


def packed(values: Values) -> dict[str, RawTensor]:
    """Return tensors as bytes, which pickle."""
    return {
        name: RawTensor(
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(),
        )
        for name, value in values.items()
    }


def unpacked(values: dict[str, RawTensor], device: torch.device) -> Values:
    """Return the tensors of bytes, on a device."""
    return {
        name: torch.frombuffer(bytearray(value.content), dtype=getattr(torch, value.dtype))
        .view(value.shape)
        .to(device)
        for name, value in values.items()
    }


def make_layer(side: ForwardSide, number: int, ranks: Ranks, reader: Reader) -> LayerOf:
    """Return a layer as the side's program computes it."""
    arithmetic = replace(PROGRAMS[side.program], ranks=side.ranks, expert_ranks=side.expert_ranks)
    layer_class: type[LayerOf] = MetaLayer
    if side.kind == "huggingface":
        layer_class = CLASSES.get(side.model.family, HuggingFaceLayer)
    elif side.kind == "megatron":
        layer_class = hybrid_class(side.model) or MegatronLayer
    return layer_class(side.model, number, ranks, reader, arithmetic)


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
    where = f"{letter}, {_place(section)}{step.gives[0]}"
    try:
        given = take(step, side, values, reference)
    except CkptDiffError as error:
        raise type(error)(f"{where}: {error}") from error
    except (RuntimeError, IndexError) as error:  # shapes that do not fit, or too little memory
        read = ", ".join(side.reader.reads) or "no tensor"
        raise UnsupportedLayout(
            f"{where}: cannot be computed from {read} ({error}). {ONE_MODEL}"
        ) from error
    if why := sizes.against_config(step, given, side.model):
        raise UnsupportedLayout(f"{where}: {why}. Put the config of these files beside them")
    return given


def _place(section: Section) -> str:
    return f"layer {section.number}, " if section.part == "layer" else ""


def _uncast_distances(
    step: Step,
    layer_a: LayerOf,
    layer_b: LayerOf,
    values: Values,
    reference: Values,
    given_a: tuple[Tensor, ...],
    given_b: tuple[Tensor, ...],
    vocabulary: int,
) -> list[float | None]:
    """Return the relative distances that remain once one side's weights are cast as the other's.

    Weights may have been cast to a narrow dtype and stored in a wide one again. None for a tap of
    which no cast explains at least nine tenths.
    """

    def apart(xs: tuple[Tensor, ...], ys: tuple[Tensor, ...]) -> list[float]:
        pairs = zip(step.gives, xs, ys, strict=True)
        return [
            relative_distance(*(unpadded(name, v, vocabulary) for v in (x, y)))
            for name, x, y in pairs
        ]

    rels = apart(given_a, given_b)
    rests: list[float | None] = [None for _ in rels]
    for side, dtype in _possible_casts(layer_a, layer_b, max(rels)):
        side.reader.cast_dtype = dtype
        try:
            cast = take(step, side, values, reference)
        finally:
            side.reader.cast_dtype = None
        left = apart(cast, given_b) if side is layer_a else apart(given_a, cast)
        for i, (rel, rest, best) in enumerate(zip(rels, left, rests, strict=True)):
            if rest <= rel / 10 < math.inf and (best is None or rest < best):
                rests[i] = rest
    return rests


def _possible_casts(
    layer_a: LayerOf, layer_b: LayerOf, rel: float
) -> Iterator[tuple[LayerOf, torch.dtype]]:
    """Yield the casts, (layer, dtype), that may explain a relative distance `rel`."""
    dtypes = [{STORED[d] for d in side.reader.reads.values()} for side in (layer_a, layer_b)]
    if rel <= 50 * torch.finfo(layer_a.reader.dtype).eps or any(
        len(stored) != 1 for stored in dtypes
    ):
        return
    (dtype_a,), (dtype_b,) = dtypes
    if dtype_a != dtype_b:
        yield (layer_a, dtype_b) if dtype_b.itemsize <= dtype_a.itemsize else (layer_b, dtype_a)
    for dtype in (torch.bfloat16, torch.float16):
        if dtype_a == dtype_b != dtype and dtype.itemsize <= dtype_a.itemsize:
            yield from ((layer_a, dtype), (layer_b, dtype))


def _padding(values: Values, outputs: tuple[str, ...], vocabulary: int) -> Values:
    """Return the logits of the rows of padding, (positions, rows), if there are any."""
    found = values["logits"][..., vocabulary:] if "logits" in outputs else None
    return {} if found is None or not found.numel() else {"padding": found}


def unpadded(name: str, value: Tensor, vocabulary: int) -> Tensor:
    """Return a step's value; logits, (positions, rows), without those of vocabulary padding."""
    return value[..., :vocabulary] if name == "logits" else value
