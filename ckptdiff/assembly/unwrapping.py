"""Read a checkpoint's names without what wrappers have put in front of them or inside."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.arch import find_architecture
from ckptdiff.arch.templates import split_name
from ckptdiff.arch.wrappers import (
    ADAPTER_PARTS,
    FRONTS,
    MOST_PARTS,
    WRAPPERS,
    adapter_name,
    fronts_without,
    is_known_huggingface,
    is_known_native,
    model_front,
    taken_apart,
)
from ckptdiff.assembly.derived_buffers import is_derived

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint

    Front = tuple[str, ...]

ChangeKind = Literal["front", "inside", "lacks", "spelled"]


@dataclass(frozen=True, slots=True)
class NameChange:
    """One difference between stored names and those that they are read as.

    `front` and `inside` are left out, `lacks` is added in front, `spelled` replaces one front by
    another that loaders may know as well.
    """

    kind: ChangeKind
    stored: str  # the parts that stand in the files; empty for `lacks`
    read: str  # the parts that are read instead; empty where they are left out
    names: frozenset[str]  # as stored
    is_fault: bool  # a loader looks for the names that are read, and does not find them

    def words(self, of: int, whose: str = "") -> str:
        """Return the change in words, for a checkpoint with so many names; `whose` is ` of B`."""
        count = len(self.names)
        who, has = ("every name", "has") if count == of else (f"{count} of {of} names", "have")
        who += whose
        match self.kind:
            case "front" if not self.read:
                return f"{who} {has} `{self._whole_front()}` in front"
            case "front":
                return f"{who} {has} `{self.stored}` in front in place of `{self.read}`"
            case "inside":
                return f"{who} {has} `{self.stored}` inside"
            case "lacks":
                return f"{who} {'lacks' if has == 'has' else 'lack'} `{self.read}` in front"
            case "spelled":
                verb = "begins" if has == "has" else "begin"
                return f"{who} {verb} with `{self.stored}` where the other side has `{self.read}`"

    def _whole_front(self) -> str:
        """Return what is left out, with the `module.` behind it that the rules leave out anyway."""
        front = f"{self.stored}module."
        return front if all(name.startswith(front) for name in self.names) else self.stored


@dataclass(frozen=True, slots=True)
class Wrapping:
    """How the names of a checkpoint are read that wrappers have changed."""

    changes: tuple[NameChange, ...]
    of: int  # names in the checkpoint

    @property
    def words(self) -> str:
        """What wrappers have done to the names: one sentence, without its full stop."""
        return ", and ".join(change.words(self.of) for change in self.changes)

    @property
    def written(self) -> str:
        """How a conversion writes these names."""
        added = all(change.kind == "lacks" for change in self.changes)
        return "names are written with it" if added else "names are written without it"

    def beyond(self, other: Wrapping | None) -> tuple[NameChange, ...]:
        """Return the changes that the other side's names do not have too."""
        shared = {(c.kind, c.stored, c.read) for c in other.changes} if other is not None else set()
        return tuple(c for c in self.changes if (c.kind, c.stored, c.read) not in shared)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A checkpoint whose tensors are named without wrappers; the refs keep the stored names."""

    checkpoint: Checkpoint
    wrapping: Wrapping | None = None  # None: the names are as stored
    has_adapter: bool = False


def unwrapped(checkpoint: Checkpoint) -> Unwrapped:
    """Return a checkpoint named without wrappers. Names that the rules know stay as they are."""
    if checkpoint.convention == "meta":
        return Unwrapped(checkpoint)
    stored = list(dict.fromkeys(name for shard in checkpoint.shards for name in shard.tensors))
    keys = {name: split_name(name)[0] for name in stored}
    plan = _Plan(checkpoint, Counter(keys.values()))
    if not plan.unknown:
        return Unwrapped(checkpoint, None, plan.has_adapter)
    renamed = {name: plan.renamed(name) for name in stored if keys[name] in plan.unknown}
    renamed = _without_collisions({n: new for n, new in renamed.items() if new != n}, stored)
    if not renamed:
        return Unwrapped(checkpoint, None, plan.has_adapter)
    shards = tuple(
        replace(shard, tensors={renamed.get(n, n): ref for n, ref in shard.tensors.items()})
        for shard in checkpoint.shards
    )
    wrapping = Wrapping(tuple(plan.changes(renamed)), len(stored))
    return Unwrapped(replace(checkpoint, shards=shards), wrapping, plan.has_adapter)


def _without_collisions(renamed: Mapping[str, str], stored: Iterable[str]) -> dict[str, str]:
    """Return the new names without those that two tensors would have."""
    counts = Counter(renamed.get(name, name) for name in stored)
    return {name: new for name, new in renamed.items() if counts[new] == 1}


class _Plan:
    """Which fronts are read as which, chosen so that the rules know most of the names."""

    def __init__(self, checkpoint: Checkpoint, counts: Mapping[str, int]) -> None:
        self.is_huggingface = checkpoint.convention == "hf"
        settings = checkpoint.config or {}
        self.family = find_architecture(settings) if self.is_huggingface else None
        self.counts = counts
        self.has_adapter = any(map(adapter_name, counts))
        self.unknown = {key for key in counts if _is_wrapped(key) or not self._knows(key)}
        # Parts that stand in front of every name are left out as well where that explains them.
        self.own = self._own_front() if len(self.unknown) == len(counts) else ()
        self.fronts: dict[Front, Front] = {}
        if self.unknown:
            self._choose()

    def _knows(self, key: str) -> bool:
        if is_derived(key):
            return True
        if self.is_huggingface:
            return is_known_huggingface(key, self.family)
        return is_known_native(key)

    def _own_front(self) -> Front:
        """Return what stands in front of all names, or of most and leaves known names.

        A head beside the model may have names of its own, such as those for rewards.
        """
        common = common_front(self.counts)
        if common or not self.counts:
            return common
        found: Counter[Front] = Counter()
        for key, count in self.counts.items():
            parts = key.split(".")
            for at in range(1, min(len(parts), MOST_PARTS)):
                if self._knows(".".join(parts[at:])):
                    found[tuple(parts[:at])] += count
                    break
        front, count = max(found.items(), key=lambda item: item[1], default=((), 0))
        return front if 2 * count > sum(self.counts.values()) else ()

    def _choose(self) -> None:
        """Choose what each front is read as: the fewest parts left out that most names ask for."""
        groups: dict[Front, list[str]] = defaultdict(list)  # templates by what stands in front
        for key in self.unknown:
            groups[taken_apart(key, self.own).front].append(key)
        undecided = []
        for front, keys in groups.items():
            choices = list(fronts_without(front))
            if self.family is not None:
                choices += [(*model_front(self.family), *choices[0])]
            known = [
                sum(
                    self.counts[key]
                    for key in keys
                    if self._knows(taken_apart(key, self.own).with_front(choice))
                )
                for choice in choices
            ]
            best = max(range(len(choices)), key=lambda i: known[i])
            self.fronts[front] = choices[best] if known[best] else choices[0]
            if not known[best]:
                undecided.append(front)
        decided = {f: new for f, new in self.fronts.items() if f not in undecided}
        outer = _outer(decided) if len(self.unknown) == len(self.counts) else ()
        if any(front[: len(outer)] != outer for front in groups):
            outer = ()
        for front in undecided if outer else ():
            self.fronts[front] = next(fronts_without(front[len(outer) :]))
        if self.is_huggingface and self.family is None and not outer:
            # Without rules for the family, a few names may be those of another one by chance.
            self.fronts = {front: next(fronts_without(front)) for front in groups}

    def renamed(self, name: str) -> str:
        """Return a stored name as it is read."""
        parts = taken_apart(name, self.own)
        return parts.with_front(self.fronts.get(parts.front, parts.front))

    def changes(self, renamed: Iterable[str]) -> Iterable[NameChange]:
        """Yield each change of names, with the stored names that it is about."""
        found: dict[tuple[ChangeKind, str, str], set[str]] = defaultdict(set)
        for name in renamed:
            parts = taken_apart(name, self.own)
            read = self.fronts.get(parts.front, parts.front)
            for part in parts.inside:
                found["inside", dotted((part,)), ""].add(name)
            if read != parts.front:
                found[change_of(parts.front, read)].add(name)
        for (kind, stored, read_as), names in sorted(found.items()):  # `front` first
            yield NameChange(
                kind,
                stored,
                read_as,
                frozenset(names),
                kind != "lacks" and self._is_fault(stored),
            )

    def _is_fault(self, stored: str) -> bool:
        """Return whether a loader misses names for these parts in them."""
        parts = set(stored.split(".")) - {""}
        if self.has_adapter:
            parts.difference_update(ADAPTER_PARTS)  # a model with the adapter has them
            return not parts <= {"model"}
        return self.is_huggingface or not parts <= FRONTS.keys()


def _is_wrapped(key: str) -> bool:
    return not WRAPPERS.keys().isdisjoint(key.split("."))


def common_front(keys: Iterable[str]) -> Front:
    """Return the parts that every name begins with, without numbers and last parts."""
    split = [key.split(".") for key in keys]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) != 1 or parts[0] == "#":
            break
        common.append(parts[0])
    shortest = min(map(len, split), default=1)
    return tuple(common[: shortest - 1])


def _outer(fronts: Mapping[Front, Front]) -> Front:
    """Return what is left out before each front; nothing if it is not the same for all."""
    removed = {
        front[: len(front) - len(read)] if read == front[len(front) - len(read) :] else ()
        for front, read in fronts.items()
    }
    return removed.pop() if len(removed) == 1 else ()


def change_of(front: Front, read: Front) -> tuple[ChangeKind, str, str]:
    """Return kind, stored and read text of what is done to a front."""
    if len(read) > len(front):
        return "lacks", "", dotted(read[: len(read) - len(front)])
    removed = len(front) - len(read)
    for at in range(len(read) + 1):
        if (*front[:at], *front[at + removed :]) == read:
            return "inside" if at else "front", dotted(front[at : at + removed]), ""
    while front[-1:] == read[-1:]:  # what both end in is no change
        front, read = front[:-1], read[:-1]
    return "front", dotted(front), dotted(read)


def dotted(parts: Iterable[str]) -> str:
    return "".join(f"{part}." for part in parts)


def changed_names(a: Assembled, b: Assembled) -> tuple[NameChange, ...]:
    """Return what wrappers have changed in the names of B, beyond what A's names have as well."""
    return b.wrapping.beyond(a.wrapping) if b.wrapping is not None else ()
