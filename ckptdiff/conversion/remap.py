"""The argument of `--undo`: which shards of a checkpoint hold content of other shards."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.naming import split_native
from ckptdiff.errors import BadArgument
from ckptdiff.fault_classes import FAULT_CLASSES
from ckptdiff.text import number_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptdiff.fault_classes import FaultClass

    Pairs = tuple[tuple[int, int], ...]
    Numbers = tuple[tuple[int, ...], ...]  # of each name with one template: its layer, its expert

MAX_RANGE = 100_000  # numbers in `0-31`: no model has more layers, a typing error may


@dataclass(frozen=True, slots=True)
class Remap:
    """One re-mapping: the content that the shards of some tensors hold instead of their own.

    Its text is the fault class, a colon, and a JSON object of the fields that are set.
    """

    kind: FaultClass
    # Native names: each template, with its numbers. Layers are numbered over the whole model.
    tensors: tuple[tuple[str, Numbers], ...]
    written: str | None = None  # the key of the mistake with which they were written
    ranks: Pairs = ()  # a TP rank, and the one whose content it holds
    layers: Pairs = ()  # likewise
    experts: Pairs = ()  # likewise
    names: tuple[tuple[str, str], ...] = ()  # likewise, of templates
    rows: Pairs = ()  # of the tensor's rows in order, runs: (number of rows, first row in B)
    transposed: bool = False

    def text(self) -> str:
        """Return the text that `--undo` takes."""
        what = {f.word: f.write(getattr(self, f.name)) for f in _FIELDS if getattr(self, f.name)}
        return f"{self.kind}:{json.dumps(what, separators=(',', ':'))}"

    @classmethod
    def parse(cls, text: str) -> Remap:
        """Read what `text` returns, of this release or an older one. Raises BadArgument."""
        kind, _, rest = text.partition(":")
        try:
            what: Mapping[str, Any] = json.loads(rest)
            set_ = {f.name: f.read(what[f.word]) for f in _FIELDS if f.word in what}
            if kind not in FAULT_CLASSES or what.keys() - {f.word for f in _FIELDS}:
                raise ValueError(kind)
            if any(one.count("#") != other.count("#") for one, other in set_.get("names", ())):
                raise ValueError("a name takes other numbers than the one it stands for")
            return cls(kind, **set_)  # type: ignore[arg-type]  # looked up above
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadArgument(
                f"'{text[:80]}': take the text `undo` of a finding as it is"
            ) from error

    def split_names(self) -> frozenset[tuple[str, tuple[int, ...]]]:
        """Return (template, numbers) of each tensor, as `split_native` returns them."""
        return frozenset((key, indices) for key, held in self.tensors for indices in held)


def by_template(names: Iterable[str]) -> tuple[tuple[str, Numbers], ...]:
    """Return native names grouped by template, as in `Remap.tensors`."""
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name in names:
        key, indices = split_native(name)
        found[key].add(indices)
    return tuple((key, tuple(sorted(held))) for key, held in sorted(found.items()))


@dataclass(frozen=True, slots=True)
class _Field:
    """How a field of a Remap is read from JSON and written to it."""

    name: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    json_name: str = ""  # where it is not the field's name

    @property
    def word(self) -> str:
        return self.json_name or self.name


def _numbers_of(text: str) -> Numbers:
    """Read `0-31 40`, or `2.0 2.1` for names with two numbers; an empty text has no number."""
    found: list[tuple[int, ...]] = []
    for word in text.split() or [""]:
        first, dash, last = word.partition("-")
        if not dash:
            found.append(tuple(int(n) for n in word.split(".") if n))
        elif int(last) - int(first) > MAX_RANGE:
            raise ValueError(word)
        else:
            found += ((n,) for n in range(int(first), int(last) + 1))
    return tuple(found)


def _text_of(numbers: Numbers) -> str:
    """Write numbers as ranges, such as `0-31 40`; names with two numbers one by one."""
    if any(len(indices) != 1 for indices in numbers):
        return " ".join(".".join(map(str, indices)) for indices in numbers)
    return number_ranges((number for (number,) in numbers), " ")


def _pairs_of(listed: Iterable[tuple[Any, Any]]) -> Pairs:
    return tuple((int(one), int(other)) for one, other in listed)


_FIELDS = (
    _Field("written", str, str),
    *(_Field(name, _pairs_of, list) for name in ("ranks", "layers", "experts")),
    _Field("names", lambda x: tuple((str(k), str(v)) for k, v in x.items()), dict),
    _Field("rows", _pairs_of, list),
    _Field("transposed", bool, bool, json_name="turned"),
    _Field(
        "tensors",
        lambda x: tuple((str(key), _numbers_of(text)) for key, text in x.items()),
        lambda x: {key: _text_of(numbers) for key, numbers in x},
    ),
)
