"""Diagnose B by the reference A: one finding per fault, with the command that mends it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.naming import are_fused, are_grouped
from ckptdiff.assembly.packed import without_parts
from ckptdiff.checkpoint import Parallelism
from ckptdiff.comparison.packed import is_as_near_as_codes
from ckptdiff.config.compare import field_text
from ckptdiff.conversion.command import command_of
from ckptdiff.conversion.destination import proposed_out
from ckptdiff.conversion.plan import VOCAB_DIVISIBLE_BY, Target
from ckptdiff.conversion.reference_rope import rope_of_reference
from ckptdiff.conversion.undo import undone
from ckptdiff.diagnosis.claims import claims
from ckptdiff.diagnosis.finding import Claim, finding_of
from ckptdiff.diagnosis.incomplete import incomplete
from ckptdiff.diagnosis.merges import merge_findings
from ckptdiff.diagnosis.names import name_findings
from ckptdiff.diagnosis.origins import Origins
from ckptdiff.diagnosis.queries import ContentQueries
from ckptdiff.diagnosis.stale_files import stale_files
from ckptdiff.diagnosis.tied_heads import tied_heads, told_once
from ckptdiff.diagnosis.unpaired import unpaired
from ckptdiff.diagnosis.unruled import is_own_rule, with_own_rules
from ckptdiff.diagnosis.zero_tails import zero_tails
from ckptdiff.errors import BadArgument
from ckptdiff.formats import megatron, torch_dist
from ckptdiff.formats.stamps import Unchanged
from ckptdiff.resharding.shard_pairs import shard_grid
from ckptdiff.results import Finding, JointFix, undo_all
from ckptdiff.text import config_value_text, shell_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from ckptdiff.conversion.plan import To
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.results import TensorDiff


def diagnose(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    config: Iterable[ConfigDiff],
    executor: Executor,
) -> Generator[Finding, None, None]:
    """Yield a finding for each fault of B, by the reference A.

    `results` are of the comparison of both, `config` of that of their configs. Reads nothing if
    everything is equal; else the tensors that differ once more, and a sample of the others. Raises
    MixedShards if a file is written again meanwhile.
    """
    unchanged = Unchanged(a.checkpoint, b.checkpoint)
    for finding in told_once(_each(a, b, results, config, executor)):
        unchanged.check()  # else it may be of neither what there was nor what there is
        yield finding
    if any(result.status != "same" for result in results):
        unchanged.check()  # else "no cause was found" may be wrong


def _each(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    config: Iterable[ConfigDiff],
    executor: Executor,
) -> Iterator[Finding]:
    """Yield what each look at both finds."""
    yield from (_config_finding(line) for line in config if line.status == "conflict")
    yield from name_findings(a, b, results, mended_target(b))
    yield from incomplete(a, b, results)
    # Rounding to codes is no fault, and looks like weights of another save.
    results = [
        r
        for r in results
        if r.status != "differ"
        or not is_as_near_as_codes(r.numbers.rel_l2 if r.numbers else None, r.name, a, b)
    ]
    ask = ContentQueries(executor)
    explained: set[str] = set()
    for finding in (
        *tied_heads(a, b, results, ask),
        *zero_tails(a, b, results),
        *stale_files(a, b, results, ask),
        *merge_findings(a, b, results, executor),
    ):
        explained |= set(finding.tensors)
        yield finding
    results = [r for r in results if r.name not in explained]
    yield from unpaired(a, b, results, executor)
    # Codes of packed weights are neither of the shapes of the rules nor numbers.
    a, b = without_parts(a), without_parts(b)
    differing = {
        r.name
        for r in results
        if r.status == "differ" and r.numbers is not None and r.name in a.tensors
    }
    grid = shard_grid(with_own_rules(a, b, differing), b) if differing else None
    if grid is None:
        return
    origins = Origins(grid, ask)
    origins.run(differing)
    by_fault: dict[tuple[str, str], list[Claim]] = defaultdict(list)
    for claim in claims(origins):
        by_fault[claim.kind, claim.key].append(claim)
    for group in by_fault.values():
        finding = finding_of(group, origins)
        unruled = any(is_own_rule(pair.rule) for claim in group for pair in claim.pairs)
        if grid.architecture.by_words or unruled:
            # `convert` has rules of families alone.
            finding = replace(finding, undo=None, is_unruled=finding.undo is not None)
        elif finding.undo is not None and not b.packed:  # nothing converts packed weights
            finding = replace(finding, fix=_mending_command(a, b, finding.undo))
        yield finding


def diagnosed(
    a: Assembled,
    b: Assembled,
    results: Sequence[TensorDiff],
    config: Iterable[ConfigDiff],
    executor: Executor,
) -> tuple[tuple[Finding, ...], str | None]:
    """Return the findings of `diagnose`, and the text of the error that stopped it, if any.

    A comparison is reported even if its diagnosis fails.
    """
    findings: list[Finding] = []
    try:
        findings.extend(diagnose(a, b, results, config, executor))
    except Exception as error:  # noqa: BLE001 -- no error may cost the comparison
        return tuple(findings), f"{type(error).__name__}: {error}"
    return tuple(findings), None


def joint_fix(a: Assembled, b: Assembled, findings: Iterable[Finding]) -> JointFix | None:
    """Return the command that mends all faults that one command can; None if they are not two."""
    faults = [finding for finding in findings if finding.severity == "fault"]
    undo = undo_all(one for one in faults if one.fix is not None)
    like = a if a.checkpoint.convention == "hf" else None
    rope = {line.meaning for line, _ in rope_of_reference(b, like)} if undo else set()
    mended = [
        one
        for one in faults
        if (one.is_converted_away and one.fix is not None) or one.setting in rope
    ]
    if len(mended) < 2:
        return None
    try:
        undone(b, undo)
    except BadArgument:  # taken out together they would need what one of them does not leave
        return None
    left = tuple(one for one in faults if not any(one is other for other in mended))
    return JointFix(_mending_command(a, b, *undo), tuple(mended), left)


def _mending_command(a: Assembled, b: Assembled, *undo: Remap) -> str:
    """Return the `ckptdiff convert` command line that writes B again, without the faults."""
    target = mended_target(b, *undo)
    out = proposed_out(b.checkpoint, target)
    is_like = a.checkpoint.convention == "hf" and a.merging is None
    like = a.checkpoint.root if is_like else None
    return shell_line(command_of(b.checkpoint.root, out, target, like))


def mended_target(b: Assembled, *undo: Remap) -> Target:
    """Return the target that writes B again in its own format and layout, without the faults."""
    checkpoint = b.checkpoint
    to: To = "hf"
    if checkpoint.format in (megatron.NAME, torch_dist.NAME):
        to = "megatron" if checkpoint.format == megatron.NAME else "torch_dist"
    args = checkpoint.config or {}
    stored = {name for shard in checkpoint.shards for name in shard.tensors}
    names: Names = "te" if are_fused(stored) else "mcore"
    divisor = args.get("make_vocab_size_divisible_by")
    return Target(
        to,
        _as_on_command_line(checkpoint.parallelism) if to == "megatron" else Parallelism(),
        names=None if to == "hf" else "legacy" if args.get("use_legacy_models") else names,
        moe_grouped_gemm=are_grouped(stored),
        vocab_divisible_by=divisor if type(divisor) is int else VOCAB_DIVISIBLE_BY,
        undo=undo,
    )


def _as_on_command_line(size: Parallelism) -> Parallelism:
    """Return sizes with the command line's default: ETP is TP where nothing else is said."""
    return size if size.ep > 1 or size.etp > 1 else replace(size, etp=size.tp)


def _config_finding(line: ConfigDiff) -> Finding:
    """Return the finding of a config value that is not the same on both sides."""
    values = config_value_text(line.a), config_value_text(line.b)
    names = (
        f"A: {line.name_a or 'not stated'} = {values[0]}; "
        f"B: {line.name_b or 'not stated'} = {values[1]}"
    )
    a, b = values if line.a != line.b else (field_text(line, "A"), field_text(line, "B"))
    return Finding(
        "CONFIG",
        "fault",
        f"{line.meaning}: {a} in A, {b} in B",
        evidence=f"{names}. {line.consequence or ''}".strip(),
        fix=line.fix,
        setting=line.meaning,
    )
