"""What `--undo` says: which places of a checkpoint hold other content than their own."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.naming import split_native
from ckptdiff.errors import BadArgument
from ckptdiff.fault_classes import FAULT_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptdiff.fault_classes import FaultClass

    Pairs = tuple[tuple[int, int], ...]
    Numbers = tuple[tuple[int, ...], ...]  # what a template is filled with, once for each name

MANY = 100_000  # layers, beyond which a text names none that there are


@dataclass(frozen=True, slots=True)
class Remap:
    """One re-mapping: what the places of some tensors hold instead of their own content.

    Its text describes itself: the class of the fault, a colon, and a JSON object of what is set.
    """

    kind: FaultClass
    # Native names, layers numbered over the whole model, by their templates.
    tensors: tuple[tuple[str, Numbers], ...]
    written: str | None = None  # the key of a mistake
    ranks: Pairs = ()  # a place, and the one whose content it holds
    layers: Pairs = ()
    experts: Pairs = ()
    names: tuple[tuple[str, str], ...] = ()  # templates likewise
    rows: Pairs = ()  # runs of a tensor's rows: how many, and where they lie
    transposed: bool = False

    def text(self) -> str:
        """Return it as `--undo` takes it."""
        what = {f.word: f.write(getattr(self, f.name)) for f in _FIELDS if getattr(self, f.name)}
        return f"{self.kind}:{json.dumps(what, separators=(',', ':'))}"

    @classmethod
    def parse(cls, text: str) -> Remap:
        """Read a text. Raises BadArgument."""
        kind, _, rest = text.partition(":")
        try:
            what: Mapping[str, Any] = json.loads(rest)
            set_ = {f.name: f.read(what[f.word]) for f in _FIELDS if f.word in what}
            if kind not in FAULT_CLASSES:
                raise ValueError(kind)
            return cls(kind, **set_)  # type: ignore[arg-type]  # looked up above
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BadArgument(
                f"'{text[:80]}': take the text `undo` of a finding as it is"
            ) from error

    def split_names(self) -> frozenset[tuple[str, tuple[int, ...]]]:
        """Return its tensors' names as `split_native` splits them."""
        return frozenset((key, indices) for key, held in self.tensors for indices in held)


def by_template(names: Iterable[str]) -> tuple[tuple[str, Numbers], ...]:
    """Return native names as `Remap.tensors` has them."""
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name in names:
        key, indices = split_native(name)
        found[key].add(indices)
    return tuple((key, tuple(sorted(held))) for key, held in sorted(found.items()))


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a Remap, and its JSON."""

    name: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    called: str = ""  # in the text, where that is another word

    @property
    def word(self) -> str:
        return self.called or self.name


def _numbers_of(text: str) -> Numbers:
    """Read `0-31`, or `2.0 2.1` where a name has several numbers; nothing for a name without."""
    found: list[tuple[int, ...]] = []
    for word in text.split() or [""]:
        first, dash, last = word.partition("-")
        if not dash:
            found.append(tuple(int(n) for n in word.split(".") if n))
        elif int(last) - int(first) > MANY:
            raise ValueError(word)
        else:
            found += ((n,) for n in range(int(first), int(last) + 1))
    return tuple(found)


def _text_of(numbers: Numbers) -> str:
    """Write runs of the first number, or all numbers where there are several.

    A model has few templates and many layers: `0-31` says as much as 32 names.
    """
    if any(len(indices) != 1 for indices in numbers):
        return " ".join(".".join(map(str, indices)) for indices in numbers)
    runs: list[list[int]] = []
    for (number,) in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _pairs_of(listed: Iterable[tuple[Any, Any]]) -> Pairs:
    return tuple((int(one), int(other)) for one, other in listed)


_FIELDS = (
    _Field("written", str, str),
    *(_Field(name, _pairs_of, list) for name in ("ranks", "layers", "experts")),
    _Field("names", lambda x: tuple((str(k), str(v)) for k, v in x.items()), dict),
    _Field("rows", _pairs_of, list),
    _Field("transposed", bool, bool, called="turned"),
    _Field(
        "tensors",
        lambda x: tuple((str(key), _numbers_of(text)) for key, text in x.items()),
        lambda x: {key: _text_of(numbers) for key, numbers in x},
    ),
)
