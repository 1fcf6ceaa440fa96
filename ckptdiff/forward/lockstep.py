"""Jobs: take both sides through a section, one step at a time, one step's weights in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ckptdiff.dtypes import BY_FLAG
from ckptdiff.errors import CkptDiffError, UnsupportedLayout
from ckptdiff.forward.arithmetic import MEGATRON, META, TRANSFORMERS
from ckptdiff.forward.families import CLASSES
from ckptdiff.forward.hints import hint
from ckptdiff.forward.huggingface import HuggingFaceLayer
from ckptdiff.forward.megatron import MegatronLayer
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

COMPUTED = {flag: STORED[word] for flag, word in BY_FLAG.items()}
PROGRAMS = {"transformers": TRANSFORMERS, "meta": META, "megatron": MEGATRON}


@torch.inference_mode()
def take_section(
    run: ForwardRun, section: Section, a: dict[str, RawTensor], b: dict[str, RawTensor]
) -> SectionDone:
    """Take both sides through a section, each on its own values.

    Where the run compares, B takes each step from A's values as well, and so do A's weights in B's
    arithmetic, which tells how much arithmetic alone makes. Raises a CkptDiffError.
    """
    device = prepare(run.device)
    readers = [Reader(COMPUTED[run.dtype], device) for _ in "ab"]
    one = make_layer(run.a, section.number, section.a, readers[0])
    other = make_layer(run.b, section.number, section.b, readers[1])
    mixed = make_layer(
        replace(run.a, program=run.b.program, ranks=run.b.ranks, expert_ranks=run.b.expert_ranks),
        section.number,
        section.a,
        readers[0],
    )
    values_a, values_b = (unpacked(values, device) for values in (a, b))
    taps: list[Tap] = []
    number = section.number if section.part == "layer" else None
    sequence = steps(section.part, one, other)
    for step in sequence:
        given = take_or_tell(step, one, values_a, section, who="A")
        followed = values_a | dict(zip(step.gives, given, strict=True))
        if run.compares and step.is_tap:
            other.copied.clear()
            forced = take_or_tell(step, other, values_a, section, followed, who="B")
            copies = _copies(other)
            for copy in copies:
                again = replace(other, copy=copy)
                forced = _further(
                    given,
                    forced,
                    take_or_tell(step, again, values_a, section, followed, who="B"),
                )
            floor = take_or_tell(step, mixed, values_a, section, followed, who="A")
            rests: list[float | None] = [None for _ in given]
            if not copies:
                rests = _rests(step, one, other, values_a, followed, given, forced, run.vocabulary)
            reads = tuple(readers[0].reads)
            for name, x, y, z, rest in zip(step.gives, given, forced, floor, rests, strict=True):
                x, y, z = (unpadded(name, v, run.vocabulary) for v in (x, y, z))
                words = hint(x, y)
                if copies:
                    words = f"rank {copies[0]} has another copy" + (f"; {words}" if words else "")
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
        own = take_or_tell(step, other, values_b, section, followed, who="B")
        values_a = followed
        values_b.update(zip(step.gives, own, strict=True))
        for reader in readers:
            reader.forget()
    kept = sequence[-1].gives
    left = [
        packed({name: unpadded(name, values[name], run.vocabulary) for name in kept})
        for values in (values_a, values_b)
    ]
    return SectionDone(left[0], left[1], tuple(taps))


def _copies(side: LayerOf) -> list[int]:
    """Return the ranks whose copy of what was read is not that of the first."""
    first, *others = side.ranks

    def is_other(tensors: Tensors, name: str) -> bool:
        if name not in first or name not in tensors:
            return name in first or name in tensors
        return not side.reader.is_same(first[name], tensors[name])

    return [
        rank
        for rank, tensors in enumerate(others, 1)
        if any(is_other(tensors, name) for name in side.copied)
    ]


def _further(
    given: tuple[Tensor, ...], one: tuple[Tensor, ...], other: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return of two values of each tap the one that is further from what A gives."""
    pairs = zip(given, one, other, strict=True)
    return tuple(y if relative_distance(x, y) > relative_distance(x, z) else z for x, y, z in pairs)


