"""The state dict in a file of torch.save, under whatever key it lies, and what lies beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Entry, TensorRef
from ckptdiff.errors import CkptDiffError, NotACheckpoint, UnsupportedLayout
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.inert import Placeholder
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

# The keys under which training programs put the weights: PyTorch Lightning, nanoGPT and others,
# the PyTorch tutorials, DeepSpeed.
NESTED = ("state_dict", "model", "model_state_dict", "module")
MAX_DEPTH = 3  # such keys one below the other
MAX_PARTS = 64  # of a list with a state dict in it, and a step or an optimizer
MOST_NAMED = 100  # characters of a name beside the weights that are told
_MAX_STATES = 8  # state dicts that a note names
_DISTRIBUTED = ("DTensor", "ShardedTensor")  # each file holds one rank's part of every tensor
# Keys of dictionaries that hold tensors and are no model.
_NO_MODEL = re.compile(r"optim|sched|rng|random|scaler|loss|metric", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StateDict:
    """What one file holds."""

    tensors: dict[str, TensorRef]
    beside: tuple[Entry, ...]  # values and tensors that are no weights: epoch, optimizer, …
    notes: tuple[str, ...] = ()  # for the user: which of what the file holds was taken


@dataclass(slots=True)
class FoundWeights:
    """The dictionary in a file that has the weights, and what lies beside it by key."""

    weights: dict[Any, Any]
    beside: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # that lead to it
    several: list[str] = field(default_factory=list)  # the keys in it, if each is a state dict

    def notes(self, file: Path) -> tuple[str, ...]:
        """Return what was taken and what was not, where there was a choice."""
        others = _states(self.beside)
        if self.several:
            return (
                f"{file.name} holds several state dicts, {_listed(self.several)}: all are read, "
                "and names begin with these keys",
            )
        if not self.keys:
            return ()
        more = f"; {_listed(others)} {'has' if len(others) == 1 else 'have'} weights as well"
        under = shown(".".join(self.keys))
        return (f"the weights under {under} in {file.name} are read{more if others else ''}",)


def read_state_dict(file: Path) -> StateDict:
    """Return the weights in a file of torch.save, and everything else in it.

    Raises CorruptFile, UnreadableFile, NotACheckpoint if it holds no dictionary of tensors, or
    UnsupportedLayout for tensors that are not plain.
    """
    found = find_weights(file)
    try:
        tensors = tree.weights(found.weights)
    except CkptDiffError as error:
        if any(kind in str(error) for kind in _DISTRIBUTED):
            raise UnsupportedLayout(
                f"{file}: holds one rank's part of every tensor (DTensor). Merge the ranks first, "
                "with the program that trained it, and give the merged folder"
            ) from error
        raise type(error)(f"{file}: {error}") from error
    if not tensors:
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    beside = tree.extra_states(found.weights)
    for name, value in found.beside.items():
        beside += tree.entries(name, value)
    return StateDict(tensors, tuple(beside), found.notes(file))


def find_weights(file: Path) -> FoundWeights:
    """Return the dictionary in a file that has the weights, and what lies beside it.

    Where no key is known to have them, it is the only one with a state dict; of several, all.
    Raises CorruptFile, UnreadableFile, or NotACheckpoint if there is none.
    """
    held = torch_zip.read_index(file)
    if isinstance(held, (list, tuple)):
        parts = {str(number): part for number, part in enumerate(held[:MAX_PARTS])}
        held = parts if len(held) <= MAX_PARTS and _states(parts) else held
    if isinstance(held, Placeholder):
        raise NotACheckpoint(
            f"{file}: holds a whole {tree.text_of(held.what)}, not its weights; save "
            "model.state_dict() instead"
        )
    if not isinstance(held, dict):
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    if _is_optimizer(held):
        raise NotACheckpoint(f"{file}: holds the state of an optimizer, not a model's weights")
    found = FoundWeights(held)
    for _ in range(MAX_DEPTH):
        if (key := _key(found.weights)) is None:
            break
        _leave(found, found.weights.keys() - {key})
        found.weights = found.weights[key]
        found.keys.append(tree.text_of(key))
    if not any(map(_is_tensor, found.weights.values())):
        found.several = _states(found.weights)
        if found.several:
            _leave(found, found.weights.keys() - set(found.several))
    _leave(found, {key for key, value in found.weights.items() if _is_optimizer(value)})
    return found


def names_beside(state: StateDict) -> list[str]:
    """Return the first part of the name of everything beside the weights, each once."""
    return list(dict.fromkeys(entry.name.partition(".")[0][:MOST_NAMED] for entry in state.beside))


def _key(held: dict[Any, Any]) -> Any:
    """Return the key of a dictionary under which the weights are; None if they are in itself."""
    known = next((key for key in NESTED if _holds_tensors(held, key)), None)
    if known is not None:
        return known
    if any(map(_is_tensor, held.values())):
        return None
    states = _states(held)
    return states[0] if len(states) == 1 else None


def _leave(found: FoundWeights, keys: Set[Any]) -> None:
    """Take these keys from the weights, as what lies beside them."""
    if keys:
        found.beside |= {tree.text_of(k): v for k, v in found.weights.items() if k in keys}
        found.weights = {k: v for k, v in found.weights.items() if k not in keys}


def _is_tensor(value: object) -> bool:
    return isinstance(value, (TensorRef, torch_zip.UnsupportedTensor))


def _states(held: dict[Any, Any]) -> list[str]:
    """Return the keys under which a dictionary has what can be the state dict of a model."""
    seen: dict[int, bool] = {}  # what is there under many keys is looked at once
    found = []
    for key, value in held.items():
        if isinstance(key, str) and isinstance(value, dict) and not _NO_MODEL.search(key):
            if id(value) not in seen:
                has_tensors = any(map(_is_tensor, value.values()))
                seen[id(value)] = has_tensors and all(isinstance(name, str) for name in value)
            if seen[id(value)]:
                found.append(key)
    return found


def _is_optimizer(value: object) -> bool:
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def _listed(keys: list[str]) -> str:
    words = ", ".join(shown(key) for key in keys[:_MAX_STATES])
    return words + (", …" if len(keys) > _MAX_STATES else "")


def _holds_tensors(held: dict[Any, Any], key: str, depth: int = MAX_DEPTH) -> bool:
    """Return whether a dictionary has tensors below this key, maybe under more such keys."""
    inner = held.get(key)
    if depth == 0 or not isinstance(inner, dict):
        return False
    return any(map(_is_tensor, inner.values())) or any(
        _holds_tensors(inner, other, depth - 1) for other in NESTED
    )
