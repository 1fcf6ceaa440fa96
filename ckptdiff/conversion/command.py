"""A conversion in words: its command line, and the lines that report its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.assembly.shortfall_words import shortfall_lines
from ckptdiff.config.programs import DEFAULT, PROGRAMS
from ckptdiff.conversion.plan import MAX_SHARD_SIZE, VOCAB_DIVISIBLE_BY
from ckptdiff.text import operand, pasted_name, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.comparison.verdict import DiffSummary
    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.run import Lost
    from ckptdiff.results import TensorDiff


def command_of(source: Path, out: Path, target: Target, like: Path | None = None) -> list[str]:
    """Return the arguments of the `ckptdiff convert` command for this target.

    Defaults are left out. `shell_line` makes a line of them; parsed, they give an equal Target.
    """
    size = target.parallelism
    words = ["ckptdiff", "convert", operand(source), operand(out), "--to", target.to]
    for flag, number, default in (
        ("--tp", size.tp, 1),
        ("--pp", size.pp, 1),
        ("--vpp", size.vpp, 1),
        ("--ep", size.ep, 1),
        ("--etp", size.etp, size.tp),
        ("--first-stage-layers", target.first_layers, None),
        ("--last-stage-layers", target.last_layers, None),
        ("--vocab-divisible-by", target.vocab_divisible_by, VOCAB_DIVISIBLE_BY),
        ("--max-shard-size", target.max_shard_size, MAX_SHARD_SIZE),
        ("--dtype", target.dtype, None),
        ("--names", target.names, None),
        ("--target-version", target.version, DEFAULT),
        ("--family", target.family, None),
    ):
        if number != default:
            words += [flag, str(number)]
    if like is not None:
        words += ["--like", operand(like)]
    for remap in target.undo:
        words += ["--undo", remap.text()]
    for flag, wanted in (
        ("--moe-grouped-gemm", target.moe_grouped_gemm),
        ("--run-config", target.run_config),
        ("--accept", target.accept),
        ("--allow-unmapped", target.allow_unmapped),
        ("--allow-incomplete", target.allow_incomplete),
        ("--overwrite", target.overwrite),
    ):
        if wanted:
            words.append(flag)
    return words


def cannot_lines(conversion: Conversion) -> Iterator[str]:
    """Yield a sentence for each thing that the target cannot compute, or say, of the model."""
    words = cannot_words(conversion.target)
    for clause in conversion.cannot:
        yield f"{words} this model: {printable(clause)}"


def cannot_words(target: Target) -> str:
    """Return who cannot do what with a model; the model follows."""
    if target.to == "hf":
        return "config.json cannot say"
    return f"{PROGRAMS[target.version]} cannot compute"


def start_lines(conversion: Conversion) -> Iterator[str]:
    """Yield, as a block of its own, the line that starts the target program from the result."""
    if conversion.launch is not None:
        program = PROGRAMS[conversion.target.version]
        yield ""
        other = ", though it computes another model" if conversion.cannot else ""
        if conversion.target.version == "bridge":
            yield f"load it into {program}{other}, with:"
        else:
            yield f"start {program}, for one step on made-up data{other}, with:"
        yield printable(conversion.launch)


def against_line(
    summary: DiffSummary, like: Assembled | None, *, with_adapter: bool = False
) -> str:
    """Return the line on what was written against the folder that it was to be like.

    `with_adapter`: the adapter that was added to the source was added to that folder too.
    """
    root = "" if like is None else printable(str(like.checkpoint.root))
    root += " with the adapter" if with_adapter else ""
    counts = summary.counts
    total = sum(counts.values())
    packed = counts["packed"]
    other = total - counts["same"] - counts["close"] - packed
    if packed and not other:
        verb = "is" if packed == 1 else "are"
        alike = "the same" if not counts["close"] else "the same or close"
        return (
            f"against {root}: {total - packed} of {total} tensors are {alike}, {packed} {verb} "
            f"packed there and not compared{_conflicts(summary)}"
        )
    more = f": {other} of {total} tensors are not the same there" if other else ""
    beside = f", {packed} more packed and not compared" if packed else ""
    return f"against {root}: {summary.weights}{more}{beside}{_conflicts(summary)}"


def _conflicts(summary: DiffSummary) -> str:
    """Return in words which settings conflict, so that equal weights are not taken for all."""
    names = ", ".join(printable(line.meaning) for line in summary.conflicts)
    return f"; the configs conflict: {names}" if names else ""


def closing_lines(
    conversion: Conversion, lost: Sequence[Lost], compared: Sequence[TensorDiff]
) -> Iterator[str]:
    """Yield lines about values lost to casts and drifted replicas; last, what was verified."""
    for one in lost:
        if one.loss.overflowed or one.loss.flushed:
            yield (
                f"lost  {printable(one.name)}: {one.loss.overflowed} values became infinite, "
                f"{one.loss.flushed} became zero"
            )
    if lost:
        count = sum(one.loss.rounded for one in lost)
        yield f"cast  {count} values of {len(lost)} tensors were rounded"
    drifted = [r for r in compared if r.status == "differ" and r.note and "differs from" in r.note]
    for result in drifted:
        yield f"note  {printable(result.name)}: {printable(str(result.note))}; the first was taken"
    short = shortfall_lines(conversion.source)
    if short:
        first = printable(short[0].removeprefix("incomplete: "))
        yield f"short  what was written is not what its config promises: {first}"
    if not compared:
        yield f"wrote {pasted_name(str(conversion.out))}, not verified"
        return
    outcome = "verified but for copies that differ" if drifted else "verified"
    if short:
        outcome = "incomplete, as the source is"
    count = len(compared)
    same = sum(result.status == "same" for result in compared)
    if same == count:
        yield f"{outcome}: {same} of {count} tensors are the same, every byte compared"
        return
    cast = count - same - len(drifted)
    dtype = conversion.target.dtype
    parts = (
        (same, "the same"),
        (cast, f"as cast to {dtype}" if dtype is not None else "as computed from block factors"),
        (len(drifted), "the first of copies that differ"),
    )
    words = ", ".join(f"{number} {what}" for number, what in parts if number)
    yield f"{outcome}: all {count} tensors, every byte compared: {words}"