def prepare(device: str) -> torch.device:
    """Turn off what makes products of float32 less than that."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return torch.device(device)


def relative_distance(a: Tensor, b: Tensor) -> float:
    """Return |a-b| / |a|; infinite where that is no number."""
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
    return {
        name: RawTensor(
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(),
        )
        for name, value in values.items()
    }


def unpacked(values: dict[str, RawTensor], device: torch.device) -> Values:
    return {
        name: torch.frombuffer(bytearray(value.content), dtype=getattr(torch, value.dtype))
        .view(value.shape)
        .to(device)
        for name, value in values.items()
    }


def make_layer(side: ForwardSide, number: int, ranks: Ranks, reader: Reader) -> LayerOf:
    """Return a layer as the side's program computes it."""
    how = replace(PROGRAMS[side.program], ranks=side.ranks, expert_ranks=side.expert_ranks)
    kind: type[LayerOf] = MetaLayer if side.kind == "meta" else MegatronLayer
    if side.kind == "huggingface":
        kind = CLASSES.get(side.model.family, HuggingFaceLayer)
    return kind(side.model, number, ranks, reader, how)


def take_or_tell(
    step: Step,
    side: LayerOf,
    values: Values,
    section: Section,
    followed: Values | None = None,
    *,
    who: str,
) -> tuple[Tensor, ...]:
    """Return what a step gives on the side that is called `who`.

    Raises UnsupportedLayout, or another CkptDiffError, that names the place if it cannot.
    """
    layer = f", layer {section.number}" if section.part == "layer" else ""
    where = f"{who}{layer}, {step.gives[0]}"
    try:
        return take(step, side, values, followed)
    except CkptDiffError as error:
        raise type(error)(f"{where}: {error}") from error
    except (RuntimeError, IndexError) as error:  # torch's words for shapes, and for no memory
        read = ", ".join(side.reader.reads) or "no tensor"
        raise UnsupportedLayout(
            f"{where}: cannot be computed from {read} ({error}). Are A and B one model, and their "
            "configs those of the files?"
        ) from error


def _rests(
    step: Step,
    one: LayerOf,
    other: LayerOf,
    values: Values,
    followed: Values,
    given: tuple[Tensor, ...],
    forced: tuple[Tensor, ...],
    vocabulary: int,
) -> list[float | None]:
    """Return what is left of the distances once one side's weights are cast as the other's were.

    Weights may have been cast and stored in a wider dtype again. None where no cast explains more
    than nine tenths.
    """

    def apart(xs: tuple[Tensor, ...], ys: tuple[Tensor, ...]) -> list[float]:
        pairs = zip(step.gives, xs, ys, strict=True)
        return [
            relative_distance(*(unpadded(name, v, vocabulary) for v in (x, y)))
            for name, x, y in pairs
        ]

    rels = apart(given, forced)
    rests: list[float | None] = [None for _ in rels]
    for side, dtype in _casts(one, other, max(rels)):
        side.reader.rounding = dtype
        try:
            cast = take(step, side, values, followed)
        finally:
            side.reader.rounding = None
        left = apart(cast, forced) if side is one else apart(given, cast)
        for i, (rel, rest, best) in enumerate(zip(rels, left, rests, strict=True)):
            if rest <= rel / 10 < math.inf and (best is None or rest < best):
                rests[i] = rest
    return rests


def _casts(one: LayerOf, other: LayerOf, rel: float) -> Iterator[tuple[LayerOf, torch.dtype]]:
    """Yield the casts of a side's weights that may have made the other's, and a distance."""
    kinds = [{STORED[d] for d in side.reader.reads.values()} for side in (one, other)]
    if rel <= 50 * torch.finfo(one.reader.dtype).eps or any(len(kind) != 1 for kind in kinds):
        return
    (first,), (second,) = kinds
    if first != second:
        yield (one, second) if second.itemsize <= first.itemsize else (other, first)
    for dtype in (torch.bfloat16, torch.float16):
        if first == second != dtype and dtype.itemsize <= first.itemsize:
            yield from ((one, dtype), (other, dtype))


def unpadded(name: str, value: Tensor, vocabulary: int) -> Tensor:
    """Leave out the logits of padding."""
    return value[..., :vocabulary] if name == "logits" else value
