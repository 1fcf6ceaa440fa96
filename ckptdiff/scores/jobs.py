"""Jobs of a comparison of scores: they run in a worker, and import there what needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.executor import available_cpus
from ckptdiff.scores.cost import free_memory

if TYPE_CHECKING:
    from ckptdiff.forward.plan import PackedRun, PackedSequence, Section
    from ckptdiff.results import Answers, StepApart


def choose_device(device: str, needed: int) -> tuple[str, str]:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`, and why `auto` is not the GPU.

    `needed` is the least memory that a batch takes, in bytes. Raises BadArgument.
    """
    from ckptdiff.forward.device import choose

    return choose(device, needed, available_cpus())


def memory_of(device: str) -> int | None:
    """Return the bytes that a device has free; None if that is not known."""
    if device == "cpu":
        return free_memory()
    from ckptdiff.forward.device import free_memory as free_of

    return free_of(device)


def begin(run: PackedRun, sequences: tuple[PackedSequence, ...]) -> None:
    """Begin a batch."""
    from ckptdiff.forward.packed import begin_batch

    begin_batch(run, sequences)


def take(run: PackedRun, section: Section) -> tuple[StepApart, ...]:
    """Compute a section of the batch; return the steps that differ with B's weights."""
    from ckptdiff.forward.packed import take_packed_section

    return take_packed_section(run, section)


def answers(run: PackedRun, section: Section) -> tuple[tuple[Answers, ...], ...]:
    """Return the answers of each sequence's spans, once the last section was taken."""
    from ckptdiff.forward.packed import answer_spans

    return answer_spans(run, section)
