"""What became of an adapter in a model that it should be merged into."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.views import matrix_shape
from ckptdiff.comparison.parts import plan_diff
from ckptdiff.diagnosis.numbers import experts_of, layers_of
from ckptdiff.results import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from ckptdiff.assembly.lora import LoraPair
    from ckptdiff.assembly.merging import Merging
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.kernels.merge_fit import MergeFit
    from ckptdiff.kernels.views import Block
    from ckptdiff.results import TensorDiff

SAMPLE = 1 << 20  # elements of a weight that are measured
LEAST_COSINE = 0.6  # of a change with the adapter's product, to be taken for a multiple of it
NEAR = 0.1  # of a multiple, relative: as near is a known one to the nearest
SURE_COSINE = 0.99
SAME_SHARE = 0.02  # of one: as near may be measured of a whole adapter


@dataclass(frozen=True, slots=True)
class _Fate:
    """What was found of one weight: a group of findings, and in words."""

    share: float  # of the adapter that B has
    turned: bool = False
    exact: bool = True  # each value is one that such a merge gives


def merge_findings(
    a: Assembled, b: Assembled, results: Sequence[TensorDiff], executor: Executor
) -> Iterator[Finding]:
    """Yield what became of the adapter that is added to A in weights of B that differ."""
    merging = a.merging
    if merging is None:
        return
    names = [
        result.name for result in results
        if result.status == "differ" and result.numbers is not None and result.name in merging.pairs
    ]  # fmt: skip
    samples = {name: _sample(a.tensors[name], b.tensors[name]) for name in names}
    futures = {name: executor.submit(_fit, blocks) for name, blocks in samples.items()}
    found: dict[_Fate, list[str]] = defaultdict(list)
    for name, future in futures.items():
        fit = future.result()
        is_all = fit.numel >= math.prod(a.tensors[name].shape)
        fate = _fate(merging.pairs[name], fit, samples[name], executor, is_all=is_all)
        if fate is not None:
            found[fate].append(name)
    for fate, held in found.items():
        yield _finding(fate, held, merging)


def _sample(a: Assembly, b: Assembly) -> tuple[Block, ...]:
    """Return some blocks of a weight on both sides: all of it, or of each part the first rows."""
    plan = plan_diff(replace(a.without_copies()), b.without_copies())
    blocks = [block for part in plan.parts for block in part.blocks]
    most = SAMPLE // max(1, len(blocks))
    rows, columns = matrix_shape(a.shape)
    if rows * columns <= SAMPLE:
        return tuple(blocks)
    return tuple(
        replace(block, a=block.a.crop((0, 0), size), b=block.b.crop((0, 0), size))
        for block in blocks
        for size in [(min(block.a.shape[0], max(1, most // block.a.shape[1])), block.a.shape[1])]
    )


def _fit(blocks: tuple[Block, ...]) -> MergeFit:
    """Measure blocks. Runs in a worker process."""
    from ckptdiff.kernels.merge_fit import fit

    return fit(blocks)


def _beyond(blocks: tuple[Block, ...], share: float, turned: bool) -> int:  # noqa: FBT001
    """Count what no such merge gives. Runs in a worker process."""
    from ckptdiff.kernels.merge_fit import beyond

    return beyond(blocks, share, turned=turned)


def _fate(
    pair: LoraPair, fit: MergeFit, blocks: tuple[Block, ...], executor: Executor, *, is_all: bool
) -> _Fate | None:
    """Return what became of the adapter in one weight; None if B's change is something else.

    `is_all`: the blocks are all of the weight.
    """
    if not fit.off_base:
        return _Fate(0.0, exact=is_all)
    if fit.turned_cosine > max(LEAST_COSINE, abs(fit.cosine)):
        is_exact = executor.submit(_beyond, blocks, 1.0, True).result() == 0  # noqa: FBT003
        return _Fate(1.0, turned=True, exact=is_exact)
    if abs(fit.cosine) < LEAST_COSINE:
        return None
    for share in _known_shares(pair, fit.share):
        if executor.submit(_beyond, blocks, share, False).result() == 0:  # noqa: FBT003
            return _Fate(share)
    # Where B has the whole adapter, it is something else that differs.
    if abs(fit.cosine) < SURE_COSINE or abs(fit.share - 1) < SAME_SHARE:
        return None
    return _Fate(float(f"{fit.share:.2g}"), exact=False)


def _known_shares(pair: LoraPair, measured: float) -> list[float]:
    """Return multiples that mistakes give, near a measured one, the nearest first."""
    rank, alpha = pair.rank, pair.alpha
    shares = {-1.0, math.sqrt(rank), 1 / math.sqrt(rank), float(rank), 1 / rank}
    shares.add(float(round(measured)))
    if pair.factor:
        shares.add(1 / pair.factor)
    if alpha:
        shares.add(round(measured * alpha) / alpha)
    near = [share for share in shares if share and abs(share - measured) <= NEAR * abs(share)]
    return sorted(near, key=lambda share: abs(share - measured))


def _finding(fate: _Fate, names: list[str], merging: Merging) -> Finding:
    """Return the finding of weights that all had one fate."""
    pairs = [merging.pairs[name] for name in names]
    of = f"{len(names)} of the {len(merging.pairs)} weights that the adapter changes"
    if fate.turned:
        title = "B holds base + the adapter's product transposed"
        cause = "A and B were swapped, or weights taken for Conv1D's (fan_in_fan_out)"
    elif fate.share == 0:
        title = f"the adapter was not merged into {of}: B holds the base's values"
        title += "" if fate.exact else " in all rows looked at"
        cause = "the merge left these modules out"
    else:
        about = "" if fate.exact else "about "
        title = f"B holds base + {about}{fate.share:.4g} x the adapter"
        cause = _cause(fate.share, pairs)
    evidence = f"{of}; the adapter is {merging.root}"
    if fate.exact and fate.share:
        evidence += "; each value looked at is one that such a merge gives"
    return Finding(
        "LOW-RANK",
        "fault",
        title,
        tensors=tuple(names),
        layers=layers_of(names),
        experts=experts_of(names),
        evidence=evidence,
        also_explained_by=(cause,),
        cause=cause,
        is_lost=False,
    )


def _cause(share: float, pairs: Sequence[LoraPair]) -> str:
    """Return what makes a merge add a multiple of the adapter, in words."""
    alphas, ranks = {pair.alpha for pair in pairs}, {pair.rank for pair in pairs}
    factors = {pair.factor for pair in pairs}
    found = []
    if share == -1:
        return "it was subtracted: unmerged from the plain base"
    if share == 2:
        found.append("it was merged twice")
    root = math.sqrt(min(ranks))
    if len(ranks) == 1 and any(math.isclose(share, ratio) for ratio in (root, 1 / root)):
        found.append("alpha was divided by the root of the rank on one side alone (rslora)")
    if len(factors) == 1 and math.isclose(share * min(factors), 1):
        found.append("it was added without its factor, alpha / rank")
    if len(alphas) == 1:
        alpha = min(alphas)
        found.append(f"alpha was {alpha * share:.4g}, the adapter's config states {alpha:.4g}")
    return "; or ".join(found) or "another alpha or rank was used"
