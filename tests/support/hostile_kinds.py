"""Kinds of hostile content that a fuzzer does not find, and the places where each may lie.

They need nesting, sharing or size. A kind is opcodes that push one object of a pickle, or a text of
JSON or YAML; a place makes a checkpoint, or another file that is read, with it inside.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support import hostile_deepspeed, hostile_ranks
from tests.support.hostile import entry, safetensors
from tests.support.hostile_system import megatron, namespace, rank_file
from tests.support.hostile_torch import fragment, hf_bin, mapping, program, tensor, torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

P = 2**61 - 1  # Python's hash of all its multiples is 0
DEEP = 150_000
WIDE = "x" * 100_000


def instance(module: str, name: str, state: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"


def keys(*pushed: bytes) -> bytes:
    """Return the opcodes of a dictionary with these keys."""
    return b"}(" + b"".join(key + b"N" for key in pushed) + b"u"


def long_paths() -> bytes:
    """Dictionaries below a name of a hundred thousand characters, 25 deep, and many leaves."""
    text = WIDE.encode()
    key = b"X" + len(text).to_bytes(4, "little") + text + b"q\x63"
    again = b"h\x63"
    body = b"](" + b"](Ne" * 2000 + b"e"
    return key + b"0" + (b"}" + again) * 25 + body + b"s" * 25


def chosen_tuples(count: int) -> bytes:
    """Keys that are different tuples of one hash."""
    parts = [fragment(n * P) for n in range(3)]
    found = [b""]
    while len(found) < count:
        found = [part + rest for part in parts for rest in found]
    return keys(*(b"(" + inside + b"t" for inside in found[:count]))


# Opcodes that push one object.
OBJECTS: Mapping[str, bytes] = {
    "tuples, deep": b")" + b"\x85" * DEEP,
    "lists, deep": b"]" * DEEP + b"a" * (DEEP - 1),
    "dictionaries, deep": b"}K\1" * DEEP + b"N" + b"s" * DEEP,
    "calls, deep": b"cx\ny\n" + b")\x81" * DEEP,
    "arguments, deep": b"cx\ny\nq\1" + b"h\1" * 50_000 + b")" + b"\x81\x85" * 50_000,
    "frozen sets, deep": b"(" * 20_000 + b"\x91" * 20_000,
    "key of deep tuples": keys(b")" + b"\x85" * DEEP),
    "key of deep tuples, in a list of pairs": (
        b"ccollections\nOrderedDict\n](](" + b")" + b"\x85" * DEEP + b"Ne" + b"e\x85R"
    ),
    "set of deep tuples": b"\x8f()" + b"\x85" * DEEP + b"\x90",
    "tuples that share": b")" + b"2\x86" * 100,
    "lists that share": b"]" + b"".join(b"q\x09](h\x09h\x09e" for _ in range(100)),
    "keys that share": keys(b")" + b"2\x86" * 100),
    "a long list, many times": b"](" + b"K\x01" * 5000 + b"eq\x09" + b"](" + b"h\x09" * 5000 + b"e",
    "integers of one hash": keys(*(fragment(n * P) for n in range(60_000))),
    "complex numbers of one hash": b"cbuiltins\ncomplex\nq\x09"
    + keys(*(b"h\x09" + fragment((float(n), -n / 1000003)) + b"R" for n in range(60_000))),
    "tuples of one hash": chosen_tuples(60_000),
    "huge integer": fragment(10**5000),
    "key of a huge integer": keys(fragment(10**5000)),
    "huge integer in a list": b"](" + fragment(10**5000) + b"Ne",
    "not a number": fragment(float("-inf")),
    "long paths": long_paths(),
    "a class of a long name, many times": f"c{WIDE}\ny\nq\x09](".encode()
    + b"h\x09" * 50_000
    + b"e",
    "two keys of one text": b"}(" + fragment(1) + b"N" + fragment("1") + b"Nu",
    "half a surrogate pair": fragment("\ud800"),
    "key of half a surrogate pair": keys(fragment("\ud800\x1b[31m")),
    "long text": fragment("\U0001f600" + WIDE * 20),
    "encoding that shares": b"c_codecs\nencode\n"
    + fragment("a")
    + b")"
    + b"2\x86" * 100
    + b"\x86R",
    "number that is a long text": b"F" + b"x" * 1_000_000 + b"\n",
}

# Much of one opcode: objects that take far more than its bytes, whatever they are part of.
MANY: Mapping[str, bytes] = {
    "empty sets": b"(" + b"\x8f" * 6_000_000 + b"l",
    "empty dictionaries": b"(" + b"}" * 12_000_000 + b"l",
    "memo entries": b"N" + b"\x94" * 12_000_000,
    "calls": b"cx\ny\nq\1(" + b"h\1)R" * 3_000_000 + b"l",
}


def of_dcp(
    *,
    fqn: bytes | None = None,
    size: bytes | None = None,
    offset: bytes | None = None,
    start: bytes | None = None,
    path: bytes | None = None,
    kind: bytes | None = None,
    common: bytes | None = None,
    backend: bytes | None = b'{"sharded_backend": "torch_dist"}',
    keys: bytes | None = None,
    hashes: str | None = None,
) -> Callable[[Path], Path]:
    """Return a maker of a distributed checkpoint of one chunk, with these opcodes in its index."""
    module = "torch.distributed.checkpoint.metadata"
    fqn = fragment("a") if fqn is None else fqn
    offset = fragment((0,)) if offset is None else offset
    size = fragment((2,)) if size is None else size
    chunk = torch_zip(program(tensor()))
    places = mapping({"offsets": offset, "sizes": size})
    about = {
        "properties": instance(module, "TensorProperties", b"(ctorch\nfloat32\nt"),
        "size": size,
        "chunks": b"](" + instance(module, "ChunkStorageMetadata", places) + b"e",
    }
    described = instance(module, "TensorStorageMetadata", mapping(about)) if kind is None else kind
    index = instance(module, "MetadataIndex", mapping({"fqn": fqn, "offset": offset}))
    info = {
        "relative_path": fragment("x") if path is None else path,
        "offset": fragment(0) if start is None else start,
        "length": fragment(len(chunk)),
    }
    state = {
        "state_dict_metadata": b"}(" + fqn + described + b"u",
        "storage_data": b"}(" + index + instance(module, "StorageInfo", mapping(info)) + b"u",
        "planner_data": b"N" if keys is None else b"}(" + fqn + keys + b"u",
    }

    def make(folder: Path) -> Path:
        (folder / ".metadata").write_bytes(program(instance(module, "Metadata", mapping(state))))
        (folder / "x").write_bytes(chunk)
        if backend is not None:
            (folder / "metadata.json").write_bytes(backend)
        if hashes is not None:
            (folder / "integrity.json").write_text(hashes)
        if common is not None:
            (folder / "common.pt").write_bytes(torch_zip(program(common)))
        return folder

    return make


def of_shape(pushed: bytes) -> bytes:
    """Return the opcodes of a tensor whose shape and strides are what these opcodes push."""
    pid = b"(" + fragment("storage") + b"ctorch\nFloatStorage\n"
    pid += fragment("0") + fragment("cpu") + fragment(2) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\0" + pushed + pushed + b"\x89NtR"


def of_storage(kind: bytes, key: bytes, numel: bytes) -> bytes:
    pid = b"(" + fragment("storage") + kind + key + fragment("cpu") + numel + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\0K\1\x85K\1\x85\x89NtR"


def hf(body: bytes) -> Callable[[Path], Path]:
    return hf_bin(torch_zip(program(body)))


def _with(**more: bytes) -> bytes:
    return mapping({"a": tensor(), **more})


_MACHINE = fragment({"little_endian": True})  # that an old file was written on
# Where an object of a pickle may lie.
PICKLE_PLACES: Mapping[str, Callable[[bytes], Callable[[Path], Path]]] = {
    "a file of torch.save": hf,
    "beside the weights": lambda body: hf(mapping({"model": _with(), "epoch": body})),
    "among the weights": lambda body: hf(_with(b=body)),
    "a name of a weight": lambda body: hf(b"}(" + body + tensor() + b"u"),
    "a shape": lambda body: hf(mapping({"a": of_shape(body)})),
    "a reference to data": lambda body: hf(mapping({"a": body + b"Q"})),
    "the class of a storage": lambda body: hf(
        mapping({"a": of_storage(body, fragment("0"), fragment(2))})
    ),
    "the key of a storage": lambda body: hf(
        mapping({"a": of_storage(b"ctorch\nFloatStorage\n", body, fragment(2))})
    ),
    "the size of a storage": lambda body: hf(
        mapping({"a": of_storage(b"ctorch\nFloatStorage\n", fragment("0"), body)})
    ),
    "a class": lambda body: hf(_with(b=body + b")R")),
    "an old pickle": lambda body: _old_file(body, body),
    "what an old file holds": lambda body: _old_file(fragment(1001), _MACHINE, body, b"]"),
    "the keys of an old file": lambda body: _old_file(fragment(1001), _MACHINE, b"}", body),
    "the version of an old file": lambda body: _old_file(body, _MACHINE, b"}", b"]"),
    "an arg": lambda body: megatron(rank_file(args={"bf16": body})),
    "a size in args": lambda body: megatron(rank_file(args={"num_layers": body})),
    "the parallel size": lambda body: megatron(
        rank_file(args={"tensor_model_parallel_size": body})
    ),
    "a name of an arg": lambda body: megatron(
        rank_file({"args": instance("argparse", "Namespace", b"}(" + body + b"Nu")})
    ),
    "args": lambda body: megatron(rank_file({"args": body})),
    "the iteration": lambda body: megatron(rank_file({"iteration": body})),
    "the optimizer of a rank": lambda body: megatron(rank_file({"optimizer": body})),
    "in front of the optimizer": lambda body: megatron(
        torch_zip(program(b"}(" + body + b"N" + fragment("optimizer") + b"}u"))
    ),
    "the model of a rank": lambda body: megatron(rank_file({"model": body})),
    ".metadata": lambda body: of_dcp(kind=body),
    "a name in .metadata": lambda body: of_dcp(fqn=body),
    "a size in .metadata": lambda body: of_dcp(size=body),
    "offsets in .metadata": lambda body: of_dcp(offset=body),
    "a file's name in .metadata": lambda body: of_dcp(path=body),
    "a place in .metadata": lambda body: of_dcp(start=body),
    "the keys of a name in .metadata": lambda body: of_dcp(keys=body, backend=None),
    "a name in .metadata of no backend": lambda body: of_dcp(fqn=body, backend=None),
    "common.pt": lambda body: of_dcp(common=body),
    "args of common.pt": lambda body: of_dcp(
        common=mapping({"args": namespace({"num_layers": body, "x": body})})
    ),
    "the iteration of common.pt": lambda body: of_dcp(common=mapping({"iteration": body})),
    **hostile_ranks.PICKLE_PLACES,
    **hostile_deepspeed.PICKLE_PLACES,
}


def _old_file(*bodies: bytes) -> Callable[[Path], Path]:
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

    def make(folder: Path) -> Path:
        (folder / "pytorch_model.bin").write_bytes(magic + b"".join(map(program, bodies)))
        return folder

    return make


# Texts of JSON, each a value.
VALUES: Mapping[str, str] = {
    "lists, deep": "[" * DEEP + "]" * DEEP,
    "lists, less deep": "[" * 900 + "]" * 900,
    "objects, deep": '{"a":' * DEEP + "1" + "}" * DEEP,
    "objects, less deep": '{"a":' * 300 + "1" + "}" * 300,
    "unclosed": "[" * DEEP,
    "empty lists": "[" + "[]," * 4_000_000 + "1]",
    "empty objects": "[" + "{}," * 4_000_000 + "1]",
    "huge integer": "1" + "0" * 5000,
    "long integer": "1" + "0" * 4200,
    "larger than a float": "1" + "0" * 400,
    "not finite": "-Infinity",
    "not a number": "NaN",
    "overflow": "1e999",
    "million": "1000000",
    "trillion": "1000000000000",
    "negative": "-1",
    "half a surrogate pair": '"\\ud800\\u001b[31m"',
    "key of half a surrogate pair": '{"\\ud800": "\\ud800"}',
    "long text": json.dumps(WIDE * 20),
    "key twice": '{"a": 1, "a": 2}',
    "null": "null",
    "a list of many": "[" + "0," * 3_000_000 + "0]",
}

INDEX = "model.safetensors.index.json"


def _json(name: str, text: str) -> Callable[[Path], Path]:
    """Return a maker of a Hugging Face folder with this file."""

    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(safetensors({"a": entry()}))
        (folder / name).write_text(text)
        return folder

    return make


def _raw_header(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(safetensors(text.encode()))
        return folder

    return make


def _meta(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "consolidated.00.pth").write_bytes(torch_zip(program(_with())))
        (folder / "params.json").write_text(text)
        return folder

    return make


def _yaml(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "run_config.yaml").write_text(text)
        return of_dcp()(folder)

    return make


_ENTRY = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]'
JSON_PLACES: Mapping[str, Callable[[str], Callable[[Path], Path]]] = {
    "config.json": lambda v: _json("config.json", v),
    "a size in config.json": lambda v: _json(
        "config.json", f'{{"model_type": "llama", "num_hidden_layers": {v}, "hidden_size": {v}}}'
    ),
    "a field of config.json": lambda v: _json(
        "config.json", f'{{"model_type": "llama", "rope_scaling": {v}, "x": {v}}}'
    ),
    "an index": lambda v: _json(INDEX, f'{{"weight_map": {v}}}'),
    "a file in an index": lambda v: _json(INDEX, f'{{"weight_map": {{"a": {v}}}}}'),
    "beside an index": lambda v: _json(
        INDEX, f'{{"weight_map": {{"a": "model.safetensors"}}, "metadata": {v}}}'
    ),
    "generation_config.json": lambda v: _json("generation_config.json", f'{{"eos_token_id": {v}}}'),
    "tokenizer_config.json": lambda v: _json("tokenizer_config.json", f'{{"bos_token": {v}}}'),
    "tokenizer.json": lambda v: _json("tokenizer.json", f'{{"post_processor": {v}}}'),
    "a header": _raw_header,
    "an entry of a header": lambda v: _raw_header(f'{{"a": {v}}}'),
    "a shape in a header": lambda v: _raw_header(
        f'{{"a": {{"dtype": "F32", "shape": {v}, "data_offsets": [0, 8]}}}}'
    ),
    "a dtype in a header": lambda v: _raw_header(
        f'{{"a": {{"dtype": {v}, "shape": [2], "data_offsets": [0, 8]}}}}'
    ),
    "a spare field of a header": lambda v: _raw_header(f'{{"a": {_ENTRY}, "x": {v}}}}}'),
    "metadata of a header": lambda v: _raw_header(f'{{"__metadata__": {v}, "a": {_ENTRY}}}}}'),
    "params.json": lambda v: _meta(f'{{"dim": 2, "n_layers": {v}}}'),
    "metadata.json": lambda v: of_dcp(backend=v.encode()),
    "the backend in metadata.json": lambda v: of_dcp(
        backend=f'{{"sharded_backend": {v}}}'.encode()
    ),
    **hostile_ranks.JSON_PLACES,
    "integrity.json": lambda v: of_dcp(hashes=v),
    "the algorithm of hashes": lambda v: of_dcp(hashes=f'{{"algorithm": {v}, "files": {{}}}}'),
    "files with hashes": lambda v: of_dcp(hashes=f'{{"files": {v}}}'),
    "a hash": lambda v: of_dcp(hashes=f'{{"files": {{"x": {v}}}}}'),
}

# Texts of YAML, each a config of a model.
YAML: Mapping[str, str] = {
    "lists, deep": "model: " + "[" * DEEP,
    "lists, less deep": "model: {x: " + "[" * 90 + "]" * 90 + "}",
    "blocks, deep": "\n".join(" " * n + "a:" for n in range(1000)),
    "aliases that share": "a0: &a0 [x, x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 100))
    + "model: {x: *a99, num_layers: *a99}\n",
    "a list, many times": "x: &x ["
    + "1, " * 999
    + "1]\nmodel:\n"
    + "".join(f"  k{n}: *x\n" for n in range(100_000)),
    "itself": "model: &m {x: *m, num_layers: *m}\n",
    "integers of one hash": "model:\n" + "".join(f"  {n * P}: 1\n" for n in range(1, 60_000)),
    "a long number": "model: {num_layers: " + "0" * 200_000 + "x}",
    "huge integer": "model: {num_layers: 1" + "0" * 5000 + "}",
    "long text": f"model: {{num_layers: {WIDE * 20}}}",
    "long key": f"model: {{? {WIDE * 20} : 1}}",
    "half a surrogate pair": 'model: {num_layers: "\\ud800", "\\ud800": 1}',
    "not finite": "model: {num_layers: -.inf, hidden_size: .nan}",
    "key twice": "model: {num_layers: 1, num_layers: 2}",
    "many anchors": "".join(f"- &a{n} x\n" for n in range(100_000)),
    "open brackets and braces": "model: " + "{[" * 20_000,
    "a tag": f"model: !!python/object/apply:os.{WIDE} [x]",
}
YAML_PLACES: Mapping[str, Callable[[str], Callable[[Path], Path]]] = {"run_config.yaml": _yaml}
