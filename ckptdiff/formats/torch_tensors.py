"""Tensors in the pickles of torch.save: what its functions would make, from storages in a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import TensorRef
from ckptdiff.dtypes import BY_TORCH, ITEMSIZE
from ckptdiff.errors import CkptDiffError, CorruptFile
from ckptdiff.formats.inert import PLAIN, Global, told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptdiff.formats.inert import Builders

MAX_PICKLE = 1 << 28  # bytes; the largest real data.pkl seen is some MB
MAX_DIMS = 64  # torch's own limit
MAX_ARGUMENTS = 16  # of a function that makes a tensor; torch's have up to 8
MAX_COUNT = 1 << 62  # elements; nothing larger can be an index
# What the tensors of a file may claim in all, in bytes: tensors may share a storage, as tied ones
# do, and a stride of 0 repeats elements. In a file of a hundred bytes both could claim anything.
CLAIM, CLAIM_PER_BYTE = 1 << 28, 100

# Each storage class of torch, and the dtype of its elements as safetensors names it.
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage of one or several tensors: consecutive elements in the file."""

    dtype: str
    offset: int  # in bytes
    nbytes: int


@dataclass(frozen=True, slots=True)
class UnsupportedTensor:
    """A tensor that is not plain strided elements (sparse, quantised, an unknown dtype)."""

    what: str
    # Of a tensor of a class of its own: the class, and what it is made of, as in the pickle.
    kind: object = None
    state: object = None


def named(ref: TensorRef, name: str) -> TensorRef:
    """Return a ref under another name."""
    return TensorRef(name, ref.shape, ref.dtype, ref.file, ref.offset, ref.stride)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Put the file's name in front of the text of an error."""
    try:
        yield
    except CkptDiffError as error:
        raise type(error)(f"{file}: {error}") from error


class Tensors(ABC):
    """Makes refs of the tensors in one file, and counts what they claim."""

    fields_of_id = 5  # of a persistent id: `storage`, class, key, device, elements

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        self.size = size  # in bytes
        self.claimed = 0  # bytes, by the shapes of the tensors
        self.listed = 0  # sizes and strides that are lists, and copied

    @property
    def builders(self) -> Builders:
        """What is made of the calls in a pickle of torch.save."""
        return {
            **PLAIN,
            ("torch._utils", "_rebuild_tensor"): self._tensor_v2,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor_v2,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_v3,
            ("torch._tensor", "_rebuild_from_type_v2"): self._tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
            ("torch", "Size"): lambda sizes: tuple(sizes),
        }

    def storage(self, pid: object) -> Storage | UnsupportedTensor:
        """Return the storage that a persistent id names, which several tensors may share."""
        if not isinstance(pid, tuple) or len(pid) != self.fields_of_id or pid[0] != "storage":
            raise CorruptFile(f"a reference to data of an unknown kind: {told(pid)}")
        _, kind, key, _, numel = pid[:5]
        if type(key) is not str or type(numel) is not int:
            raise CorruptFile(f"a storage called {told(key)} of {told(numel)} elements")
        word = kind.name if isinstance(kind, Global) and kind.module.startswith("torch") else ""
        if word not in STORAGES:
            return UnsupportedTensor(f"{told(kind)} tensor")
        dtype = STORAGES[word]
        known = self._stored(key, dtype, numel)
        if numel < 0 or numel * ITEMSIZE[dtype] > known.nbytes:
            raise CorruptFile(
                f"storage {told(key)} claims {told(numel)} elements and has {known.nbytes} bytes"
            )
        return known if known.dtype == dtype else Storage(dtype, known.offset, known.nbytes)

    @abstractmethod
    def _stored(self, key: str, dtype: str, numel: int) -> Storage:
        """Return where a storage lies. Raises CorruptFile if it is not in the file."""

    def _tensor_v2(
        self, storage: object, offset: int, shape: object, stride: object, *_: object
    ) -> TensorRef | UnsupportedTensor:
        if isinstance(storage, UnsupportedTensor):
            return storage
        if not isinstance(storage, Storage):
            raise CorruptFile("a tensor without a storage")
        return self._ref(storage, storage.dtype, offset, shape, stride)

    def _tensor_v3(
        self, storage: object, offset: int, shape: object, stride: object, *rest: object
    ) -> TensorRef | UnsupportedTensor:
        dtype = next((g.name for g in rest if isinstance(g, Global) and g.module == "torch"), "")
        if dtype not in BY_TORCH or not isinstance(storage, Storage):
            return UnsupportedTensor(f"{dtype or 'unknown'} tensor")
        return self._ref(storage, BY_TORCH[dtype], offset, shape, stride)

    def _tensor_of_type(
        self, build: object, kind: object, arguments: object, state: object = None, *_: object
    ) -> TensorRef | UnsupportedTensor:
        """Return a tensor that was saved with attributes of its own: it is still that tensor."""
        plain = kind in (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))
        if not plain or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            return UnsupportedTensor(f"{told(kind)} tensor", kind, state)
        if build == Global("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor_v2(*arguments)
        if build == Global("torch._utils", "_rebuild_tensor_v3"):
            return self._tensor_v3(*arguments)
        return UnsupportedTensor(f"{told(build)} tensor")

    def _ref(
        self, storage: Storage, dtype: str, offset: object, shape: object, stride: object
    ) -> TensorRef:
        sizes, steps = self._sizes(shape), self._sizes(stride)
        if (
            sizes is None
            or steps is None
            or len(sizes) != len(steps)
            or type(offset) is not int
            or not 0 <= offset < MAX_COUNT
        ):
            raise CorruptFile(
                f"a tensor of shape {told(shape)}, strides {told(stride)} at element {told(offset)}"
            )
        itemsize = ITEMSIZE[dtype]
        end = offset + 1
        for size, step in zip(sizes, steps, strict=True):
            end += (size - 1) * step
        if end * itemsize > storage.nbytes and 0 not in sizes:
            raise CorruptFile(
                f"a tensor of shape {told(sizes)} with strides {told(steps)} at element {offset} "
                f"leaves its storage of {storage.nbytes} bytes"
            )
        self.claimed += prod(sizes) * itemsize
        if self.claimed > CLAIM + CLAIM_PER_BYTE * self.size:
            raise CorruptFile(
                f"a tensor of shape {told(sizes)} with strides {told(steps)}: the tensors claim "
                f"{told(self.claimed)} bytes in all, more than {CLAIM_PER_BYTE} for each of the "
                f"{self.size} that are there"
            )
        return TensorRef("", sizes, dtype, self.file, storage.offset + offset * itemsize, steps)

    def _sizes(self, value: object) -> tuple[int, ...] | None:
        """Return a shape or strides as a tuple; None if it is no short list of plausible counts."""
        if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMS:
            return None
        for n in value:
            if type(n) is not int or not 0 <= n < MAX_COUNT:
                return None
        if isinstance(value, tuple):
            return value
        self.listed += len(value)
        if self.listed > self.size:
            raise CorruptFile("its shapes repeat lists")
        return tuple(value)
