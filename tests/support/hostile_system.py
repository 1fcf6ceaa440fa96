"""Paths that are not what they seem: pipes, devices, loops, folders that hold nothing."""

from __future__ import annotations

import os
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.support.hostile import GOOD as GOOD_HEADER
from tests.support.hostile import Hostile, indexed, safetensors
from tests.support.hostile_torch import fragment, mapping, program, tensor, torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TRACKER = "latest_checkpointed_iteration.txt"
RANK = "iter_0000001/mp_rank_00/model_optim_rng.pt"


def namespace(fields: Mapping[str, bytes]) -> bytes:
    """Return the opcodes of an argparse.Namespace whose fields these opcodes push."""
    return b"cargparse\nNamespace\n)\x81" + mapping(fields) + b"b"


ARGS: Mapping[str, object] = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "num_layers": 1,
    "hidden_size": 4,
    "ffn_hidden_size": 4,
    "num_attention_heads": 1,
    "num_query_groups": 1,
    "group_query_attention": True,
    "kv_channels": 4,
    "padded_vocab_size": 2,
    "vocab_size": 2,
    "swiglu": True,
    "normalization": "RMSNorm",
    "untie_embeddings_and_output_weights": False,
}


def rank_file(
    top: Mapping[str, bytes] = MappingProxyType({}),
    args: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """Return a rank file of one tensor, with these opcodes in its tree and in its arguments."""
    name = "embedding.word_embeddings.weight"
    weight = tensor(shape=(2, 4), stride=(4, 1), numel=8)
    fields = {**{key: fragment(value) for key, value in ARGS.items()}, **args}
    tree = {
        "args": namespace(fields),
        "checkpoint_version": fragment(3.0),
        "iteration": fragment(1),
        "model": mapping({name: weight}),
    }
    return torch_zip(program(mapping({**tree, **top})), {"0": bytes(32)})


def megatron(content: bytes, *, tracker: bytes = b"1") -> Callable[[Path], Path]:
    """Return a maker of a Megatron checkpoint of one rank."""

    def make(folder: Path) -> Path:
        (folder / RANK).parent.mkdir(parents=True)
        (folder / RANK).write_bytes(content)
        (folder / TRACKER).write_bytes(tracker)
        return folder

    return make


def special(kind: str, name: str, beside: Callable[[Path], Path] | None) -> Callable[[Path], Path]:
    """Return a maker of a checkpoint in which `name` is a pipe, a loop, a device or a folder."""

    def make(folder: Path) -> Path:
        if beside is not None:
            beside(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                here = os.open(path.parent, os.O_RDONLY)
                server.bind(f"/proc/self/fd/{here}/{name.rpartition('/')[2]}")  # a short path
                os.close(here)
        elif kind == "dangling link":
            path.symlink_to("nowhere")
        else:
            path.mkdir()
        return folder

    return make


KINDS = ("pipe", "loop", "device", "socket", "dangling link", "folder")
NOT_READ = ("UnreadableFile", "NotACheckpoint", "MissingShard", "CorruptFile")
# A link to nothing may count as no such file, where a checkpoint does without.
OPTIONAL = dict.fromkeys(("index", "config", "tracker"), (*NOT_READ, ""))
GOOD_FOLDER = indexed({"a": "one.safetensors"})
GOOD_RANK = megatron(rank_file())

PLACES: Mapping[str, tuple[str, Callable[[Path], Path] | None]] = {
    "weights": ("model.safetensors", None),
    "weights of an index": ("one.safetensors", GOOD_FOLDER),
    "index": ("model.safetensors.index.json", GOOD_FOLDER),
    "config": ("config.json", GOOD_FOLDER),
    "torch weights": ("pytorch_model.bin", None),
    "tracker": (TRACKER, GOOD_RANK),
    "rank": (RANK, GOOD_RANK),
}


def itself(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        special(kind, "it", None)(folder)
        return folder / "it"

    return make


def unrelated(folder: Path) -> Path:
    (folder / "README.md").write_text("nothing here")
    (folder / "notes.pt").write_text("nothing here")
    return folder


def tracker(content: bytes) -> Callable[[Path], Path]:
    return megatron(rank_file(), tracker=content)


def huge_tracker(folder: Path) -> Path:
    tracker(b"")(folder)
    os.truncate(folder / TRACKER, 1 << 40)
    return folder


def led_astray(folder: Path) -> Path:
    """A checkpoint whose tracker leads to one outside of it."""
    megatron(rank_file())(folder)
    inner = folder / "inner"
    inner.mkdir()
    (inner / TRACKER).write_text("../iter_0000001")
    return inner


def many_ranks(folder: Path) -> Path:
    megatron(rank_file(args={"tensor_model_parallel_size": fragment(10**9)}))(folder)
    return folder


def truncated(content: bytes, name: str, keep: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content[: int(len(content) * keep)])
        return folder

    return make


WHOLE_SAFETENSORS = safetensors(GOOD_HEADER)
WHOLE_BIN = torch_zip(program(mapping({"a": tensor()})))

SYSTEM = [
    *(
        Hostile(f"{kind} for {place}", special(kind, name, beside), OPTIONAL.get(place, NOT_READ))
        for place, (name, beside) in PLACES.items()
        for kind in KINDS
    ),
    *(Hostile(f"{kind} itself", itself(kind), NOT_READ) for kind in KINDS),
    Hostile("empty folder", lambda folder: folder, ("NotACheckpoint",)),
    Hostile("folder of something else", unrelated, ("NotACheckpoint",)),
    Hostile("path that is not there", lambda f: f / "nowhere", ("NotACheckpoint", "MissingShard")),
    Hostile("path through a file", lambda f: indexed({})(f) / "one.safetensors" / "x", NOT_READ),
    Hostile("name that is too long", lambda folder: folder / ("x" * 5000), NOT_READ),
    Hostile("tracker of nothing", tracker(b""), NOT_READ),
    Hostile("tracker of another iteration", tracker(b"7"), NOT_READ),
    Hostile("tracker below zero", tracker(b"-1"), NOT_READ),
    Hostile("tracker of a thousand digits", tracker(b"1" * 1000), NOT_READ),
    Hostile("tracker of many thousand digits", tracker(b"1" * 5000), NOT_READ),
    Hostile("tracker of text", tracker(b"latest"), NOT_READ),
    Hostile("tracker that is not UTF-8", tracker(b"\xff\xfe1"), NOT_READ),
    Hostile("tracker with a null", tracker(b"1\0"), NOT_READ),
    Hostile("tracker that leads out", led_astray, NOT_READ),
    Hostile("tracker that leads to a file", tracker(b"iter_0000001/mp_rank_00"), NOT_READ),
    Hostile("tracker of a terabyte", huge_tracker, NOT_READ),
    Hostile("a billion ranks and one file", many_ranks, ("MissingShard", "UnsupportedLayout")),
    *(
        Hostile(f"{name} cut to {keep:.0%}", truncated(content, name, keep))
        for name, content in (
            ("model.safetensors", WHOLE_SAFETENSORS),
            ("pytorch_model.bin", WHOLE_BIN),
            (RANK, rank_file()),
        )
        for keep in (0, 0.1, 0.5, 0.9, 0.99)
    ),
]
