"""Whether files, as they are written here, can hold every tensor of a model by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats.pickling import STORABLE

if TYPE_CHECKING:
    from ckptdiff.assembly.recipe import Assembled


def check_storable(side: Assembled) -> None:
    """Raise UnsupportedLayout if a tensor is of a dtype that such a file cannot hold."""
    for name, tensor in side.tensors.items():
        if tensor.dtype not in STORABLE:
            raise UnsupportedLayout(
                f"{side.checkpoint.root}: {name} is {tensor.dtype}, which a Megatron checkpoint "
                "cannot hold; convert it to another dtype first"
            )


def check_names(side: Assembled) -> None:
    """Raise UnsupportedLayout if a tensor has a name that a file of safetensors cannot hold."""
    for name in side.tensors:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UnsupportedLayout(
                f"{side.checkpoint.root}: the name {name!r} has half a surrogate pair, which no "
                "file of safetensors can hold; rename the tensor first"
            ) from error
