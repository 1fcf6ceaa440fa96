"""Checkpoints of DeepSpeed by hand, with chosen opcodes in the place of each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.deepspeed_runs import MODEL, OPTIMIZER, PART
from tests.support.hostile_torch import fragment, mapping, program, tensor, torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def _listed(*parts: bytes) -> bytes:
    return b"](" + b"".join(parts) + b"e"


def _zero3(
    model: Mapping[str, bytes] | None = None, optimizer: Mapping[str, bytes] | None = None
) -> Callable[[Path], Path]:
    """Return a maker of a save of one rank, with these entries in its two files."""
    states = {
        "module": mapping({"a": tensor((0,))}),
        "param_shapes": _listed(mapping({"a": fragment((2,))})),
        "shared_params": fragment({}),
        **(model or {}),
    }
    state = {
        "zero_stage": fragment(3),
        "partition_count": fragment(1),
        "fp32_flat_groups": _listed(tensor()),
        **(optimizer or {}),
    }

    def make(folder: Path) -> Path:
        (folder / PART.format(0)).write_bytes(torch_zip(program(mapping(states))))
        held = mapping({"optimizer_state_dict": mapping(state)})
        (folder / OPTIMIZER.format(0)).write_bytes(torch_zip(program(held)))
        return folder

    return make


def _plain(entries: Mapping[str, bytes]) -> Callable[[Path], Path]:
    """Return a maker of a save without ZeRO."""
    states = {"module": mapping({"a": tensor()}), **entries}

    def make(folder: Path) -> Path:
        (folder / MODEL).write_bytes(torch_zip(program(mapping(states))))
        return folder

    return make


def _universal(body: bytes) -> Callable[[Path], Path]:
    """Return a maker of a universal checkpoint with one weight, in whose file this lies."""

    def make(folder: Path) -> Path:
        (folder / "zero" / "a").mkdir(parents=True)
        (folder / "zero" / "a" / "fp32.pt").write_bytes(torch_zip(program(body)))
        return _zero3()(folder)

    return make


# Where an object of a pickle may lie.
PICKLE_PLACES: Mapping[str, Callable[[bytes], Callable[[Path], Path]]] = {
    "DeepSpeed's module": lambda body: _plain({"module": body}),
    "DeepSpeed's ranks": lambda body: _plain({"mp_world_size": body}),
    "param_shapes": lambda body: _zero3({"param_shapes": body}),
    "a shape in param_shapes": lambda body: _zero3({"param_shapes": _listed(mapping({"a": body}))}),
    "a name in param_shapes": lambda body: _zero3(
        {"param_shapes": _listed(b"}(" + body + fragment((2,)) + b"u")}
    ),
    "frozen fragments": lambda body: _zero3(
        {
            "frozen_param_shapes": mapping({"b": fragment((2,))}),
            "frozen_param_fragments": mapping({"b": body}),
        }
    ),
    "shared_params": lambda body: _zero3({"shared_params": mapping({"b": body})}),
    "partition_count": lambda body: _zero3(optimizer={"partition_count": body}),
    "a flat group": lambda body: _zero3(optimizer={"fp32_flat_groups": _listed(body)}),
    "param_alignment_paddings": lambda body: _zero3(
        optimizer={"param_alignment_paddings": _listed(_listed(body))}
    ),
    "a universal weight": _universal,
}
