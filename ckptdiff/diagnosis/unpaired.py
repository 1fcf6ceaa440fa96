"""Findings of tensors that were not compared: one side lacks them, or has them in another shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name
from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.fault_classes import FaultClass
    from ckptdiff.results import TensorDiff


def unpaired(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff]
) -> Generator[Finding, None, None]:
    """Yield findings of tensors that B lacks, and of a vocabulary with another number of rows."""
    absent = [r.name for r in results if r.status == "only_a"]
    if absent:
        words = f"{len(absent)} tensors of A are not in B"
        yield _finding_of_names("MISSING", words, absent, "they are in no file of B")
    missing_shards = {name: e.text for name, e in b.errors.items() if e.kind == "missing-shard"}
    incomplete = [r.name for r in results if r.name in missing_shards]
    if incomplete:
        yield _finding_of_names(
            "TP-DUP", f"{len(incomplete)} tensors of B lack the shards of some ranks", incomplete,
            missing_shards[incomplete[0]],
        )  # fmt: skip
    architecture = a.architecture or b.architecture
    vocabulary = {
        m.hf[0] for m in (architecture.mappings if architecture else ()) if m.of_vocabulary
    }
    resized = [r for r in results if r.status == "shape" and r.name in vocabulary]
    if resized and all(r.shape_a and r.shape_b for r in resized):
        first = resized[0]
        assert first.shape_a is not None
        assert first.shape_b is not None
        fewer = first.shape_b[0] < first.shape_a[0]
        yield Finding(
            "VOCAB-TRUNC" if fewer else "VOCAB-PAD",
            "fault",
            f"the vocabulary has {first.shape_b[0]} rows, A's has {first.shape_a[0]}",
            tensors=tuple(r.name for r in resized),
            evidence=first.note or "the rows that both have were not looked at",
        )


def _finding_of_names(kind: FaultClass, title: str, names: Sequence[str], evidence: str) -> Finding:
    """Return a finding of tensors that cannot be compared, by their Hugging Face names."""
    numbers = [split_name(name)[1] for name in names]
    return Finding(
        kind,
        "fault",
        title,
        tensors=tuple(names),
        layers=tuple(sorted({n[0] for n in numbers if n})),
        experts=tuple(sorted({n[1] for n in numbers if len(n) > 1})),
        evidence=evidence,
    )
