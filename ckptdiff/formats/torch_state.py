"""The state dict in a file of torch.save, under whatever key it lies, and what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Entry, TensorRef
from ckptdiff.errors import CkptDiffError, NotACheckpoint, UnsupportedLayout
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.inert import Placeholder

if TYPE_CHECKING:
    from pathlib import Path

# The keys under which training programs put the weights: PyTorch Lightning, nanoGPT and others,
# the PyTorch tutorials, DeepSpeed.
NESTED = ("state_dict", "model", "model_state_dict", "module")
MAX_DEPTH = 3  # such keys one below the other
MOST_NAMED = 100  # characters of a name beside the weights that are told
_DISTRIBUTED = ("DTensor", "ShardedTensor")  # each file holds one rank's part of every tensor


@dataclass(frozen=True, slots=True)
class StateDict:
    """What one file holds."""

    tensors: dict[str, TensorRef]
    beside: tuple[Entry, ...]  # values and tensors that are no weights: epoch, optimizer, …


def read_state_dict(file: Path) -> StateDict:
    """Return the weights in a file of torch.save, and everything else in it.

    Raises CorruptFile, UnreadableFile, NotACheckpoint if it holds no dictionary of tensors, or
    UnsupportedLayout for tensors that are not plain.
    """
    weights, outer = find_weights(file)
    try:
        tensors = tree.weights(weights)
    except CkptDiffError as error:
        if any(kind in str(error) for kind in _DISTRIBUTED):
            raise UnsupportedLayout(
                f"{file}: holds one rank's part of every tensor (DTensor). Merge the ranks first, "
                "with the program that trained it, and give the merged folder"
            ) from error
        raise type(error)(f"{file}: {error}") from error
    if not tensors:
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    beside = tree.extra_states(weights)
    for name, value in outer.items():
        beside += tree.entries(name, value)
    return StateDict(tensors, tuple(beside))


def find_weights(file: Path) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the dictionary in a file that has the weights, and what lies beside it by key.

    Raises CorruptFile, UnreadableFile, or NotACheckpoint if there is none.
    """
    outer: dict[str, Any] = {}
    weights = torch_zip.read_index(file)
    for _ in range(MAX_DEPTH):
        key = next((key for key in NESTED if _holds_tensors(weights, key)), None)
        if key is None:
            break
        outer |= {tree.text_of(name): value for name, value in weights.items() if name != key}
        weights = weights[key]
    if isinstance(weights, Placeholder):
        raise NotACheckpoint(
            f"{file}: holds a whole {tree.text_of(weights.what)}, not its weights; save "
            "model.state_dict() instead"
        )
    if not isinstance(weights, dict):
        raise NotACheckpoint(f"{file}: holds no dictionary of tensors")
    return weights, outer


def names_beside(state: StateDict) -> list[str]:
    """Return the first part of the name of everything beside the weights, each once."""
    return list(dict.fromkeys(entry.name.partition(".")[0][:MOST_NAMED] for entry in state.beside))


def _holds_tensors(tree_: object, key: str) -> bool:
    """Return whether a dictionary has tensors below this key, maybe under one more such key."""
    inner = tree_.get(key) if isinstance(tree_, dict) else None
    if not isinstance(inner, dict):
        return False
    return any(
        isinstance(value, (TensorRef, torch_zip.UnsupportedTensor)) for value in inner.values()
    ) or any(_holds_tensors(inner, other) for other in NESTED)
