"""The writer of torch.save's format against the real torch.load, the reader against torch.save."""

from __future__ import annotations

import pickletools
import zipfile
from argparse import Namespace
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdiff.checkpoint import TensorRef
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import CorruptFile
from ckptdiff.formats import torch_save
from ckptdiff.formats.inert import Global, Placeholder
from ckptdiff.formats.torch_save import Data
from ckptdiff.formats.torch_zip import UnsupportedTensor, read_index

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.mostly_slow(one_in=4)
# What each word of the safetensors format is called in torch.
TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip
WITHOUT_STORAGE_CLASS = {"U16", "U32", "U64", "F8_E4M3", "F8_E5M2", "F8_E8M0"}
WRITABLE = sorted(set(TORCH) - WITHOUT_STORAGE_CLASS)


def load(file: Path) -> Any:
    with torch.serialization.safe_globals([Namespace]):
        whole = torch.load(file, weights_only=True)
        mapped = torch.load(file, weights_only=True, mmap=True)
    assert str(whole) == str(mapped)
    return mapped


def raw(tensor: Tensor) -> bytes:
    """Return a tensor's bytes, row-major."""
    whole = tensor.clone(memory_format=torch.contiguous_format)
    return bytes(whole.flatten().view(torch.uint8).numpy())


def sample(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    return (torch.randn(shape, generator=generator) * 9).abs().to(dtype)


# The writer


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4), (0,), (0, 3)])
@pytest.mark.parametrize("dtype", WRITABLE)
def test_torch_loads_what_was_written(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = sample(shape, TORCH[dtype])
    torch_save.save({"w": Data(dtype, shape, raw(tensor))}, tmp_path / "f.pt")
    loaded = load(tmp_path / "f.pt")["w"]
    assert loaded.dtype == TORCH[dtype]
    assert loaded.shape == shape
    assert torch.equal(loaded, tensor)
    assert loaded.is_contiguous()


def test_a_dtype_without_a_storage_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises((KeyError, TypeError)):
        torch_save.save({"w": Data("F8_E4M3", (1,), b"\0")}, tmp_path / "f.pt")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 31), (1 << 31) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.é", max_size=3), inner),
    max_leaves=12,
)


@given(tree=st.dictionaries(st.text("abc", min_size=1, max_size=3), plain, max_size=4))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_plain_values_come_back_as_they_were(tmp_path: Path, tree: dict[str, Any]) -> None:
    file = tmp_path / "f.pt"
    torch_save.save(tree, file)
    loaded = torch.load(file, weights_only=True)
    assert loaded == tree
    assert repr(loaded) == repr(tree)  # True is not 1, -0.0 is not 0.0
    assert repr(read_index(file)) == repr(tree)


def test_arguments_are_written_as_a_namespace(tmp_path: Path) -> None:
    args = Namespace(hidden_size=64, swiglu=True, rotary_base=10000.0, names=["a"], none=None)
    torch_save.save({"args": args, "model": {"w": Data("U8", (2,), b"ab")}}, tmp_path / "f.pt")
    assert load(tmp_path / "f.pt")["args"] == args


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()])
def test_what_cannot_be_written_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        torch_save.save({"x": value}, tmp_path / "f.pt")


def test_the_file_is_laid_out_as_torch_lays_it_out(tmp_path: Path) -> None:
    tensors = {f"w{n}": sample((n, 3), torch.float32) for n in range(1, 9)}
    ours, theirs = tmp_path / "ours/f.pt", tmp_path / "theirs/f.pt"
    for file in (ours, theirs):
        file.parent.mkdir()
    tree = {name: Data("F32", tuple(t.shape), raw(t)) for name, t in tensors.items()}
    torch_save.save(tree, ours)
    torch.save(tensors, theirs)
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        assert set(one.namelist()) <= set(other.namelist())
        for n in range(8):
            name = f"f/data/{n}"
            assert one.read(name) == other.read(name)
        assert one.testzip() is None
        assert {info.compress_type for info in one.infolist()} == {zipfile.ZIP_STORED}
        opcodes = [list(pickletools.genops(z.read("f/data.pkl"))) for z in (one, other)]
    assert opcodes[0][0][1] == opcodes[1][0][1] == 2  # the protocol
    for file in (ours, theirs):
        offsets = [ref.offset for ref in read_index(file).values()]
        assert [offset % 64 for offset in offsets] == [0] * 8, file


# The reader


def stored(ref: TensorRef) -> np.ndarray[Any, Any]:
    """Read a tensor where the reader says it lies, by numpy, as unsigned integers."""
    size = ITEMSIZE[ref.dtype]
    if 0 in ref.shape:
        return np.empty(ref.shape, f"<u{size}")  # it may start anywhere, even behind the file
    if 0 in ref.shape:
        return np.empty(ref.shape, f"<u{size}")
    content = np.fromfile(ref.file, np.uint8)
    start = ref.offset
    strides = [step * size for step in ref.stride]
    words = np.ndarray(ref.shape, f"<u{size}", content, start, strides)
    return np.array(words)


