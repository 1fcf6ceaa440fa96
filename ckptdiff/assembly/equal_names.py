"""Give both sides of a comparison one spelling where their names differ only in front."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import split_name
from ckptdiff.arch.wrappers import language_front, taken_apart
from ckptdiff.assembly.unwrapping import NameChange, Wrapping, change_of, common_front, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.assembly.recipe import Assembled

    Front = tuple[str, ...]

_SPELLED = {"model", "language_model"}  # fronts that releases of transformers have moved
_LEAST_ALIKE = 0.9  # of the tensors under a front; a vocabulary may be padded on one side


def with_equal_names(a: Assembled, b: Assembled) -> tuple[Assembled, Assembled]:
    """Return both sides; B's unpaired names get the front that A's have.

    A is renamed instead where B's names are those of the rules, or A's are wrapped. Only where the
    tensors of two fronts have the same names behind them, and the same shapes.
    """
    alone_a = {name: t.shape for name, t in a.tensors.items() if name not in b.tensors}
    alone_b = {name: t.shape for name, t in b.tensors.items() if name not in a.tensors}
    if alone_a and alone_b:
        fronts_a, fronts_b = _by_front(alone_a, a), _by_front(alone_b, b)
        for front_a, front_b in _pairs_of_fronts(fronts_a, fronts_b):
            known_b = _are_known(b, front_b, fronts_b[front_b])
            if known_b or (
                _is_wrapped(front_a, front_b) and not _are_known(a, front_a, fronts_a[front_a])
            ):
                a = _renamed(a, alone_a, front_a, front_b)
            else:
                b = _renamed(b, alone_b, front_b, front_a)
    return a, _with_language_front(a, b)


def _are_known(side: Assembled, front: Front, rests: Iterable[str]) -> bool:
    """Return whether the family of a side knows names that begin so."""
    rules = side.architecture
    if rules is None:
        return False
    names = (".".join((*front, rest)) for rest in rests)
    return any(rules.order_of(split_name(name)[0]) is not None for name in names)


def _is_wrapped(front: Front, wanted: Front) -> bool:
    """Return whether a front has more than another one, and not as a known spelling."""
    extra = Counter(front) - Counter(wanted)
    return not extra.keys() <= _SPELLED or any(part in wanted for part in extra)


# By what stands in front: the shape of each tensor, by the rest of its name.
Fronts = dict["Front", dict[str, tuple[int, ...]]]


def _by_front(shapes: Mapping[str, tuple[int, ...]], side: Assembled) -> Fronts:
    own = common_front(side.tensors)
    found: Fronts = defaultdict(dict)
    for name, shape in shapes.items():
        parts = taken_apart(name, own)
        found[parts.front][parts.with_front(())] = shape
    return found


def _pairs_of_fronts(a: Fronts, b: Fronts) -> list[tuple[Front, Front]]:
    """Return the fronts of A and B that name the same tensors, each front once.

    The pair with most names in common goes first. Where a front has as many names in common with
    two others, as of two towers of equal names, nothing says which it is: neither is a pair.
    """
    counts: Counter[tuple[Front, Front]] = Counter()
    homes: dict[str, list[Front]] = defaultdict(list)
    for front, rests in a.items():
        for rest in rests:
            homes[rest].append(front)
    for front_b, rests in b.items():
        for rest in rests:
            for front_a in homes.get(rest, ()):
                counts[front_a, front_b] += 1
    alike = {
        (front_a, front_b): count
        for (front_a, front_b), count in counts.items()
        if _have_equal_shapes(a[front_a], b[front_b], count)
    }
    pairs: list[tuple[Front, Front]] = []
    for most in sorted(set(alike.values()), reverse=True):
        best = [pair for pair, count in alike.items() if count == most]
        of_a, of_b = Counter(one for one, _ in best), Counter(other for _, other in best)
        pairs += [(one, other) for one, other in best if of_a[one] == of_b[other] == 1]
        alike = {
            (one, other): count
            for (one, other), count in alike.items()
            if one not in of_a and other not in of_b
        }
    return pairs


def _have_equal_shapes(
    one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]], common: int
) -> bool:
    """Return whether nearly all of the names that two fronts have in common have one shape."""
    equal = sum(one[rest] == shape for rest, shape in other.items() if rest in one)
    return equal >= _LEAST_ALIKE * common


def _renamed(side: Assembled, alone: Iterable[str], front: Front, wanted: Front) -> Assembled:
    """Return a side whose unpaired names have another front."""
    own = common_front(side.tensors)
    renamed = {}
    for name in alone:
        parts = taken_apart(name, own)
        new = parts.with_front(wanted)
        if parts.front == front and new not in side.tensors:
            renamed[name] = new
    packed = {}
    for name, weight in side.packed.items():
        held = tuple(renamed.get(part, part) for part in weight.parts)
        parts = taken_apart(name, own)
        is_moved = held != weight.parts and parts.front == front
        packed[parts.with_front(wanted) if is_moved else name] = replace(weight, parts=held)
    tensors = {
        renamed.get(name, name): replace(t, name=renamed[name]) if name in renamed else t
        for name, t in side.tensors.items()
    }
    stored = frozenset(side.tensors[name].pieces[0].ref.name for name in renamed)
    kind, text, read = change_of(front, wanted)
    is_fault = _is_wrapped(front, wanted)
    # Part of both names is said as well: `model.visual.` is clearer than `model.`.
    inner = common_front(taken_apart(name, own).with_front(()) for name in renamed)[:1]
    if not is_fault and (inner or kind != "lacks"):
        kind, text, read = "spelled", dotted((*front, *inner)), dotted((*wanted, *inner))
    change = NameChange(kind, text, read, stored, is_fault and side.checkpoint.convention == "hf")
    return _with_change(replace(side, tensors=tensors, packed=packed), change)


def _with_language_front(a: Assembled, b: Assembled) -> Assembled:
    """Return B; if its language model's names begin otherwise than A's, that is said of it."""
    fronts = []
    for side in (a, b):
        name = side.architecture.embedding().hf[0] if side.architecture is not None else ""
        embedding = side.tensors.get(name)
        if side.checkpoint.convention != "hf" or embedding is None:
            return b
        fronts.append(language_front(embedding.pieces[0].ref.name, name))
    front_a, front_b = fronts
    if front_a is None or front_b is None or front_a == front_b:
        return b
    stored = {name for shard in b.checkpoint.shards for name in shard.tensors}
    names = frozenset(name for name in stored if name.startswith(front_b))
    return _with_change(b, NameChange("spelled", front_b, front_a, names, is_fault=False))


def _with_change(side: Assembled, change: NameChange) -> Assembled:
    """Return a side with one more change of its names, and with the note about them.

    A change that says the same of other names is made one with it.
    """
    wrapping = side.wrapping or Wrapping((), len(side.checkpoint.shards[0].tensors))
    notes = tuple(note for note in side.notes if note != wrapping.words)
    changes = list(wrapping.changes)
    for at, other in enumerate(changes):
        if replace(other, names=change.names) == change:
            changes[at] = replace(change, names=other.names | change.names)
            break
    else:
        changes.append(change)
    wrapping = replace(wrapping, changes=tuple(changes))
    return replace(side, wrapping=wrapping, notes=(*notes, wrapping.words))
