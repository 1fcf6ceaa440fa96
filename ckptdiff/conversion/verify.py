"""Verify a conversion: compare the written files with the source before they are renamed."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptdiff.assembly.assemble import assemble, assemble_pair, with_tied_head
from ckptdiff.assembly.merging import with_merged
from ckptdiff.comparison.run import diff, pair_names
from ckptdiff.comparison.verdict import summarise
from ckptdiff.conversion.completeness import is_headless
from ckptdiff.errors import CkptDiffError, Unverified
from ckptdiff.formats import open_adapter, open_checkpoint
from ckptdiff.results import Loss

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from concurrent.futures import Executor
    from pathlib import Path
    from typing import BinaryIO

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.conversion.plan import Conversion
    from ckptdiff.results import TensorDiff


def compare_with_source(
    conversion: Conversion, folder: Path, losses: Mapping[str, Loss], executor: Executor
) -> Generator[TensorDiff, None, None]:
    """Yield the comparison of every tensor of the source with the written one in `folder`.

    The folder is opened like any checkpoint, without the plan. `losses` are those of the casts, by
    canonical name. Raises Unverified, after the last comparison, if a tensor is not as planned, or
    if what was written is not what its config promises though the source is.
    """
    a = conversion.source
    b = assemble(open_checkpoint(folder, unfinished=True), like=a)
    a, b = with_tied_head(a, b), with_tied_head(b, a)
    wrong = [*b.unmapped, *b.errors]
    for result in diff(a, b, executor, names=pair_names(a, b)):
        if not _is_as_planned(result, conversion, losses):
            wrong.append(result.name)
        yield result
    if conversion.target.to == "hf":
        wrong += _unlike_safetensors(conversion, folder)
    short = _newly_short(a, b, conversion)
    if short and not wrong:
        where = "config.json" if conversion.target.to == "hf" else "Megatron's args"
        raise Unverified(
            f"{conversion.out}: {where} cannot say what {a.checkpoint.root} is: what was written "
            f"would promise {_listed(short)}, which it does not hold. Nothing was kept"
        )
    wrong += short
    if wrong:
        raise Unverified(
            f"{conversion.out}: what was written is not what {a.checkpoint.root} holds: "
            f"{_differ(sorted(set(wrong)))}. Nothing was kept; this is a fault of ckptdiff or of "
            "the disk, please report it"
        )


def _differ(names: list[str]) -> str:
    """Return in words that these tensors differ; the first three are named."""
    if len(names) == 1:
        return f"{names[0]} differs"
    return f"{len(names)} tensors differ: {_listed(names)}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"


def compare_with_like(conversion: Conversion, executor: Executor) -> DiffSummary:
    """Compare a finished conversion with the folder that it was to be like; return the summary."""
    assert conversion.like is not None
    a, b = assemble_pair(conversion.like.checkpoint, open_checkpoint(conversion.out))
    return summarise(list(diff(a, b, executor)), a, b)


def compare_with_merged_like(conversion: Conversion, executor: Executor) -> DiffSummary | None:
    """Return what `compare_with_like` does, the source's adapter added to that folder as well.

    None if no adapter was added to the source, or if it is not one of that folder's.
    """
    assert conversion.like is not None
    merging = conversion.source.merging
    if merging is None:
        return None
    a, b = assemble_pair(conversion.like.checkpoint, open_checkpoint(conversion.out))
    try:
        a = with_merged(a, assemble(open_adapter(merging.root), like=a))
    except CkptDiffError:
        return None
    return summarise(list(diff(a, b, executor)), a, b)


def _newly_short(a: Assembled, b: Assembled, conversion: Conversion) -> list[str]:
    """Return what B's config promises and B does not hold, beyond what the source falls short of.

    Where names are left out, B's config may promise them.
    """
    if conversion.left:
        return []
    of_a, of_b = (
        [*side.shortfall.lacking, *side.shortfall.beyond, *(m.name for m in side.shortfall.misfits)]
        for side in (a, b)
    )
    if is_headless(a):
        assert a.architecture is not None
        of_a.append(a.architecture.head_name())  # the plan allows for it, or refuses
    return [name for name in of_b if name not in of_a]


def _is_as_planned(result: TensorDiff, conversion: Conversion, losses: Mapping[str, Loss]) -> bool:
    """Return whether a written tensor is equal to its source, or differs by its cast alone."""
    numbers = result.numbers
    if result.status == "same":
        return True
    if numbers is None or result.name not in conversion.source.tensors:
        return False
    if result.status == "close":
        return (
            result.why == "bits"
            or result.dtype_a != result.dtype_b
            or _is_scaled(result.name, conversion)
        )
    # Overflows differ and are reported as losses. Replicas that drifted differ in the source too.
    lost = losses.get(result.name, Loss())
    if (result.dtype_a, result.dtype_b) == ("BF16", "F16"):
        # They are compared in bfloat16: values rounded to float16 may differ there.
        return numbers.differing <= lost.rounded
    return numbers.differing == lost.overflowed


def _is_scaled(name: str, conversion: Conversion) -> bool:
    return conversion.source.tensors[name].is_scaled


def _unlike_safetensors(conversion: Conversion, folder: Path) -> list[str]:
    """Return the names whose dtype or size is not as planned, as the safetensors library reads."""
    from safetensors import SafetensorError, safe_open

    wrong = []
    for file in conversion.files:
        wanted = {t.name: (t.dtype, prod(t.shape)) for t in file.tensors}
        try:
            with (
                (folder / file.path).open("rb") as held,
                safe_open(_in_unicode(held), framework="numpy") as opened,
            ):
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                found = {n: (s.get_dtype(), prod(s.get_shape())) for n, s in slices.items()}
        except SafetensorError as error:
            wrong.append(f"{file.path} ({error})")
            continue
        wrong += sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
    return wrong


def _in_unicode(file: BinaryIO) -> str:
    """Return a path of an open file for a library that opens none that is not UTF-8."""
    path = str(file.name)
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"/dev/fd/{file.fileno()}"
    return path