def assert_stored(ref: object, tensor: Tensor) -> None:
    assert isinstance(ref, TensorRef)
    assert TORCH[ref.dtype] == tensor.dtype
    assert ref.shape == tuple(tensor.shape)
    assert stored(ref).tobytes() == raw(tensor)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_offsets_of_what_torch_wrote_give_the_right_bytes(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    tensor = sample(shape, torch.float32).to(TORCH[dtype])
    torch.save({"before": torch.ones(3), "w": tensor}, tmp_path / "f.pt")
    index = read_index(tmp_path / "f.pt")
    assert index["w"].dtype == dtype
    assert_stored(index["w"], tensor)


def views() -> dict[str, Tensor]:
    base = sample((12, 10), torch.bfloat16)
    return {
        "rows": base[3:7],
        "columns": base[:, 2:5],
        "transposed": base.t(),
        "part, transposed": base[2:9, 1:4].t(),
        "every other": base[::2, ::3],
        "one row": base[5],
        "one column": base[:, 5],
        "one element": base[5, 5],
        "the last": base[11:, 9:],
        "permuted": sample((2, 3, 4), torch.float32).permute(2, 0, 1),
        "expanded": torch.ones(4, 1).expand(4, 5),
        "nothing": base[:0],
    }


@pytest.mark.parametrize("name", views())
def test_views_are_found_inside_their_storage(tmp_path: Path, name: str) -> None:
    tensors = views()
    torch.save(tensors, tmp_path / "f.pt")
    ref = read_index(tmp_path / "f.pt")[name]
    assert_stored(ref, tensors[name])
    if tensors[name].numel():
        assert ref.stride == tensors[name].stride()


def test_tensors_that_share_a_storage_lie_in_the_same_bytes(tmp_path: Path) -> None:
    base = sample((6, 4), torch.float32)
    torch.save({"a": base, "b": base, "c": base[2:]}, tmp_path / "f.pt")
    index = read_index(tmp_path / "f.pt")
    assert index["a"] == index["b"]
    assert index["c"].offset - index["a"].offset == 2 * 4 * 4


@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    dtype=st.sampled_from(sorted(TORCH)),
    data=st.data(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_slice_of_any_tensor_is_found(
    tmp_path: Path, shape: list[int], dtype: str, data: st.DataObject
) -> None:
    tensor = sample(tuple(shape), torch.float32).to(TORCH[dtype])
    for dim, size in enumerate(shape):
        start = data.draw(st.integers(0, size))
        tensor = tensor.narrow(dim, start, data.draw(st.integers(0, size - start)))
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    torch.save([tensor], tmp_path / "f.pt")
    assert_stored(read_index(tmp_path / "f.pt")[0], tensor)


def test_parameters_and_nested_containers_are_walked(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(sample((3, 2), torch.float32))
    quiet = torch.nn.Parameter(sample((2,), torch.bfloat16), requires_grad=False)
    tree = {
        "parameters": OrderedDict(weight=weight, quiet=quiet),
        "deep": {"list": [1, (weight.data[1:], "x"), {3: quiet.data}]},
        "size": weight.shape,
        "numbers": [None, True, 2**70, -1, 1.5, float("inf"), b"bytes", {1, 2}, 1j],
    }
    torch.save(tree, tmp_path / "f.pt")
    index = read_index(tmp_path / "f.pt")
    assert list(index) == list(tree)
    assert_stored(index["parameters"]["weight"], weight.data)
    assert_stored(index["parameters"]["quiet"], quiet.data)
    assert_stored(index["deep"]["list"][1][0], weight.data[1:])
    assert index["deep"]["list"][1][1] == "x"
    assert_stored(index["deep"]["list"][2][3], quiet.data)
    assert index["size"] == (3, 2)
    assert index["numbers"] == tree["numbers"]


def test_attributes_of_a_tensor_do_not_hide_it(tmp_path: Path) -> None:
    """Megatron marks its parameters, as by `tensor_model_parallel`."""
    marked = {"parameter": torch.nn.Parameter(torch.ones(3)), "tensor": torch.ones(2)}
    for tensor in marked.values():
        tensor.tensor_model_parallel = True  # type: ignore[attr-defined]
    torch.save(marked, tmp_path / "f.pt")
    index = read_index(tmp_path / "f.pt")
    assert_stored(index["parameter"], torch.ones(3))
    assert_stored(index["tensor"], torch.ones(2))


def test_a_module_saved_whole_shows_its_weights_and_runs_nothing(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    torch.save({"module": module}, tmp_path / "f.pt")
    found = read_index(tmp_path / "f.pt")["module"]
    assert isinstance(found, Placeholder)
    assert str(found.what).endswith("Linear") or "Linear" in str(found.args)
    assert isinstance(found.state, dict)
    assert_stored(found.state["_parameters"]["weight"], module.weight.data)


def test_arguments_and_dtypes_are_names_that_were_never_looked_up(tmp_path: Path) -> None:
    args = Namespace(params_dtype=torch.float32, device=torch.device("cpu"), size=3)
    torch.save({"args": args}, tmp_path / "f.pt")
    found = read_index(tmp_path / "f.pt")["args"]
    assert found.what == Global("argparse", "Namespace")
    assert found.state["params_dtype"] == Global("torch", "float32")
    assert found.state["size"] == 3


def test_a_sparse_tensor_has_no_plain_bytes(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "f.pt")
    assert not isinstance(read_index(tmp_path / "f.pt")["w"], TensorRef)


def test_a_complex_tensor_has_a_dtype_that_is_not_known(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, dtype=torch.complex128)}, tmp_path / "f.pt")
    assert isinstance(read_index(tmp_path / "f.pt")["w"], UnsupportedTensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_can_write_is_read(tmp_path: Path, protocol: int) -> None:
    weight = sample((4, 3), torch.bfloat16)
    tree = {"w": weight, "n": [1, 2.5, "text é", None, (True, {})], "b": b"xyz", "s": {1}}
    torch.save(tree, tmp_path / "f.pt", pickle_protocol=protocol)
    index = read_index(tmp_path / "f.pt")
    assert_stored(index.pop("w"), weight)
    assert index == {key: value for key, value in tree.items() if key != "w"}


@pytest.mark.parametrize("kept", [0, 10, 100, 2000, -200, -30, -1])
def test_a_file_that_was_cut_off_is_refused_by_its_name(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "f.pt"
    torch.save({"w": torch.ones(2000)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CorruptFile, match=r"f\.pt"):
        read_index(file)
