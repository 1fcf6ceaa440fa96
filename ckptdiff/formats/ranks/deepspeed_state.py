"""What the file of a model's states says in a DeepSpeed checkpoint, and its universal weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Chunk, TensorRef, contiguous
from ckptdiff.errors import CorruptFile, MissingShard, UnsupportedLayout
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.files import each_file
from ckptdiff.formats.ranks.deepspeed_files import FP32, UNIVERSAL
from ckptdiff.formats.ranks.deepspeed_flat import shapes_of
from ckptdiff.formats.wholes import Whole
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptdiff.formats.files import Progress
    from ckptdiff.formats.ranks.deepspeed_flat import Shapes

_MAX_RANKS = 1 << 32
_MAX_WEIGHTS = 1_000_000  # folders of a universal checkpoint
_FOLDING = "folding"  # what an expert's file says of its ranks
# Who holds the weights, as the keys of what lies beside them say: not listed twice.
_OF_WEIGHTS = ("module", "param_shapes", "frozen_param_shapes", "frozen_param_fragments")


@dataclass(frozen=True, slots=True)
class ModelState:
    """A file `…_model_states.pt`."""

    file: Path
    tree: Mapping[Any, Any]
    module: dict[str, TensorRef]  # of ZeRO-3 without elements, but for buffers
    groups: list[Shapes]  # of the parameters that were trained
    frozen: Shapes

    @property
    def trained(self) -> Shapes:
        """The shapes of the parameters that were trained, by name."""
        return {name: shape for group in self.groups for name, shape in group.items()}

    @property
    def filled(self) -> dict[str, TensorRef]:
        """The tensors of the module that have elements here."""
        return {name: ref for name, ref in self.module.items() if prod(ref.shape)}

    @property
    def fragments(self) -> Mapping[Any, Any]:
        """A rank's parts of the frozen parameters in ZeRO-3."""
        found = self.tree.get("frozen_param_fragments")
        return found if isinstance(found, dict) else {}

    @property
    def shared(self) -> dict[str, str]:
        """The parameters that are another one, by name, and the name of that."""
        found = self.tree.get("shared_params")
        pairs = found.items() if isinstance(found, dict) else ()
        return {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, str)}

    @property
    def steps(self) -> int | None:
        found = self.tree.get("global_steps")
        return found if type(found) is int and abs(found) < torch_zip.MAX_COUNT else None

    def size(self, key: str, degree: str = "") -> int:
        """Return a number of ranks that it states: 1 if it states none."""
        degrees = self.tree.get("checkpoint_parallel_dimensions")
        of_degree = degrees.get(degree) if isinstance(degrees, dict) else None
        stated = self.tree.get(key), of_degree
        return max((n for n in stated if type(n) is int and 0 < n < _MAX_RANKS), default=1)

    def beside(self) -> dict[str, Any]:
        """Return what it holds beside the weights, by key."""
        return {tree.text_of(k): v for k, v in self.tree.items() if k not in _OF_WEIGHTS}


def read_model(file: Path) -> ModelState:
    """Return what a file of model states holds, from headers.

    Raises CorruptFile, UnreadableFile or UnsupportedLayout.
    """
    found = torch_zip.read_index(file)
    if not isinstance(found, dict) or "module" not in found:
        raise CorruptFile(f"{file}: holds no model of DeepSpeed: it has no entry `module`")
    module = found["module"]
    if module is None:  # that of a pipeline
        module = {}
    if not isinstance(module, dict):
        raise CorruptFile(f"{file}: its entry `module` is {tree.text_of(module)}, no state dict")
    try:
        tensors = tree.weights(module)
    except (CorruptFile, UnsupportedLayout) as error:
        raise type(error)(f"{file}: {error}") from error
    groups = found.get("param_shapes")
    frozen = found.get("frozen_param_shapes")
    return ModelState(
        file,
        found,
        tensors,
        [] if groups is None else shapes_of(groups, file),
        shapes_of(frozen, file)[0] if isinstance(frozen, dict) else {},
    )


