"""Take a fault out of a checkpoint: its tensors, read the way that they were wrongly written."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.mistakes import mistakes
from ckptdiff.arch.naming import split_native
from ckptdiff.assembly.compose import RecipePart, compose, transpose
from ckptdiff.errors import BadArgument
from ckptdiff.resharding.shard_pairs import shard_grid, shard_pairs, with_padding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair


MANY = 100_000  # layers, beyond which a text names none that there are


@dataclass(frozen=True, slots=True)
class Remap:
    """One re-mapping: what the places of some tensors hold instead of their own content."""

    kind: str
    tensors: frozenset[str]  # native names, layers numbered over the whole model
    written: str | None = None  # the key of a mistake
    ranks: Mapping[int, int] = field(default_factory=dict)
    layers: Mapping[int, int] = field(default_factory=dict)
    experts: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)  # templates
    is_turned: bool = False
    rows: Sequence[tuple[int, int]] = ()  # runs of a tensor's rows: how many, and where they lie

    @classmethod
    def parse(cls, text: str) -> Remap:
        """Read a finding's `undo`. Raises BadArgument."""
        kind, _, rest = text.partition(":")
        try:
            what: dict[str, Any] = json.loads(rest)
            pairs = {
                word: {int(there): int(here) for there, here in what.get(word, [])}
                for word in ("ranks", "layers", "experts")
            }
            names = {str(k): str(v) for k, v in what.get("names", {}).items()}
            tensors = frozenset(_unpacked(what["tensors"]))
            rows = [(int(count), int(at)) for count, at in what.get("rows", [])]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadArgument(
                f"--undo '{text[:80]}': take the text `undo` of a finding as it is"
            ) from error
        written = what.get("written")
        return cls(
            kind, tensors, None if written is None else str(written), names=names,
            is_turned=bool(what.get("turned")), rows=rows, **pairs,
        )  # fmt: skip


def packed_names(names: Collection[str]) -> dict[str, str]:
    """Return native names as templates, each with the numbers that it is filled with.

    A model has few templates and many layers: `0-31` says as much as 32 names.
    """
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        key, indices = split_native(name)
        found[key].append(indices)
    return {key: _numbers_text(sorted(held)) for key, held in sorted(found.items())}


def _numbers_text(held: list[tuple[int, ...]]) -> str:
    """Return runs of the first number, or all numbers where there are several: `2.0 2.1`."""
    if any(len(indices) != 1 for indices in held):
        return " ".join(".".join(map(str, indices)) for indices in held)
    runs: list[list[int]] = []
    for (number,) in held:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _unpacked(names: Mapping[str, str]) -> Iterator[str]:
    for key, text in names.items():
        for word in text.split() or [""]:
            first, dash, last = word.partition("-")
            if dash:
                if int(last) - int(first) > MANY:
                    raise ValueError(word)
                yield from (_filled(key, [n]) for n in range(int(first), int(last) + 1))
            else:
                yield _filled(key, [int(n) for n in word.split(".") if n])


def undone(side: Assembled, specs: Sequence[Remap]) -> Assembled:
    """Return a side with faults taken out, the last first: it is assembled from other places.

    Raises BadArgument if a spec does not fit the checkpoint.
    """
    for spec in reversed(specs):
        side = _undone(side, spec)
    return side


def _undone(side: Assembled, spec: Remap) -> Assembled:
    grid = shard_grid(side, side)
    if grid is None:
        raise BadArgument(f"--undo {spec.kind}: no rules are known for {side.checkpoint.root}")
    held = {(p.name, p.share.rank): p for p in shard_pairs(grid) if not p.is_copy}
    parts: dict[str, list[RecipePart]] = defaultdict(list)
    ordered: dict[str, Assembly] = {}
    seen = set()
    for place in held.values():
        if place.name not in spec.tensors:
            continue
        seen.add(place.name)
        if spec.rows:
            found = (side.tensors[name] for name in place.share.hf)
            ordered.update((was.name, _in_order(was, spec)) for was in found)
            continue
        home = held.get(_home(place, spec))
        if home is None:
            raise BadArgument(f"--undo {spec.kind}: {place.name} has no such place to come from")
        for source, of, box in _pieces(home, spec, grid):
            if source is not None:
                parts[source].append(RecipePart(place.stored or place.actual, box, of))
    if not seen:
        raise BadArgument(f"--undo {spec.kind}: none of its tensors is in {side.checkpoint.root}")
    tensors = {**side.tensors, **ordered}
    for name, filled in parts.items():
        was = side.tensors[name]
        transposed = grid.architecture.stores_transposed(_template(name))
        shape = was.shape[::-1] if transposed else was.shape
        made = compose(name, shape, was.dtype, filled)
        tensors[name] = _kept(was, transpose(made) if transposed or spec.is_turned else made)
    return replace(side, tensors=tensors)


def _home(place: ShardPair, spec: Remap) -> tuple[str, int]:
    """Return the place whose content this one holds."""
    key, indices = split_native(place.name)
    numbers = list(indices)
    if place.layer is not None and numbers:
        numbers[0] += spec.layers.get(place.layer, place.layer) - place.layer
    if place.expert is not None:
        numbers[-1] = spec.experts.get(place.expert, place.expert)
    name = _filled(spec.names.get(key, key), numbers)
    return name, spec.ranks.get(place.share.rank, place.share.rank)


def _pieces(home: ShardPair, spec: Remap, grid: ShardGrid) -> list[tuple[str | None, Any, Any]]:
    """Return which boxes of which Hugging Face tensors a place's content is, as it was written."""
    if spec.written is None:
        return home.share.pieces
    size = grid.size(home.rule)
    found = mistakes(home.rule, grid.config, size)
    mistake = next((m for m in found if m.key == spec.written), None)
    if mistake is None:
        raise BadArgument(f"--undo {spec.kind}: {home.name} cannot have been written that way")
    shapes = {name: grid.b.tensors[name].shape for name in home.share.hf}
    return list(mistake.pieces(home.share.hf, shapes, grid.config, size, home.share.rank))


def _in_order(tensor: Assembly, spec: Remap) -> Assembly:
    """Return a tensor with its rows taken from where they lie, behind its end too."""
    whole = with_padding(tensor)
    rest = tuple((0, size) for size in tensor.shape[1:])
    parts, at = [], 0
    for count, start in spec.rows:
        if count < 1 or start < 0 or start + count > whole.shape[0]:
            raise BadArgument(f"--undo {spec.kind}: {tensor.name} has no such rows")
        parts.append(RecipePart(whole, ((start, start + count), *rest), ((at, at + count), *rest)))
        at += count
    if at != tensor.shape[0]:
        raise BadArgument(f"--undo {spec.kind}: {tensor.name} has another number of rows")
    return compose(tensor.name, tensor.shape, tensor.dtype, parts)


def _filled(key: str, numbers: Sequence[int]) -> str:
    found = iter(numbers)
    return "".join(str(next(found)) if c == "#" else c for c in key)


def _template(name: str) -> str:
    from ckptdiff.arch.base import split_name

    return split_name(name)[0]


def _kept(was: Assembly, made: Assembly) -> Assembly:
    return replace(was, pieces=made.pieces)
