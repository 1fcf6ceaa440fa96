"""Measure changed values by Hugging Face tensor, where a shard has parts of several.

An adapter changes each tensor by itself: the ranks of the changes of q and v add up in a fused one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import RecipePart, compose
from ckptdiff.diagnosis.layout_search import pieces_by
from ckptdiff.diagnosis.thresholds import MAX_RANK_COLUMNS, MAX_RANK_ROWS
from ckptdiff.text import number_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.diagnosis.origins import Origins
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardPair

ByTensor = dict[str, "Residual"]  # by Hugging Face name


def measure_by_tensor(origins: Origins, pairs: Iterable[ShardPair]) -> dict[ShardPair, ByTensor]:
    """Return how each tensor of each pair differs, of matrices without a simple relation.

    The rows of a tensor are taken of all ranks that are among the pairs, since one rank may have
    too few to show a rank. Replicas other than the first are measured by themselves.
    """
    rows_of: dict[tuple[object, str], list[tuple[ShardPair, list[int]]]] = defaultdict(list)
    for pair in pairs:
        if len(pair.actual.shape) != 2 or origins.residual[pair].is_related:
            continue
        together = (pair.name, pair.actual.dtype) if pair.rule.dim == 0 else pair
        together = pair if pair.is_copy else together
        for name, rows in _rows_by_tensor(origins, pair).items():
            if _content(origins, pair).shape == pair.actual.shape:
                rows_of[together, name].append((pair, rows))
    contents = [_sampled(origins, held) for held in rows_of.values()]
    found = origins.ask.residuals([(e, a, a.dtype) for e, a in contents])
    measured: dict[ShardPair, ByTensor] = defaultdict(dict)
    for (key, held), residual in zip(rows_of.items(), found, strict=True):
        for pair, _ in held:
            measured[pair][key[1]] = residual
    return measured


def _content(origins: Origins, pair: ShardPair) -> Assembly:
    """Return what a pair would hold without a change of values."""
    home = origins.moved.get(pair, pair)
    expected = origins.predicted.get(pair, home.expected)
    return replace(expected, dtype=pair.actual.dtype)


def _rows_by_tensor(origins: Origins, pair: ShardPair) -> dict[str, list[int]]:
    """Return which rows of a shard hold each Hugging Face tensor that differs."""
    home = origins.moved.get(pair, pair)
    rows = range(pair.actual.shape[0])
    if len(home.hf_names) == 1:
        return {home.hf_names[0]: list(rows)}
    pieces: Iterable[tuple[str | None, object, Sequence[Sequence[int]]]] = home.rank_slice.pieces
    if pair in origins.mistaken and pair in origins.predicted:
        pieces = pieces_by(origins.mistaken[pair][0], home, origins.grid)
    found: dict[str, list[int]] = defaultdict(list)
    for name, _, box in pieces:
        if name is not None and (home is not pair or name not in origins.equal_names):
            found[name] += [row for row in range(*box[0]) if row in rows]
    return {name: found[name] for name in home.hf_names if found.get(name)}


def _sampled(
    origins: Origins, held: Sequence[tuple[ShardPair, list[int]]]
) -> tuple[Assembly, Assembly]:
    """Return the expected and the actual content of some rows of one tensor, of all its ranks.

    They are rows that are known to differ, and others between them.
    """
    expected: list[RecipePart] = []
    actual: list[RecipePart] = []
    most = max(1, MAX_RANK_ROWS // len(held))
    columns = (0, min(MAX_RANK_COLUMNS, held[0][0].actual.shape[1]))
    for pair, rows in held:
        known = set(origins.wrong.get(pair, ())).intersection(rows)
        even = rows[:: -(-len(rows) // max(1, most - len(known)))]
        content = _content(origins, pair)
        for row in sorted({*known, *even}):
            box = ((len(expected), len(expected) + 1), columns)
            of = ((row, row + 1), columns)
            expected.append(RecipePart(content, of, box))
            actual.append(RecipePart(pair.actual, of, box))
    shape = (len(expected), columns[1])
    name = held[0][0].name
    made = (compose(name, shape, held[0][0].actual.dtype, parts) for parts in (expected, actual))
    return next(made), next(made)


def rank_words(measured: Iterable[Mapping[str, Residual]]) -> str:
    """Return the ranks of the differences, in words: `rank 4 in q_proj and v_proj`."""
    ranks: dict[str, set[int]] = defaultdict(set)
    for by_tensor in measured:
        for name, residual in by_tensor.items():
            if residual.rank:
                ranks[name.removesuffix(".weight").rpartition(".")[2]].add(residual.rank)
    modules: dict[str, list[str]] = defaultdict(list)
    for module, found in ranks.items():
        modules[number_ranges(sorted(found))].append(module)
    return ", ".join(
        f"rank {found} in {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"
        for found, names in modules.items()
    )
