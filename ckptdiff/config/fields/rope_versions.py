"""What transformers 4 reads of rotary settings, where it is not what transformers 5 reads.

transformers 4 reads `rope_theta` and `rope_scaling`, and knows no `rope_parameters`. transformers 5
reads `rope_parameters`, or else `rope_scaling`, and takes from beside it what is not inside. The
other lines of the table are what transformers 5 reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import as_of_text
from ckptdiff.config.fields.base import equal, is_number, show
from ckptdiff.config.fields.positions import is_rotary
from ckptdiff.config.fields.rope import PERCENTS, ROPE, default_base
from ckptdiff.config.fields.scaling import FACTOR, SCALING
from ckptdiff.config.fields.scaling_kind import scaling_kind
from ckptdiff.config.fixes import EntryFix
from ckptdiff.config.rope_holder import NEW, OLD, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.config.fields.base import ConfigSide

MEANING = "RoPE in transformers 4"
CONSEQUENCE = "The same config.json is another model in transformers 4 than in transformers 5."
_BASE = ROPE[0]
# Of a config's object, what is no scaling.
_NO_SCALING = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True)
class ReadRope:
    """Rotary settings as one release reads them."""

    base: Any
    kind: str  # of scaling, or `none`
    scaling: Mapping[str, Any]  # its numbers
    percent: Any  # the rotated part of a head

    @property
    def factor(self) -> Any:
        return self.scaling.get("factor")

    def text(self) -> str:
        """Return it in words, such as `base 500000, llama3 by 8`."""
        words = f"base {show(self.base)}, "
        words += "unscaled" if self.kind == "none" else self.kind
        return f"{words} by {show(self.factor)}" if self.factor is not None else words


@dataclass(frozen=True, slots=True)
class Versions:
    """A line of the table: what each side is in transformers 4, and why that is worth a line."""

    a: str
    b: str
    is_conflict: bool
    note: str
    fix: EntryFix


def compare_versions(a: ConfigSide, b: ConfigSide) -> Versions | None:
    """Return what transformers 4 reads, if it reads a side otherwise than transformers 5 does.

    It is a conflict only where a field says so: what transformers 4 falls back to, as it does not
    know the object of transformers 5, is a hint.
    """
    if not all(is_rotary(side) and SCALING[0].read(side) is not None for side in (a, b)):
        return None
    new = [_in_5(a), _in_5(b)]
    old = [_in_4(side) if side.kind == "hf" else new[n] for n, side in enumerate((a, b))]
    odd = [n for n in (0, 1) if old[n] != new[n]]
    if not odd or not all(is_number(one.base) for one in (*old, *new)):
        return None
    notes = [
        f"{'AB'[n]} is {new[n].text()} in transformers 5"
        + (f": transformers 4 does not read {NEW}" if isinstance((a, b)[n].get(NEW), dict) else "")
        for n in odd
    ]
    contradicts = any(_contradicts((a, b)[n], new[n]) for n in odd)
    same = (
        equal(old[0].base, old[1].base)
        and old[0].kind == old[1].kind
        and (old[0].factor == old[1].factor or None in (old[0].factor, old[1].factor))
    )
    if same and new[0] == new[1]:
        return None
    mended = max(n for n in odd if _contradicts((a, b)[n], new[n])) if contradicts else odd[-1]
    return Versions(
        old[0].text(),
        old[1].text(),
        is_conflict=contradicts and not same,
        note="; ".join(notes),
        fix=EntryFix(_entries(new[mended]), "config.json", "B" if mended else "A"),
    )


def _entries(read: ReadRope) -> str:
    """Return the entries, as JSON, that both releases read as this."""
    entries: dict[str, Any] = {"rope_theta": float(read.base)}
    if read.kind != "none":
        entries["rope_scaling"] = {"rope_type": read.kind, **read.scaling}
    return json.dumps(entries)[1:-1]


def contradictions(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in sentences without a full stop, which of two rotary settings of a file counts."""
    config = as_of_text(config)
    new, old = config.get(NEW), config.get(OLD)
    if not isinstance(new, dict):
        return
    beside, inside = config.get("rope_theta"), new.get("rope_theta")
    if isinstance(old, dict) and old:
        read = {"rope_theta": beside, "rope_type": old.get("type"), **old}
        if any(read[k] not in (None, value) for k, value in new.items() if k in read):
            yield f"{OLD} and {NEW} disagree: transformers 4 and 5 read {OLD} alone"
    elif is_number(beside) and is_number(inside) and not equal(beside, inside):
        yield (
            f"rope_theta is {show(beside)} and {NEW}.rope_theta {show(inside)}: transformers 4 "
            "takes the first, transformers 5 the second"
        )


def _contradicts(side: ConfigSide, read: ReadRope) -> bool:
    """Return whether the field that transformers 4 reads states another base."""
    theta = side.get("rope_theta")
    return theta is not None and not equal(theta, read.base)


def _in_5(side: ConfigSide) -> ReadRope:
    """Return what the other lines of the table read; of a Megatron side, what there is."""
    base = _BASE.read(side)
    if side.kind == "megatron":
        factor = FACTOR.read(side) if scaling_kind(side) != "none" else None
        scaling = {} if factor is None else {"factor": factor.value}
        return ReadRope(None if base is None else base.value, scaling_kind(side), scaling, None)
    inside = held(side.fields)
    percent = inside.get("partial_rotary_factor")
    percent = _beside(side) if percent is None else percent
    return _rope(side, None if base is None else base.value, inside, percent)


def _in_4(side: ConfigSide) -> ReadRope:
    theta = side.get("rotary_emb_base" if side.family == "gpt_neox" else "rope_theta")
    base = default_base(side, release=4) if theta is None else theta
    old = side.get(OLD)
    return _rope(side, base, old if isinstance(old, dict) else {}, _beside(side))


def _beside(side: ConfigSide) -> Any:
    """Return the rotated part of a head that is stated outside of any object."""
    found = side.get("partial_rotary_factor")
    return side.get("rotary_pct") if found is None else found


def _rope(side: ConfigSide, base: Any, inside: Mapping[str, Any], percent: Any) -> ReadRope:
    kind = inside.get("rope_type", inside.get("type"))
    scaling = {k: v for k, v in inside.items() if k not in _NO_SCALING and v is not None}
    if kind in (None, "default") or (kind in ("linear", "yarn") and scaling.get("factor") == 1):
        kind, scaling = "none", {}
    if percent is None:
        percent = PERCENTS.get(side.family or "", 1.0)
    return ReadRope(base, str(kind), scaling, percent)