def as_stored(name: str, ref: TensorRef) -> Whole:
    """Return a tensor that lies in one piece as a whole of one chunk."""
    return Whole(name, ref.shape, ref.dtype, (Chunk(ref, tuple((0, n) for n in ref.shape)),))


def universal_names(folder: Path) -> list[str]:
    """Return the names of the weights in a universal checkpoint, each a folder's name."""
    names = [child.name for child in (folder / UNIVERSAL).iterdir() if child.is_dir()]
    if len(names) > _MAX_WEIGHTS:
        raise CorruptFile(f"{folder / UNIVERSAL}: holds more weights than there can be")
    return sorted(names)


def read_universal(
    folder: Path, shapes: Shapes | None, progress: Progress | None, kind: str = FP32
) -> dict[str, TensorRef]:
    """Return the weights in `zero/NAME/KIND.pt` by name.

    Those of ZeRO-3 are stored flat, and have the shapes that are given; None if nothing states
    shapes. Raises CorruptFile, MissingShard or UnreadableFile.
    """
    files = {folder / UNIVERSAL / name / f"{kind}.pt": name for name in universal_names(folder)}
    present = [file for file in files if file.is_file()]
    return {
        files[file]: _of_universal(file, files[file], held, shapes)
        for file, held in each_file(present, torch_zip.read_index, progress)
    }


def _of_universal(file: Path, name: str, held: object, shapes: Shapes | None) -> TensorRef:
    """Return the tensor in a file of a universal checkpoint, in its shape."""
    found = held.get("param") if isinstance(held, dict) else held
    if not isinstance(found, TensorRef):
        raise CorruptFile(f"{file}: holds no tensor")
    if shapes is None and not isinstance(held, dict):
        raise MissingShard(
            f"{file}: is stored flat, and no *_model_states.pt beside {UNIVERSAL} states its "
            "shape. Copy those too"
        )
    shape = (shapes or {}).get(name, found.shape)
    if shape == found.shape or isinstance(held, dict):
        return torch_zip.named(found, name)
    if prod(shape) != prod(found.shape) or found.stride != contiguous(found.shape):
        raise CorruptFile(
            f"{file}: holds {shown(prod(found.shape))} elements, and the model's file states "
            f"{shown(list(shape))}"
        )
    return TensorRef(name, shape, found.dtype, found.file, found.offset, contiguous(shape))


def renamed(name: str, whole: Whole) -> Whole:
    """Return a tensor that is another one under a second name."""
    chunks = tuple(Chunk(torch_zip.named(chunk.ref, name), chunk.box) for chunk in whole.chunks)
    return Whole(name, whole.shape, whole.dtype, chunks)


def read_expert(file: Path) -> dict[str, TensorRef]:
    """Return the tensors in the file of one expert: its names say which expert it is."""
    found = torch_zip.read_index(file)
    if not isinstance(found, dict):
        raise CorruptFile(f"{file}: holds no dictionary of tensors")
    try:
        return tree.weights({name: value for name, value in found.items() if name != _FOLDING})
    except (CorruptFile, UnsupportedLayout) as error:
        raise type(error)(f"{file}: {error}") from error


def check_experts(
    folder: Path, files: Mapping[tuple[int, int], Path], state: Mapping[Any, Any]
) -> None:
    """Raise MissingShard unless there is a file for each expert that the model's file promises."""
    counts, layers = state.get("num_experts"), state.get("ds_autoep_layers")
    promised: list[tuple[Any, Any]] = []
    promised += enumerate(counts) if isinstance(counts, list) else ()
    for entry in layers if isinstance(layers, list) else ():
        if isinstance(entry, dict):
            promised.append((entry.get("moe_layer_id"), entry.get("num_experts")))
    for layer, count in promised:
        there = sum(of == layer for of, _ in files)
        if type(count) is int and type(layer) is int and there < count:
            raise MissingShard(
                f"{folder}: {there} of the {shown(count)} files layer_{shown(layer)}_expert_… are "
                "here, which hold the experts of a layer. Copy the others too"
            )
