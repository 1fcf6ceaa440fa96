"""Claims of neurons or heads under other numbers: rows and columns moved alike change no output."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.asking import first_columns
from ckptdiff.compose import turned
from ckptdiff.naming_faults import Claim
from ckptdiff.places import chosen_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly import Assembly
    from ckptdiff.places import Place
    from ckptdiff.study import Study

_ATTENTION = "self_attention."
_OF_HEADS = ("linear_qkv.weight", "linear_qkv.bias", "linear_proj.weight")
_OF_NEURONS = ("linear_fc1.weight", "linear_fc1.bias", "linear_fc2.weight")


def renumbered(study: Study, left: list[Place]) -> Iterator[Claim]:
    """Yield what is in another order in all tensors that must agree on it: it is no fault."""
    named = {p.name: p for p in study.firsts.values()}
    groups: dict[str, list[Place]] = defaultdict(list)
    for place in left:
        if not place.is_copy:
            groups[_stem(place.name)].append(place)
    for stem, found in groups.items():
        if stem.endswith(_ATTENTION) and _heads_moved_alike(study, stem, named):
            yield Claim(
                "QKV-HEADMAP", "alike", tuple(found),
                "heads are under other numbers, with the output's columns",
                "attention heads were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip
        elif stem and not stem.endswith(_ATTENTION) and _neurons_moved_alike(study, stem, named):
            yield Claim(
                "FC1-TPLAYOUT", "alike", tuple(found),
                "neurons of the MLP are under other numbers, with the output's columns",
                "the MLP's neurons were sorted, or numbered anew", is_info=True, is_lost=True,
            )  # fmt: skip


def _stem(name: str) -> str:
    """Return how the names begin that must agree on an order with this one; or nothing."""
    ends = (end for end in (*_OF_HEADS, *_OF_NEURONS) if name.endswith(end))
    return name.removesuffix(next(ends, name))


def _neurons_moved_alike(study: Study, stem: str, named: dict[str, Place]) -> bool:
    """Ask whether gate, up and the columns of down have one order."""
    one, bias, other = (named.get(stem + end) for end in _OF_NEURONS)
    if one is None or other is None:
        return False
    columns = _order(study, other)
    if columns is None or len(set(columns)) < len(columns):
        return False
    blocks = 1 if one.rule.block_rows is None else len(one.rule.block_rows(study.grid.config))
    rows = [block * len(columns) + at for block in range(blocks) for at in columns]
    return _is_so(study, other, columns) and all(
        _is_so(study, place, rows) for place in (one, bias) if place is not None
    )


def _heads_moved_alike(study: Study, stem: str, named: dict[str, Place]) -> bool:
    """Ask whether whole groups of heads moved, or query heads inside of one, with their columns."""
    config = study.grid.config
    groups, each, d = config.num_query_groups, config.heads_per_group, config.kv_channels
    found = [named.get(stem + end) for end in _OF_HEADS]
    qkv, bias, proj = found
    if qkv is None or proj is None or study.grid.architecture.wide_qk_norm:
        return False
    if any(p.rule.dim is not None and n.startswith(stem) and p not in found
           for n, p in named.items()):  # fmt: skip
        return False
    rows = _order(study, qkv)
    q = groups * each * d
    if rows is None or len(rows) != q + 2 * groups * d:
        return False
    heads = [rows[h * d] // d for h in range(groups * each)]
    keys = [(rows[q + g * d] - q) // d for g in range(groups)]
    values = [rows[q + groups * d + i] - q - groups * d for i in range(groups * d)]
    if any(head // each != keys[h // each] for h, head in enumerate(heads)):
        return False
    # Values may be in any order inside their head: it is the output's columns that must follow.
    if any(value // d != keys[i // d] for i, value in enumerate(values)):
        return False
    expected = [head * d + i for head in heads for i in range(d)]
    expected += [q + key * d + i for key in keys for i in range(d)]
    expected += [q + groups * d + value for value in values]
    columns = [
        head * d + values[h // each * d + i] % d for h, head in enumerate(heads) for i in range(d)
    ]
    return (
        len(set(expected)) == len(expected)
        and _is_so(study, qkv, expected)
        and _is_so(study, proj, columns)
        and (bias is None or _is_so(study, bias, expected))
    )


def _order(study: Study, place: Place) -> list[int] | None:
    """Return which row (or column) each one of a rule's tensors is, one tensor below the other.

    None where one is none of them, or there twice.
    """
    found: list[int] = []
    before = 0
    for one, other in _pairs(study, place):
        match = study.ask.match(first_columns(one), first_columns(other))
        if not match or min(match) < 0:
            return None
        found += [before + row for row in match]
        before += one.shape[0]
    return found


def _is_so(study: Study, place: Place, order: list[int]) -> bool:
    """Ask whether a rule's tensors hold all their rows (or columns) in this order."""
    before = 0
    pairs = []
    for one, other in _pairs(study, place):
        rows = order[before : before + one.shape[0]]
        if any(not before <= row < before + one.shape[0] for row in rows):
            return False
        pairs.append((chosen_rows(one, [row - before for row in rows]), other))
        before += one.shape[0]
    return before == len(order) and all(study.ask.alike(pairs))


def _pairs(study: Study, place: Place) -> Iterator[tuple[Assembly, Assembly]]:
    """Yield A's and B's tensors of a rule, cut along what are rows then."""
    for name in place.share.hf:
        pair = (study.grid.a.tensors[name], study.grid.b.tensors[name])
        one, other = (replace(tensor, dtype=place.actual.dtype) for tensor in pair)
        if len(one.shape) > 1 and (place.rule.dim == 1) != place.rule.transposed:
            one, other = turned(one), turned(other)
        yield one, other
