"""Whether a config.json says all that Megatron's args say, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.fields import FIELDS
from ckptdiff.config.fields.biases import unsaid_biases
from ckptdiff.config.unknown_args import unknown_args
from ckptdiff.text import config_value_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from ckptdiff.config.fields import ConfigField, ConfigSide, Stated

_PARTS = {"qkv": "the QKV projection", "output": "attention's output", "mlp": "the MLP"}


def unset_clauses(unset: Iterable[tuple[ConfigField, Stated]]) -> Iterator[str]:
    """Yield a clause for each field whose value no entry of config.json sets."""
    for field, reading in unset:
        yield f"{field.name} is {_shown(reading)}"


def unsayable_args(side: ConfigSide) -> Iterator[str]:
    """Yield a clause for each of Megatron's args that is on and that no config.json says."""
    for one in unknown_args(side.fields):
        if one.does is not None:
            spelled = side.spelled.get(one.name, one.name)
            yield f"{spelled} is {config_value_text(one.value)} ({one.does})"


def args_of_nobody(side: ConfigSide) -> Iterator[str]:
    """Yield a note of the args that are on and whose meaning nobody knows."""
    names = [one.text for one in unknown_args(side.fields) if one.does is None]
    if names:
        yield f"{', '.join(names)}: args of no known release, for which config.json has no entry"


def not_said(side: ConfigSide, written: ConfigSide, said: Collection[str]) -> Iterator[str]:
    """Yield a clause for each thing that a Megatron side says and the config.json of it does not.

    Both sides are of one family, and the second is read as transformers reads it. `said` are
    clauses that there are already.
    """
    yield from unsayable_args(side)
    for part in unsaid_biases(side, written):
        yield f"{_PARTS[part]} has biases among the tensors, and none by args or config.json"
    for field in FIELDS:
        if not (field.has_effect(side) and field.has_effect(written)):
            continue
        if any(clause.startswith(f"{field.name} is ") for clause in said):
            continue
        here, there = field.read(side), field.read(written)
        if field.why_harmless(side, written) is not None:
            continue
        if here is None:
            if side.yaml is None:  # else one note names all of them
                yield f"{field.name} is not said in Megatron's args"
            continue
        value = field.off if there is None else there.value
        if field.same(here.value, value):
            continue
        if there is None:
            yield f"{field.name} is {_shown(here)}"
            continue
        yield f"{field.name} is {_shown(here)} and would be {_shown(there)} in config.json"


def _shown(reading: Stated) -> str:
    return config_value_text(reading.raw if reading.raw is not None else reading.value)
